"""dsvk.conversation: a conversation with a model over a scheduler, turn by turn, for programs that show it to somebody."""
from __future__ import annotations

import time
from typing import Any, Iterator, Mapping, Sequence

from . import _dsvk, chat, constrain
from .dsml import Tool
from .model import Model, end_ids
from .scheduler import Request, Scheduler


def tools_of(value: Any) -> list[dict[str, Any]]:
    """Tools as the format has them, from a list of OpenAI's tools or of bare functions. Raises InvalidError."""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise _dsvk.InvalidError("tools: expected a JSON list of objects")
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]
    for i, tool in enumerate(tools):
        if not isinstance(tool["function"], dict) or not isinstance(tool["function"].get("name"), str):
            raise _dsvk.InvalidError(f"tools[{i}]: expected a function with a name")
    chat.encode([], tools=tools or None)
    return tools


class Conversation:
    """Conversation(model, scheduler): `messages` so far, and ask() and go_on() for the next answer.

    thinking: whether the model thinks first; effort: how much, None for the format's default, see chat.encode; system: a text
    in front of everything; tools: that the model may call, and with llguidance installed it calls no others, strict ones with arguments
    of their schema. All may change between turns. max_tokens: of an answer, 0 for what the
    context holds. sampling: as in Scheduler.submit. Raises InvalidError for an effort or revision that is none.
    """

    def __init__(self, model: Model, scheduler: Scheduler, *, thinking: bool = True, effort: str | None = None, system: str = "",
                 tools: Sequence[Mapping[str, Any]] = (), revision: str | None = None, max_tokens: int = 0, **sampling: Any):
        if model.tokenizer is None:
            raise _dsvk.UnsupportedError("the model has no tokenizer.json, which a conversation needs")
        self.tokenizer, self.scheduler, self._model = model.tokenizer, scheduler, model
        self._grammars: constrain.Grammars | None = None
        self.thinking, self.effort, self.system, self.revision = thinking, effort, system, revision
        self.tools: Sequence[Mapping[str, Any]] = list(tools)
        chat.encode([], reasoning_effort=effort, revision=revision)
        self.max_tokens, self.sampling = max_tokens, sampling
        self.messages: list[dict[str, Any]] = []
        self.calls = 0      # made so far; their ids count on
        self.length = 0      # tokens, as of the last answer
        self._end = end_ids(model.config)
        self._stands: tuple[dict[str, Any], list[dict[str, Any]], list[int]] | None = None

    def ask(self, question: str) -> "Answer":
        """The answer to a question, which becomes part of the conversation."""
        return self._begin([{"role": "user", "content": question}])

    def go_on(self, results: Mapping[str, str]) -> "Answer":
        """The answer that comes behind the last one's tool calls, whose results are given by the calls' ids."""
        return self._begin([{"role": "tool", "tool_call_id": id, "content": text} for id, text in results.items()])

    def take_back_calls(self) -> None:
        """The last answer's tool calls get no result: it is as if it had made none."""
        self.messages[-1].pop("tool_calls", None)
        self._stands = None

    def clear(self) -> None:
        """Forgets what was said; system text, tools and modes stay."""
        self.messages, self._stands, self.length = [], None, 0

    def request(self, name: str) -> dict[str, Any]:
        """The conversation as a body for a server's /v1/chat/completions has it; to be sent it needs one more question."""
        return {"model": name, "messages": self._head() + self.messages,
                "thinking": {"type": "enabled" if self.thinking else "disabled"},
                **({"reasoning_effort": self.effort} if self.effort else {}), **({"tools": self.tools} if self.tools else {})}

    def _head(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _begin(self, new: list[dict[str, Any]]) -> "Answer":
        before = len(self.messages)
        self.messages += new
        try:
            prompt, options = self._prompt()
            request = self.scheduler.submit(prompt, self.max_tokens, choices=1, constraint=self._constraint(), **self.sampling)
        except BaseException:
            del self.messages[before:]
            raise
        return Answer(self, request, prompt, options, before)

    def _constraint(self) -> constrain.Constraint | None:
        if not self.tools:
            return None
        try:
            self._grammars = self._grammars or constrain.Grammars(self._model)
        except _dsvk.UnsupportedError:      # free, as well as the model does it
            return None
        functions = [tool["function"] for tool in self.tools]
        return self._grammars.answer([Tool(f["name"], f.get("parameters") if f.get("strict") else None, place=f"tools: {f['name']}")
                                      for f in functions])

    def _prompt(self) -> tuple[list[int], dict[str, Any]]:
        """The last turns' ids exactly as they were sampled, with what is new behind them; or everything written anew, where the
        format leaves out earlier thoughts, where an answer was cut, and where something else than the messages has changed."""
        options = {"thinking_mode": "thinking" if self.thinking else "chat", "reasoning_effort": self.effort if self.thinking else None,
                   "tools": self.tools or None, "revision": self.revision}
        messages = self._head() + self.messages
        if self._stands and not (self.thinking and not self.tools):
            stood, said, ids = self._stands
            if stood == options and messages[:len(said)] == said:
                return ids + chat.encode_ids(self.tokenizer, messages[len(said):], context=said, add_bos=False, **options), options
        return chat.encode_ids(self.tokenizer, messages, **options), options


class Answer:
    """An answer on its way: an iterator of chat.Event, whose kind may also be "prompt" (more of the prompt is done). At its end the
    message is part of the conversation; one that never began takes its question back.

    prompt_done of prompt_tokens are done, cached_tokens of them were found kept; tokens were generated so far; prefill_seconds,
    decode_seconds: how long that took. finish: None, then as in dsvk.Event; calls: after the end, tool calls that want a result.
    """

    def __init__(self, conversation: Conversation, request: Request, prompt: list[int], options: dict[str, Any], before: int):
        self.prompt_tokens, self.prompt_done, self.cached_tokens, self.tokens = len(prompt), 0, 0, 0
        self.prefill_seconds = self.decode_seconds = 0.0
        self.finish: str | None = None
        self._later = 0      # tokens behind the first few
        self.message: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_content": ""}
        self._conversation, self._request, self._prompt, self._options = conversation, request, prompt, options
        self._before = before
        self._calls: list[dict[str, Any]] = []
        self._ids: list[int] = []
        inside = prompt[-1] == conversation.tokenizer.id("<think>")
        self._parser = chat.Parser("thinking" if inside else "chat")
        self._events = self._run()

    def __iter__(self) -> Iterator[chat.Event]:
        return self

    def __next__(self) -> chat.Event:
        return next(self._events)

    def cancel(self) -> None:
        """Ends the answer within one step; from any thread."""
        self._request.cancel()

    @property
    def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self.message.get("tool_calls", [])
        return calls

    @property
    def rate(self) -> float:
        """Generated tokens per second, behind the first few; 0 when there were no more."""
        return self._later / self.decode_seconds if self.decode_seconds > 0 else 0.0

    def _run(self) -> Iterator[chat.Event]:
        start, began, first = time.perf_counter(), 0.0, 0
        try:
            for event in self._request:
                now = time.perf_counter()
                self.prompt_done, self.cached_tokens, self.tokens = event.prompt_done, event.cached_tokens, event.completion_tokens
                if event.ids and not began:
                    began, first = now, self.tokens
                    self.prefill_seconds = began - start
                elif event.ids:
                    self.decode_seconds, self._later = now - began, self.tokens - first
                if event.kind == "prompt":
                    yield chat.Event("prompt", "", None)
                for id in event.ids:
                    self._ids.append(id)
                    yield from self._read(self._parser.push(self._conversation.tokenizer, id))
                if event.kind == "finish":
                    if event.error is not None:
                        raise event.error
                    yield from self._read(self._parser.finish())
                    self.finish = event.finish
        finally:
            self._request.cancel()
            self._end()

    def _read(self, events: list[chat.Event]) -> Iterator[chat.Event]:
        for event in events:
            kind, text, _ = event
            if kind in ("reasoning", "content"):
                self.message["reasoning_content" if kind == "reasoning" else "content"] += text
            elif kind == "call":
                self._calls.append({"id": f"call_{self._conversation.calls + len(self._calls)}", "type": "function",
                                    "function": {"name": text, "arguments": ""}})
            elif kind == "arguments":
                self._calls[-1]["function"]["arguments"] += text
            yield event

    def _end(self) -> None:
        """What was said becomes part of the conversation; calls only of an answer that came to its end."""
        talk = self._conversation
        if not self._ids:
            del talk.messages[self._before:]
            return
        if self._calls and self.finish == "stop":
            self.message["tool_calls"] = self._calls
            talk.calls += len(self._calls)
        if not self.message["reasoning_content"]:
            del self.message["reasoning_content"]
        talk.messages.append(self.message)
        talk.length = self.prompt_tokens + self.tokens
        whole = self.finish == "stop" and talk._end
        talk._stands = (self._options, talk._head() + talk.messages, self._prompt + self._ids + talk._end) if whole else None
