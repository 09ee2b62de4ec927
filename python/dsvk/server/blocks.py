"""Blocks of Anthropic's format: messages and tools into OpenAI's chat format, and a stream of events into one message."""
from __future__ import annotations

import json
from typing import Annotated, Any, AsyncIterator, Literal

from pydantic import BeforeValidator, Field

from . import fields
from .errors import bad
from .fields import Fields, called, made, text_in

NOT_READ = ("image", "document", "search_result", "container_upload")
SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "advisor_", "tool_search_", "mcp_toolset")
BILLING = "x-anthropic-billing-header:"      # differs between builds of a client, and would change every prompt


def text_or_blocks(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError(f"expected text or a list of blocks, got {type(value).__name__}")
    for i, block in enumerate(value):
        if not isinstance(block, dict):
            raise ValueError(f"block {i}: expected an object, got {type(block).__name__}")
    return value


Content = Annotated[str | list[dict[str, Any]], BeforeValidator(text_or_blocks)]


class Message(Fields):
    role: Literal["user", "assistant", "system"]
    content: Content


class Tool(Fields):
    type: str = "custom"
    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")] = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool = False
    defer_loading: bool = False


# ---- tools ----

def check_tools(tools: list[Tool]) -> None:
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.type.startswith(SERVER_TOOLS):
            continue
        if tool.type != "custom":
            raise bad(f"tools[{i}].type", f"a client tool needs its schema: expected custom, got {tool.type[:80]!r}")
        if tool.name is None or tool.input_schema is None:
            raise bad(f"tools[{i}].{'name' if tool.name is None else 'input_schema'}", "required")
        if tool.name in seen:
            raise bad(f"tools[{i}].name", f"{tool.name!r} appears twice")
        seen.add(tool.name)


def at_hand(tools: list[Tool]) -> list[Tool]:
    """Those whose definition stands at the head of the prompt: no server's tools, and none that waits for its reference."""
    return [tool for tool in tools if tool.type == "custom" and not tool.defer_loading]


def to_call(tools: list[Tool], messages: list[Message]) -> list[Tool]:
    """Those that may be called: at hand, or referred to."""
    return at_hand(tools) + [tool for tool in tools if tool.defer_loading and tool.name in referenced(messages)]


def referenced(messages: list[Message]) -> set[str]:
    """Names of the tools that results refer to, in blocks that were looked at."""
    blocks = [block for message in messages if isinstance(message.content, list) for block in message.content]
    parts = [part for block in blocks if block.get("type") == "tool_result" and isinstance(block.get("content"), list)
             for part in block["content"]]
    return {part["tool_name"] for part in parts if part["type"] == "tool_reference"}


def function(tool: Tool) -> dict[str, Any]:
    described = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.input_schema}}


# ---- messages ----

def blocks_of(content: str | list[dict[str, Any]], place: str) -> list[tuple[str, dict[str, Any], str]]:
    """Kind, block and place of each."""
    found = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [(text_in(block, "type", f"{place}[{i}]"), block, place if isinstance(content, str) else f"{place}[{i}]")
            for i, block in enumerate(found)]


def texts(content: str | list[dict[str, Any]], place: str) -> list[str]:
    found = []
    for kind, block, at in blocks_of(content, place):
        if kind != "text":
            raise unread(kind, at)
        found.append(text_in(block, "text", at))
    return found


def unread(kind: str, place: str) -> Exception:
    return bad(f"{place}.type", f"this model reads text only, got a block of type {kind[:80]!r}" if kind in NOT_READ else
               f"unknown here: {kind[:80]!r}")


def result_text(block: dict[str, Any], place: str, tools: dict[str, Tool]) -> str:
    """A result's text; in place of a reference to a tool stands its definition."""
    content = block.get("content") or ""
    if not isinstance(content, (str, list)) or not all(isinstance(part, dict) for part in content if isinstance(content, list)):
        raise bad(f"{place}.content", "expected text or a list of blocks")
    found = []
    for kind, part, at in blocks_of(content, f"{place}.content"):
        if kind == "tool_reference":
            name = text_in(part, "tool_name", at)
            if name not in tools:
                raise bad(f"{at}.tool_name", f"no tool is named {name[:80]!r}")
            found.append(json.dumps(function(tools[name])["function"], ensure_ascii=False))
        elif kind == "text":
            found.append(text_in(part, "text", at))
        else:
            raise unread(kind, at)
    return "\n".join(found)


def user(turn: list[tuple[str, Message]], tools: dict[str, Tool]) -> list[fields.Message]:
    """Neighbouring messages with their places, as one: results first, then the text."""
    results, said = [], []
    for place, message in turn:
        for kind, block, at in blocks_of(message.content, f"{place}.content"):
            if kind == "tool_result":
                result = made("tool", place, content=result_text(block, at, tools), tool_call_id=text_in(block, "tool_use_id", at))
                result._id_place = f"{at}.tool_use_id"
                results.append(result)
            elif kind == "text":
                said.append(text_in(block, "text", at))
            elif not of_server(kind):
                raise unread(kind, at)
    return results + ([made("user", turn[0][0], content="\n\n".join(said))] if said or not results else [])


def of_server(kind: str) -> bool:
    """Blocks of tools that ran elsewhere."""
    return kind in ("server_tool_use", "mcp_tool_use") or kind.endswith("_tool_result")


def assistant(message: Message, place: str, last: bool) -> fields.Message:
    thoughts, said, calls = [], [], []
    for kind, block, at in blocks_of(message.content, f"{place}.content"):
        if kind == "thinking":
            thoughts.append(text_in(block, "thinking", at))
        elif kind == "text":
            said.append(text_in(block, "text", at))
        elif kind == "tool_use":
            if not isinstance(block.get("input"), dict):
                raise bad(f"{at}.input", "expected an object")
            calls.append(called(text_in(block, "id", at), text_in(block, "name", at),
                                json.dumps(block["input"], ensure_ascii=False), f"{at}.id"))
        elif kind != "redacted_thinking" and not of_server(kind):
            raise unread(kind, at)
    return made("assistant", place, content="".join(said), reasoning_content="\n".join(thoughts) if thoughts else None,
                tool_calls=calls, prefix=last and not calls)


def conversation(system: str | list[dict[str, Any]], messages: list[Message], tools: list[Tool]) -> list[fields.Message]:
    named = {tool.name or "": tool for tool in tools if tool.type == "custom"}
    head = [text for text in texts(system, "system") if text and not text.startswith(BILLING)]
    result = [made("system", "system", content="\n\n".join(head))] if head else []
    users: list[tuple[str, Message]] = []
    for i, message in enumerate(messages):
        place, last = f"messages[{i}]", i + 1 == len(messages)
        if message.role == "user":
            users.append((place, message))
            if last or messages[i + 1].role != "user":
                result += user(users, named)
                users = []
        elif message.role == "system":
            result.append(made("system", place, content="\n\n".join(texts(message.content, f"{place}.content"))))
        else:
            turn = assistant(message, place, last)
            if result and result[-1].role == "assistant":
                merge(result[-1], turn)
            else:
                result.append(turn)
    return result


def merge(turn: fields.Message, more: fields.Message) -> None:
    turn.content = (turn.content or "") + (more.content or "")
    if more.reasoning_content is not None:
        turn.reasoning_content = (turn.reasoning_content or "") + more.reasoning_content
    turn.tool_calls += more.tool_calls
    turn.prefix = more.prefix and not turn.tool_calls


# ---- a whole message ----

async def gathered(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream's events make."""
    message: dict[str, Any] = {}
    async for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
                arguments = ""
            case "content_block_delta":
                delta, block = event["delta"], message["content"][-1]
                arguments += delta.get("partial_json", "")
                for name in ("text", "thinking", "signature"):
                    if name in delta:
                        block[name] += delta[name]
            case "content_block_stop":
                if arguments:
                    message["content"][-1]["input"] = json.loads(arguments)
            case "message_delta":
                message.update(event["delta"], usage=event["usage"])
    return message
