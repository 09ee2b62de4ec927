"""Items and tools of OpenAI's Responses format, into messages and tools of its chat format."""
from __future__ import annotations

import json
from typing import Any, Iterator, NamedTuple

from .engine import Engine
from .errors import bad
from .fields import Fields, Message, called, made, text_in

NOT_READ = ("input_image", "input_file", "input_audio")
SERVER_TOOLS = ("web_search", "tool_search", "file_search", "mcp", "code_interpreter", "image_generation", "computer",
                "local_shell", "shell")
FREE_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}      # of a custom tool


# ---- tools ----

class Tool(Fields):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False
    format: dict[str, Any] | None = None
    tools: list["Tool"] = []

    def grammar(self, place: str) -> tuple[str, str] | None:
        """What a custom tool's text follows, as dsml.Tool has it."""
        if self.type != "custom":
            return None
        format = self.format or {"type": "text"}
        if format.get("type") == "text":
            return "regex", "(?s:.*)"
        if format.get("type") != "grammar":
            raise bad(f"{place}.format.type", f'expected "text" or "grammar", got {str(format.get("type"))[:80]!r}')
        if format.get("syntax") not in ("lark", "regex"):
            raise bad(f"{place}.format.syntax", f'expected "lark" or "regex", got {str(format.get("syntax"))[:80]!r}')
        return format["syntax"], text_in(format, "definition", f"{place}.format")


class Offered(NamedTuple):
    """A tool as the model has it: under a name that says its namespace, too. place: what error messages call it. text: what the text of
    a custom one follows."""
    tool: Tool
    namespace: str | None
    place: str
    text: tuple[str, str] | None

    @property
    def name(self) -> str:
        return qualified(self.namespace, self.tool.name or "")

    @property
    def custom(self) -> bool:
        return self.tool.type == "custom"

    def function(self) -> dict[str, Any]:
        """As the chat format has it, which leaves `strict` out of the prompt."""
        described = {} if self.tool.description is None else {"description": self.tool.description}
        parameters = FREE_TEXT if self.custom else self.tool.parameters
        return {"type": "function", "function": {"name": self.name, **described,
                                                 **({} if parameters is None else {"parameters": parameters}),
                                                 **({"strict": True} if self.tool.strict else {})}}


def qualified(namespace: str | None, name: str) -> str:
    return f"{namespace.rstrip('_')}__{name}" if namespace else name


def is_server_tool(kind: str) -> bool:
    return kind.startswith(SERVER_TOOLS)


def offered(tools: list[Tool], namespace: str | None = None, place: str = "tools") -> Iterator[Offered]:
    for i, tool in enumerate(tools):
        at = f"{place}[{i}]"
        if tool.type == "namespace" and namespace is None:
            if not tool.name:
                raise bad(f"{at}.name", "required")
            yield from offered(tool.tools, tool.name, f"{at}.tools")
        elif tool.type in ("function", "custom"):
            if not tool.name:
                raise bad(f"{at}.name", "required")
            yield Offered(tool, namespace, at, tool.grammar(at))
        elif not is_server_tool(tool.type):
            raise bad(f"{at}.type", f"unknown here: {tool.type[:80]!r}")


# ---- input ----

def texts(content: Any, place: str) -> str:
    """A text, or text parts in their order."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise bad(place, "required" if content is None else "expected text or a list of parts")
    text = ""
    for i, part in enumerate(content):
        at = f"{place}[{i}]"
        kind = text_in(part, "type", at)
        if kind not in ("input_text", "output_text", "reasoning_text", "refusal"):
            raise bad(f"{at}.type", f"this model reads text only, got a part of type {kind[:80]!r}" if kind in NOT_READ else
                      f"unknown here: {kind[:80]!r}")
        text += text_in(part, "refusal" if kind == "refusal" else "text", at)
    return text


class Conversation:
    """Groups of messages: an assistant's turn with the outputs of its calls, wherever those stand in the input, or one other."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.groups: list[list[Message]] = []
        self.turn: Message | None = None                       # what adjacent items of the assistant go on with
        self.unanswered: dict[str, list[Message]] = {}         # groups by call

    def say(self, role: str, text: str, place: str) -> None:
        self.turn = None
        self.groups.append([made(role, place, content=text)])

    def assistant(self, place: str) -> Message:
        if self.turn is None:
            self.turn = made("assistant", place, content="")
            self.groups.append([self.turn])
        return self.turn

    def call(self, item: dict[str, Any], arguments: str, place: str) -> None:
        id, namespace = text_in(item, "call_id", place), item.get("namespace")
        name = qualified(None if namespace is None else text_in(item, "namespace", place), text_in(item, "name", place))
        self.assistant(place).tool_calls.append(called(id, name, arguments, f"{place}.call_id"))
        self.unanswered.setdefault(id, self.groups[-1])

    def output(self, item: dict[str, Any], place: str) -> None:
        id = text_in(item, "call_id", place)
        result = made("tool", place, content=texts(item.get("output"), f"{place}.output"), tool_call_id=id)
        result._id_place = f"{place}.call_id"
        self.turn = None
        if id in self.unanswered:
            self.unanswered.pop(id).append(result)
        else:
            self.groups.append([result])      # history.check says what is wrong with it

    def add(self, item: dict[str, Any], place: str) -> None:
        kind = "message" if item.get("type") is None and "role" in item else text_in(item, "type", place)
        match kind:
            case "message":
                self.message(item, place)
            case "reasoning":
                thoughts = texts(item.get("content") or "", f"{place}.content")
                turn = self.assistant(place)
                turn.reasoning_content = (turn.reasoning_content or "") + thoughts
            case "function_call":
                self.call(item, text_in(item, "arguments", place), place)
            case "custom_tool_call":
                self.call(item, json.dumps({"input": text_in(item, "input", place)}, ensure_ascii=False), place)
            case "function_call_output" | "custom_tool_call_output":
                self.output(item, place)
            case "item_reference":
                raise bad(f"{place}.type", "nothing is stored here that could be referred to: give the item itself")
            case _:
                self.engine.log_once(f"input items of type {kind[:80]!r} are skipped")

    def message(self, item: dict[str, Any], place: str) -> None:
        role = text_in(item, "role", place)
        if role not in ("user", "assistant", "system", "developer"):
            raise bad(f"{place}.role", f"expected user, assistant, system or developer, got {role[:80]!r}")
        text = texts(item.get("content"), f"{place}.content")
        if role == "assistant":
            turn = self.assistant(place)
            turn.content = (turn.content or "") + text
        else:
            self.say(role, text, place)


def conversation(engine: Engine, instructions: str | None, given: str | list[dict[str, Any]] | None) -> list[Message]:
    made_of = Conversation(engine)
    if instructions is not None:
        made_of.say("system", instructions, "instructions")
    for i, item in enumerate([{"role": "user", "content": given}] if isinstance(given, str) else given or []):
        made_of.add(item, f"input[{i}]")
    messages = [message for group in made_of.groups for message in group]
    if not messages:
        raise bad("input", "holds nothing to answer")
    if messages[-1].role == "assistant" and not messages[-1].tool_calls:
        messages.append(made("user", "input", content=""))      # this format never continues a text: another turn is wanted
    return messages
