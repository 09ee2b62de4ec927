"""Messages of OpenAI's chat format to a prompt: what is checked in a conversation, and what becomes of it."""
from __future__ import annotations

from typing import Any

import dsvk
from dsvk import chat

from .engine import Engine, Turns, refuse_too_long
from .errors import bad, of_engine
from .fields import Message


def check(messages: list[Message]) -> None:
    """Every call has its output before the next turn, every output its call, and the last turn is not an assistant's."""
    unanswered: dict[str, str] = {}
    for i, message in enumerate(messages):
        if message.content is None and message.role != "assistant":
            raise bad(f"{message._place}.content", "required")
        if message.prefix and (message.role != "assistant" or i + 1 < len(messages)):
            raise bad(f"{message._place}.prefix", "only the last message, an assistant's, can be continued")
        if message.role == "tool":
            if message.tool_call_id is None:
                raise bad(message._id_place, "required")
            if unanswered.pop(message.tool_call_id, None) is None:
                raise bad(message._id_place, f"no unanswered tool call has the ID {message.tool_call_id[:80]!r}")
        elif message.role in ("user", "assistant"):
            check_answered(unanswered)
        for call in message.tool_calls if message.role == "assistant" else []:
            if call.id in unanswered:
                raise bad(call._place, f"{call.id[:80]!r} appears twice")
            unanswered[call.id] = call._place
    check_answered(unanswered)
    if messages[-1].role == "assistant" and not messages[-1].prefix:
        raise bad(messages[-1]._place, "the last message is an assistant's: set its prefix to continue it")


def check_answered(unanswered: dict[str, str]) -> None:
    for id, place in unanswered.items():
        raise bad(place, f"No tool output found for tool call ID. ({id[:80]!r})")


def check_thoughts(messages: list[Message]) -> None:
    for message in messages:
        if message.role == "assistant" and message.tool_calls and message.reasoning_content is None:
            raise bad(f"{message._place}.reasoning_content",
                      "The `reasoning_content` in the thinking mode must be passed back to the API.")


def plain(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages with the fields of the format alone. It hands the turn over behind a user's message only, so a system
    message that stands between a user's and the answer becomes the end of that one; between others, it gets an empty one behind it."""
    result: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        last = i + 1 == len(messages)
        answered = role == "system" and (last or messages[i + 1].role == "assistant")
        if answered and result and result[-1]["role"] in ("user", "tool"):
            result.append({"role": "user", "content": message.content or ""})
            continue
        one: dict[str, Any] = {"role": role, "content": message.content or ""}
        if role == "tool":
            one["tool_call_id"] = message.tool_call_id
        if role == "assistant":
            one["reasoning_content"] = message.reasoning_content or ""
            one["tool_calls"] = [call.model_dump() for call in message.tool_calls]
            one["turn_id"] = None if message.prefix else Turns.name(one["reasoning_content"], one["content"])
            one["wo_eos"] = message.prefix
        result.append(one)
        if answered:
            result.append({"role": "user", "content": ""})
    return result


def prompt(engine: Engine, messages: list[Message], tools: list[dict[str, Any]], keep_thinking: bool, thinking: bool,
           effort: str, schema: dict[str, Any] | None = None, counted: bool = False) -> list[int]:
    """The ids of a conversation; turns that were sampled here are written as they were. schema: what the model is told of the
    answer's. counted: they are wanted although they are more than the context."""
    check(messages)
    if not counted:      # an assistant's turn may be replaced by what was sampled
        refuse_too_long(engine, (message.content or "" for message in messages if message.role != "assistant"), "messages")
    if engine.strict_history and thinking:
        check_thoughts(messages)
    turns = plain(messages)
    calls = {i: [call["id"] for call in one["tool_calls"]] for i, one in enumerate(turns)
             if one["role"] == "assistant" and not one["wo_eos"]}
    replay = engine.turns.find((ids[0] if ids else turns[i]["turn_id"], ids) for i, ids in calls.items())
    try:
        return chat.encode_ids(engine.tokenizer, turns, thinking_mode="thinking" if thinking else "chat",
                               reasoning_effort=effort if thinking else None, drop_thinking=not keep_thinking,
                               tools=tools or None, response_format=schema, revision=engine.revision,
                               replay=replay or None)
    except (dsvk.InvalidError, dsvk.FormatError, dsvk.LimitError) as error:
        raise bad("messages", str(error)) from None
    except dsvk.Error as error:
        raise of_engine(error) from None
