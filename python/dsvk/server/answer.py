"""A request's answer as pieces that every wire format only has to write down: the scheduler's tokens, read by the parser."""
from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import AsyncIterator

import dsvk
from dsvk import chat

from .engine import Engine, Job
from .errors import of_engine, unavailable

OUT_OF = (dsvk.DeviceLostError, dsvk.DeviceMemoryError, dsvk.HostMemoryError)


@dataclass
class Usage:
    """prompt, cached: tokens of the prompt, and those found kept; completion: generated, without the end token; reasoning: of
    them thoughts, without what delimits them."""
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass
class Logprob:
    """Of one token; top: the likeliest and theirs. offset: characters of the choice's text, thoughts included, before it."""
    id: int
    value: float
    top: list[tuple[int, float]]
    offset: int


@dataclass
class Piece:
    """kind: "start" (this choice begins), "reasoning", "content" (more of that text), "call" (a tool call begins: text is its
    name, id its own), "arguments" (more of its JSON), "finish" (the last of this choice). call counts calls from 0.
    logprobs: of the tokens behind this piece, by "reasoning" and "content". finish: "stop", "length", "context", "calls", or
    "resource" (memory or the device went away after the answer began); stop_text: which text stopped it."""
    kind: str
    choice: int
    text: str = ""
    call: int = 0
    id: str = ""
    finish: str = ""
    stop_text: str | None = None
    logprobs: dict[str, list[Logprob]] = field(default_factory=dict)


def logprob(event: dsvk.Event, i: int, offset: int) -> Logprob:
    return Logprob(event.ids[i], event.logprobs[i], event.top[i] if event.top else [], offset)


def reason(event: dsvk.Event, said: bool) -> str:
    """A finish event's word for Piece.finish; raises what is no answer."""
    if event.finish == "cancelled":
        raise unavailable("the server is shutting down")
    if event.finish != "error":
        return event.finish
    if said and isinstance(event.error, OUT_OF):
        return "resource"
    raise of_engine(event.error)


def stop_text(job: Job, event: dsvk.Event) -> str | None:
    return job.stop[event.stop_text] if event.stop_text >= 0 else None


class PlainChoice:
    """One choice of a continued text: all of it is content."""

    def __init__(self, engine: Engine, job: Job, index: int):
        self.job, self.index = job, index
        self.decoder, self.offset = engine.tokenizer.decoder(), 0
        self.started = self.said = self.ended = False
        self.completion = self.reasoning = 0

    def take(self, event: dsvk.Event) -> list[Piece]:
        pieces = [] if self.started else [Piece("start", self.index)]
        self.started, self.completion = True, event.completion_tokens
        told = event.ids if event.logprobs is not None else []
        found = [logprob(event, i, self.passed(id)) for i, id in enumerate(told)]
        if event.text or found:
            self.said = True
            pieces.append(Piece("content", self.index, event.text, logprobs={"content": found} if found else {}))
        if event.kind == "finish":
            self.ended = True
            pieces.append(Piece("finish", self.index, finish=reason(event, self.said), stop_text=stop_text(self.job, event)))
        return pieces

    def passed(self, id: int) -> int:
        """The offset of a token; the next one's comes behind it."""
        offset = self.offset
        try:
            self.offset += len(self.decoder.push(id))
        except dsvk.InvalidError:      # a vocabulary may have ids that no token has
            pass
        return offset


class Choice:
    """One choice on its way. `ended` is set with its last piece; what else the scheduler tells of it is for nobody."""

    def __init__(self, engine: Engine, job: Job, index: int):
        self.engine, self.job, self.index = engine, job, index
        self.parser = chat.Parser("thinking" if job.inside else "chat")
        self.decoder = engine.tokenizer.decoder()
        self.text_length = self.ids_length = 0      # characters: of text told, of the ids told
        self.ids: list[int] = []
        self.call_ids: list[str] = []
        self.logprobs: dict[str, list[Logprob]] = {}
        self.started = self.said = self.ended = False
        self.completion = self.reasoning = 0

    def take(self, event: dsvk.Event) -> list[Piece]:
        pieces = [] if self.started else [Piece("start", self.index)]
        self.started = True
        self.completion = event.completion_tokens
        self.text_length += len(event.text)
        for i, id in enumerate(event.ids):
            pieces += self.push(id, event, i)
            if self.ended:
                return pieces
        if event.kind == "finish":
            pieces += self.finish(event)
        self.said = self.said or any(piece.kind != "start" for piece in pieces)
        return pieces

    def push(self, id: int, event: dsvk.Event, i: int) -> list[Piece]:
        place = self.parser.place
        self.ids.append(id)
        try:
            text = self.decoder.push(id)
        except dsvk.InvalidError:      # a vocabulary may have ids that no token has
            return []
        if place == "reasoning" and id != self.engine.think_end:
            self.reasoning += 1
        if event.logprobs is not None and place in ("reasoning", "content") and id != self.engine.think_end:
            self.logprobs.setdefault(place, []).append(logprob(event, i, self.ids_length))
        self.ids_length += len(text)
        beyond = self.ids_length - self.text_length      # the last id may reach into a stop text
        return self.read(self.parser.feed(text[:-beyond]) if beyond > 0 else self.parser.push(self.engine.tokenizer, id))

    def read(self, events: list[chat.Event]) -> list[Piece]:
        pieces: list[Piece] = []
        for kind, text, call in events:
            if kind in ("reasoning", "content"):
                pieces.append(Piece(kind, self.index, text, logprobs=self.taken(kind)))
            elif not self.job.calls or self.ended:
                continue
            elif kind == "call" and self.job.one_call and self.call_ids:
                self.completion = len(self.ids)
                pieces.append(self.last("calls"))
            elif kind == "call":
                self.call_ids.append(self.job.call_prefix + secrets.token_hex(12))
                pieces.append(Piece("call", self.index, text, call, self.call_ids[-1]))
            elif kind == "arguments":
                pieces.append(Piece("arguments", self.index, text, call, self.call_ids[call]))
        return pieces

    def taken(self, *places: str) -> dict[str, list[Logprob]]:
        return {place: self.logprobs.pop(place) for place in places if place in self.logprobs}

    def last(self, finish: str, stop_text: str | None = None) -> Piece:
        self.ended = True
        return Piece("finish", self.index, finish=finish, stop_text=stop_text, logprobs=self.taken("reasoning", "content"))

    def finish(self, event: dsvk.Event) -> list[Piece]:
        finish = reason(event, self.said)
        pieces = self.read(self.parser.finish())
        if self.ended:
            return pieces
        if finish == "stop" and self.call_ids:
            self.engine.turns.put(self.call_ids[0], self.ids)
            finish = "calls"
        return pieces + [self.last(finish, stop_text(self.job, event))]


class Answer:
    """The answer to a job that was submitted: an asynchronous iterator of its pieces; `usage` is right at any time. The request
    is cancelled when the iterator is closed before its end."""

    def __init__(self, engine: Engine, job: Job, request: dsvk.Request):
        self.usage = Usage(prompt=len(job.prompt))
        self._request = request
        kind = Choice if job.chat else PlainChoice
        self._choices = [kind(engine, job, i) for i in range(job.choices)]

    async def pieces(self) -> AsyncIterator[Piece]:
        async with self._request:
            try:
                async for event in self._request:
                    choice = self._choices[event.choice]
                    if choice.ended:
                        continue
                    pieces = choice.take(event)
                    self.usage.cached = event.cached_tokens
                    self.usage.completion = sum(choice.completion for choice in self._choices)
                    self.usage.reasoning = sum(choice.reasoning for choice in self._choices)
                    for piece in pieces:
                        yield piece
                    if all(choice.ended for choice in self._choices):
                        return
            except dsvk.Error as error:
                raise of_engine(error) from None
