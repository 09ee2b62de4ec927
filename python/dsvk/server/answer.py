"""A request's answer as pieces that every wire format only has to write down: the scheduler's tokens, read by the parser."""
from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import AsyncGenerator, AsyncIterator

import dsvk
from dsvk import chat

from .engine import Engine, Job, Running, Turns
from .errors import of_engine, unavailable
from .metrics import Watch

Scored = tuple[dsvk.Event, int]      # an event of a prompt, and which of its ids
Events = AsyncGenerator[tuple[int, dsvk.Event], None]      # and the number of the request
OUT_OF = (dsvk.DeviceLostError, dsvk.DeviceMemoryError, dsvk.HostMemoryError)


@dataclass
class Usage:
    """prompt, read, cached: tokens of the prompt, those read so far, and those found kept; completion: generated, without the end
    token; reasoning: of them thoughts, without what delimits them."""
    prompt: int = 0
    read: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass
class Logprob:
    """Of one token, None of a prompt's first; top: the likeliest and theirs. offset: characters of the choice's text, thoughts
    included, before it."""
    id: int
    value: float | None
    top: list[tuple[int, float]]
    offset: int


@dataclass
class Piece:
    """kind: "start" (this choice begins), "progress" (usage tells more of the prompt as read, for jobs that want it), "prompt"
    (log-probabilities of the prompt, as "content"), "reasoning", "content" (more of that text), "call" (a tool call begins: text is
    its name, id its own), "arguments" (more of its JSON), "finish" (the last of this choice). call counts calls from 0. logprobs:
    of the tokens behind this piece, by "reasoning" and "content". finish: "stop", "length", "context", "calls", or "resource"
    (memory or the device went away after the answer began); stop_text: which text stopped it."""
    kind: str
    choice: int
    text: str = ""
    call: int = 0
    id: str = ""
    finish: str = ""
    stop_text: str | None = None
    logprobs: dict[str, list[Logprob]] = field(default_factory=dict)


def value(event: dsvk.Event, i: int) -> float | None:
    assert event.logprobs is not None
    return event.logprobs[i]


def logprob(event: dsvk.Event, i: int, offset: int) -> Logprob:
    return Logprob(event.ids[i], value(event, i), event.top[i] if event.top else [], offset)


def reason(event: dsvk.Event, said: bool) -> str:
    """A finish event's word for Piece.finish; raises what is no answer."""
    if event.finish == "cancelled":
        raise unavailable("the server is shutting down")
    if event.error is None:
        return event.finish or ""
    if said and isinstance(event.error, OUT_OF):
        return "resource"
    raise of_engine(event.error)


def stop_text(job: Job, event: dsvk.Event) -> str | None:
    return job.stop[event.stop_text] if event.stop_text >= 0 else None


class PlainChoice:
    """One choice of a continued text: all of it is content. `scored` is the prompt's part of the text, which the first choice is
    told and all of them tell."""

    def __init__(self, engine: Engine, job: Job, index: int, scored: list[Scored]):
        self.job, self.index, self.scored = job, index, scored
        self.decoder, self.offset = engine.tokenizer.decoder(), 0
        self.started = self.said = False
        self.ended = ""
        self.completion = self.reasoning = 0

    def take(self, event: dsvk.Event) -> list[Piece]:
        pieces = [] if self.started else [Piece("start", self.index)]
        begins, self.started = not self.started, True
        if event.kind == "prompt" and event.choice == 0:
            self.scored += [(event, i) for i in range(len(event.ids))]
            pieces += self.prompt(self.scored[len(self.scored) - len(event.ids):])
        elif begins:
            pieces += self.prompt(self.scored)
        if self.job.only_score:
            if event.prompt_done == event.prompt_tokens and event.kind != "finish":
                self.ended = "length"
                return pieces + [Piece("finish", self.index, finish=self.ended)]
        elif event.kind == "tokens":
            pieces += self.tokens(event)
        self.completion = 0 if self.job.only_score else event.completion_tokens
        if event.kind == "finish":
            self.ended = reason(event, self.said)
            pieces.append(Piece("finish", self.index, finish=self.ended, stop_text=stop_text(self.job, event)))
        return pieces

    def prompt(self, scored: list[Scored]) -> list[Piece]:
        found = [logprob(event, i, self.passed(event.ids[i], unseen=value(event, i) is None and self.job.unseen > 0))
                 for event, i in scored]
        return [Piece("prompt", self.index, logprobs={"content": found})] if found else []

    def tokens(self, event: dsvk.Event) -> list[Piece]:
        told = event.ids if event.logprobs is not None else []
        found = [logprob(event, i, self.passed(id)) for i, id in enumerate(told)]
        if not event.text and not found:
            return []
        self.said = True
        return [Piece("content", self.index, event.text, logprobs={"content": found} if found else {})]

    def passed(self, id: int, unseen: bool = False) -> int:
        """The offset of a token; the next one's comes behind it."""
        offset = self.offset
        if unseen:
            return offset
        try:
            self.offset += len(self.decoder.push(id))
        except dsvk.InvalidError:      # a vocabulary may have ids that no token has
            pass
        return offset


class Choice:
    """One choice of a conversation on its way. `ended` is its last piece's finish; what else the scheduler tells of it is for
    nobody."""

    def __init__(self, engine: Engine, job: Job, index: int):
        self.engine, self.job, self.index = engine, job, index
        self.parser = chat.Parser("thinking" if job.inside else "chat")
        self.decoder = engine.tokenizer.decoder()
        self.text_length = self.ids_length = 0      # characters: of text told, of the ids told
        self.ids: list[int] = []
        self.held: list[int] = []       # the last ids, while they end within a character: a stop text may begin with it
        self.held_text = ""
        self.call_ids: list[str] = []
        self.told: dict[str, list[str]] = {"reasoning": [], "content": []}
        self.logprobs: dict[str, list[Logprob]] = {}
        self.started = self.said = False
        self.ended = ""
        self.completion = self.reasoning = 0

    def take(self, event: dsvk.Event) -> list[Piece]:
        pieces = [] if self.started else [Piece("start", self.index)]
        if self.job.progress and event.kind == "prompt":
            pieces.append(Piece("progress", self.index))
        self.started = True
        self.completion = event.completion_tokens
        self.text_length += len(event.text)
        for i, id in enumerate(event.ids):
            pieces += self.push(id, event, i)
            if self.ended:
                return pieces
        if event.kind == "finish":
            pieces += self.finish(event)
        self.said = self.said or any(piece.kind not in ("start", "progress") for piece in pieces)
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
        self.held.append(id)
        self.held_text += text
        beyond = self.ids_length - self.text_length      # the last id may reach into a stop text
        if beyond > 0:
            pieces = self.read(self.parser.feed(self.held_text[:-beyond]))
        elif len(self.held_text.encode()) < len(self.engine.tokenizer.decode_bytes(self.held)):
            return []
        else:
            pieces = self.parsed()
        self.held, self.held_text = [], ""
        return pieces

    def parsed(self) -> list[Piece]:
        return self.read([event for id in self.held for event in self.parser.push(self.engine.tokenizer, id)])

    def read(self, events: list[chat.Event]) -> list[Piece]:
        pieces: list[Piece] = []
        for kind, text, number in events:
            call = number or 0
            if kind in self.told:
                self.told[kind].append(text)
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
        self.ended = finish
        return Piece("finish", self.index, finish=finish, stop_text=stop_text, logprobs=self.taken("reasoning", "content"))

    def finish(self, event: dsvk.Event) -> list[Piece]:
        finish = reason(event, self.said)
        pieces = self.parsed() if event.stop_text < 0 else []
        pieces += self.read(self.parser.finish())
        if self.ended:
            return pieces
        if finish == "stop" and self.call_ids:
            self.engine.turns.put(self.call_ids[0], self.ids, self.call_ids)
            finish = "calls"
        else:
            self.remember()
        return pieces + [self.last(finish, stop_text(self.job, event))]

    def remember(self) -> None:
        """A turn of which all was told: no part of a stop text, and no call that nobody wanted."""
        thoughts, said = ("".join(self.told[kind]) for kind in ("reasoning", "content"))
        with suppress(dsvk.InvalidError):      # a vocabulary may have ids that no token has
            if self.engine.tokenizer.decode(self.ids) == (f"{thoughts}</think>{said}" if self.job.inside else said):
                self.engine.turns.put(Turns.name(thoughts, said), self.ids)


async def told(running: Running) -> Events:
    """The events of a job's requests, with the request's number, as they come. In the end all are cancelled."""
    coming: dict[asyncio.Future[dsvk.Event | None], int] = {}
    try:
        if len(running) == 1:
            async for event in running[0]:
                yield 0, event
            return
        coming = {asyncio.ensure_future(anext(request, None)): i for i, request in enumerate(running)}
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i = coming.pop(task)
                if (came := task.result()) is not None:
                    yield i, came
                    coming[asyncio.ensure_future(anext(running[i], None))] = i
    finally:
        running.cancel()
        for task in coming:
            task.cancel()


async def begun(events: Events, seconds: float | None) -> Events:
    """The events, of which the first has to come within so many seconds."""
    async with aclosing(events):
        try:
            async with asyncio.timeout(seconds):
                first = await anext(events)
        except TimeoutError:
            raise unavailable(f"not begun within {seconds:g} s: too much else runs") from None
        yield first
        async for event in events:
            yield event


class Answer:
    """The answer to a job that was submitted: an asynchronous iterator of its pieces; `usage` is right at any time. The requests
    are cancelled when the iterator is closed before its end."""

    def __init__(self, engine: Engine, job: Job, running: Running):
        self.usage = Usage(prompt=sum(map(len, job.prompts)))
        self._engine, self._running, self._each, self._watch = engine, running, job.choices, Watch(engine.metrics)
        self._most_seconds = engine.queue_timeout
        self._cached = [0] * len(running)
        scored: list[list[Scored]] = [[] for _ in running]
        self._choices = [Choice(engine, job, i) if job.chat else PlainChoice(engine, job, i, scored[i // job.choices])
                         for i in range(len(running) * job.choices)]

    async def pieces(self) -> AsyncIterator[Piece]:
        async with aclosing(begun(told(self._running), self._most_seconds)) as events:
            try:
                async for i, event in events:
                    self._engine.seen(event.error, self._running.scheduler)
                    choice = self._choices[i * self._each + event.choice]
                    if choice.ended:
                        continue
                    pieces = choice.take(event)
                    if event.kind == "tokens":
                        self._watch.tokens(choice.index, len(event.ids))
                    self._cached[i] = event.cached_tokens
                    self.usage.read, self.usage.cached = event.prompt_done, sum(self._cached)
                    self.usage.completion = sum(choice.completion for choice in self._choices)
                    self.usage.reasoning = sum(choice.reasoning for choice in self._choices)
                    for piece in pieces:
                        yield piece
                    if all(choice.ended for choice in self._choices):
                        return
            except dsvk.Error as error:
                raise of_engine(error) from None
            finally:
                self._watch.end([choice.ended for choice in self._choices], self.usage.prompt, self.usage.completion)
