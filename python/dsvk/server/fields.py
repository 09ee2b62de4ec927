"""Request fields as pydantic reads them, for every wire format: strict types, null is absent, unknown fields are ignored."""
from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, got {type(value).__name__}")
        return {name: member for name, member in value.items() if member is not None}


def joined(value: Any) -> str:
    """Content: a text, or text parts in their order."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError(f"expected text or a list of text parts, got {type(value).__name__}")
    text = ""
    for i, part in enumerate(value):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise ValueError(f"part {i}: expected an object with a type")
        if part["type"] != "text":
            raise ValueError(f"part {i}: this model reads text only, got a part of type {part['type'][:40]!r}")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"part {i}: expected text in its field text")
        text += part["text"]
    return text


Content = Annotated[str, BeforeValidator(joined)]


class CalledFunction(Fields):
    name: str
    arguments: str


class ToolCall(Fields):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Fields):
    """One message of OpenAI's chat format."""
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    prefix: bool = False


class Function(Fields):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class Tool(Fields):
    type: Literal["function"]
    function: Function


class NamedTool(NamedTuple):
    """The one tool that has to be called."""
    name: str


def tool_choice(value: Any) -> str | NamedTool:
    if value in ("none", "auto", "required"):
        return value
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError('expected "none", "auto", "required" or {"type": "function", "function": {"name": ...}}')
    return NamedTool(function["name"])


ToolChoice = Annotated[Any, BeforeValidator(tool_choice)]


class Thinking(Fields):
    type: Literal["enabled", "disabled", "adaptive"]


class StreamOptions(Fields):
    include_usage: bool = False


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema"]
