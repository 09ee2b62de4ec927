"""Conversations in the family's own format: messages to a prompt, and what a model answers back to a message.

    from dsvk import chat
    session.sync(chat.encode_ids(model.tokenizer, [{"role": "user", "content": "Hello"}]))
    parser = chat.Parser("thinking")
    for id in session.decode(100):              # or parser.feed(text)
        print(parser.push(model.tokenizer, id))
    print(parser.finish())

Messages are those of the OpenAI chat format (roles system, developer, user, assistant, tool, and latest_reminder). Special
strings in them stay ordinary text in encode_ids: only what the format itself writes becomes special tokens.
"""
from __future__ import annotations

import json
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from . import _dsvk
from .session import list_of

Messages = Iterable[Mapping[str, Any]]


def _conversation(messages: Messages, parameters: Mapping[str, Any]) -> str:
    """The JSON that the library reads; it checks every name and value."""
    given = {name: value for name, value in parameters.items() if value is not None}
    if "context" in given:
        given["context"] = list_of("context", given["context"], "a list of messages")
    return json.dumps({"messages": list_of("messages", messages, "a list of messages"), **given}, ensure_ascii=False)


def encode(messages: Messages, *, thinking_mode: str = "thinking", drop_thinking: bool = True,
           reasoning_effort: str | None = None, add_bos: bool = True, context: Messages | None = None,
           tools: Sequence[Mapping[str, Any]] | None = None, response_format: Mapping[str, Any] | None = None,
           revision: str | None = None, replay: Mapping[str, str | Sequence[int]] | None = None) -> str:
    """The prompt of a conversation as text.

    thinking_mode: "thinking" or "chat". drop_thinking: leave out reasoning_content before the last question, unless there
    are tools. reasoning_effort: "none" (as "chat"), "low", "high", "max", or "minimal", "medium", "xhigh", "ultra".
    add_bos: begin with the begin token. context: messages encoded before; only what comes behind them is written. tools,
    response_format: of the whole conversation, put into its first system message. revision: "preview", or "0731" for
    the checkpoints of that name. replay: what was sampled, by the id of a turn's first tool call, or by the "turn_id"
    of a message without calls: such a turn is written exactly so (text here, ids in encode_ids); never take it from a stranger.
    Raises InvalidError or UnsupportedError naming the field, FormatError for what is no JSON (NaN).
    """
    return _dsvk.chat_encode(_conversation(messages, {
        "thinking_mode": thinking_mode, "drop_thinking": drop_thinking, "reasoning_effort": reasoning_effort,
        "add_bos": add_bos, "context": context, "tools": tools, "response_format": response_format, "revision": revision,
        "replay": replay}))


def encode_ids(tokenizer: _dsvk.Tokenizer, messages: Messages, **parameters: Any) -> list[int]:
    """The prompt of a conversation as token ids; the parameters are those of encode.

    The answer begins inside thinking exactly when the last id is tokenizer.id("<think>"). Raises UnsupportedError for a
    tokenizer that lacks a token of the format.
    """
    return tokenizer.encode_chat(_conversation(messages, parameters))


class Event(NamedTuple):
    """kind: "reasoning" or "content" (more of that text), "call" (a tool call begins; its name), "arguments" (more of its
    JSON), "call_end", "call_cut" (the text ended inside the call; its arguments have been closed), "end" (the end token).
    call: which call of this answer, from 0."""
    kind: str
    text: str
    call: int | None


def _thinking(thinking_mode: str) -> bool:
    if thinking_mode not in ("thinking", "chat"):
        raise _dsvk.InvalidError(f"thinking_mode: expected thinking or chat, got {thinking_mode!r}")
    return thinking_mode == "thinking"


class Parser(_dsvk.ChatParser):
    """Reads an answer as it comes, cut anywhere: feed text or bytes, or push tokens, and get events. The texts of each
    kind, joined, do not depend on the cuts; markup never is in them. Of pushed tokens only added ones are markup, so a
    model may quote it. `place` is what comes next: reasoning, content, call or end.

    thinking_mode: "thinking" when the prompt ends inside thinking.
    """

    def __init__(self, thinking_mode: str = "thinking"):
        super().__init__(_thinking(thinking_mode))

    def feed(self, text: str | bytes, /) -> list[Event]:  # type: ignore[override]
        """What became certain with this text; of bytes, incomplete characters wait for the rest."""
        return [Event(*event) for event in super().feed(text)]

    def push(self, tokenizer: _dsvk.Tokenizer, id: int, /) -> list[Event]:  # type: ignore[override]
        """The same with one token."""
        return [Event(*event) for event in super().push(tokenizer, id)]

    def finish(self) -> list[Event]:  # type: ignore[override]
        """The last events: what was held back, and the end of an open call."""
        return [Event(*event) for event in super().finish()]


def parse(text: str | bytes, thinking_mode: str = "thinking") -> dict[str, Any]:
    """A whole answer as an assistant's message: role, content, reasoning_content and tool_calls, whose arguments are JSON
    text of one object; a call that the end of the text cut short has "complete": False."""
    return _dsvk.chat_parse(text, _thinking(thinking_mode))
