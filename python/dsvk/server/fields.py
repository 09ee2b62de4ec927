"""Request fields as pydantic reads them, for every wire format: strict types, null is absent, unknown fields are ignored."""
from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from . import limits, names
from .engine import Engine
from .errors import bad, of_validation


class Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, got {type(value).__name__}")
        return {name: member for name, member in value.items() if member is not None}


Body = TypeVar("Body", bound=Fields)


def validated(kind: type[Body], engine: Engine, body: dict[str, Any]) -> Body:
    """The body as a request of this kind, for a model that is served here."""
    try:
        request = kind.model_validate(body)
    except ValidationError as error:
        raise of_validation(error) from None
    names.require(engine, getattr(request, "model"))
    return request


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
    """_place: what error messages call its id."""
    _place: str = PrivateAttr("")
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Fields):
    """One message of OpenAI's chat format; other formats are turned into these. _place, _id_place: what error messages call it
    and its tool_call_id."""
    _place: str = PrivateAttr("")
    _id_place: str = PrivateAttr("")
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
    """_text: what the text of a free-text tool follows, which only the Responses format has (dsvk.dsml.Tool)."""
    _text: tuple[str, str] | None = PrivateAttr(None)
    type: Literal["function"]
    function: Function


class ToolChoice(NamedTuple):
    """mode: "none", "auto" or "required"; names: of the tools that may be called, None for all."""
    mode: str = "auto"
    names: tuple[str, ...] | None = None


def function_name(value: Any) -> str | None:
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def tool_choice(value: Any) -> ToolChoice:
    if value in ("none", "auto", "required"):
        return ToolChoice(value)
    name = function_name(value)
    if name is not None:
        return ToolChoice("required", (name,))
    allowed = value.get("allowed_tools") if isinstance(value, dict) and value.get("type") == "allowed_tools" else None
    if isinstance(allowed, dict) and isinstance(allowed.get("tools"), list) and allowed.get("mode") in ("auto", "required"):
        names = tuple(name for name in map(function_name, allowed["tools"]) if name is not None)
        if names and len(names) == len(allowed["tools"]):
            return ToolChoice(allowed["mode"], names)
    raise ValueError('expected "none", "auto", "required", {"type": "function", "function": {"name": ...}} or {"type": '
                     '"allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [functions by name]}}')


ToolChoiceField = Annotated[Any, BeforeValidator(tool_choice)]


class Thinking(Fields):
    type: Literal["enabled", "disabled", "adaptive"]


def known_effort(effort: str) -> str:
    if effort not in limits.EFFORTS:
        raise ValueError(f"expected one of {', '.join(limits.EFFORTS)}, got {effort[:40]!r}")
    return effort


Effort = Annotated[str, AfterValidator(known_effort)]


def mode(model: str, thinking: Thinking | None, effort: str) -> tuple[bool, str]:
    """Whether to think, and the effort. With thinking switched on, the effort "none" is no level."""
    off = thinking.type == "disabled" if thinking is not None else effort == "none"
    return not (off or names.plain(model) == names.WITHOUT_THINKING), limits.EFFORT if effort == "none" else effort


class StreamOptions(Fields):
    """include_progress: an extension, of the chat format alone: while the prompt is read, chunks without choices tell how far."""
    include_usage: bool = False
    include_progress: bool = False


class Sampled(Fields):
    """What every generating format shares."""
    model: str
    stream: bool = False
    temperature: limits.Temperature = 1.0
    top_p: limits.TopP = 1.0
    top_k: limits.TopK = 0
    min_p: limits.MinP = 0.0
    seed: limits.Seed | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p,
                "seed": None if self.seed is None else self.seed % 2 ** 64}


class Generated(Sampled):
    """What OpenAI's chat and completions formats share."""
    stream_options: StreamOptions = StreamOptions()
    max_tokens: limits.Tokens | None = None
    stop: limits.Stops = []
    n: limits.Choices = 1
    frequency_penalty: limits.Penalty = 0.0
    presence_penalty: limits.Penalty = 0.0
    logit_bias: limits.LogitBias = {}
    user_id: str | None = None
    user: str | None = None

    @property
    def thinks(self) -> bool:
        return False

    @property
    def sampling(self) -> dict[str, Any]:
        """For Scheduler.submit. In thinking mode penalties have no effect and are no error."""
        acting = not self.thinks
        return {**super().sampling, "logit_bias": self.logit_bias or None,
                "frequency_penalty": self.frequency_penalty if acting else 0.0,
                "presence_penalty": self.presence_penalty if acting else 0.0}

    def check_ids(self, engine: Engine) -> None:
        vocab = engine.model.vocab_size
        for id in self.logit_bias:
            if id >= vocab:
                raise bad("logit_bias", f"token ids are 0 to {vocab - 1}, got {id}")


class JsonSchema(Fields):
    """The name and the description are the client's business."""
    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def has_its_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is required with this type")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        if self.type == "json_object":
            return {"type": "object"}
        return self.json_schema.definition if self.type == "json_schema" and self.json_schema is not None else None


# ---- objects of many kinds, read member by member ----

def text_in(part: dict[str, Any], name: str, place: str) -> str:
    value = part.get(name)
    if not isinstance(value, str):
        raise bad(f"{place}.{name}", "required" if value is None else f"expected text, got {type(value).__name__}")
    return value


def made(role: Any, place: str, **values: Any) -> Message:
    message = Message(role=role, **values)
    message._place = place
    return message


def called(id: str, name: str, arguments: str, place: str) -> ToolCall:
    call = ToolCall(id=id, function=CalledFunction(name=name, arguments=arguments))
    call._place = place
    return call
