"""dsvk.Scheduler: many requests over one model at once, each an iterator of events, plain or asynchronous."""
from __future__ import annotations

import asyncio
import os
import secrets
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Mapping

from . import _dsvk
from .generation import Prompt, Stop, stops_of
from .model import Model, end_ids
from .session import Constraint, count_of

ERRORS = {error.status: error for error in vars(_dsvk).values()
          if isinstance(error, type) and issubclass(error, _dsvk.Error)}


@dataclass
class Event:
    """What a request has to tell.

    kind: "prompt" (more of the prompt is done), "tokens" (new text, ids or both), "finish" (the last of this choice).
    prompt_done of prompt_tokens are done; cached_tokens of them were found kept; completion_tokens are generated so far, a
    stop id not counted. text: whole characters, never part of a stop text. ids: the tokens of that text; with logprobs asked
    for, logprobs has one number per id and top a list of (id, logprob) per id, the likeliest first. With prompt_logprobs
    "prompt" events of choice 0 have the prompt's ids and theirs, None and [] of the first. finish: "stop", "length",
    "context" (it is full), "cancelled" or "error"; stop_id or stop_text (an index) says what stopped it, -1 is nothing; error is
    the dsvk.Error of "error".
    """
    kind: str
    choice: int
    prompt_tokens: int
    prompt_done: int
    cached_tokens: int
    completion_tokens: int
    ids: list[int]
    text: str
    logprobs: list[float | None] | None
    top: list[list[tuple[int, float]]] | None
    finish: str | None
    stop_id: int
    stop_text: int
    error: _dsvk.Error | None


def event_of(fields: dict[str, Any]) -> Event:
    status, message = fields.pop("status"), fields.pop("message")
    del fields["request"]
    return Event(error=ERRORS[status](message) if status else None, **fields)


class Request:
    """A request handed in with Scheduler.submit: an iterator of its events, with `for` or with `async for`, by one consumer.

    It ends with the "finish" event of its last choice. As a context manager (`with`, `async with`) it is cancelled on the way
    out unless it has finished.
    """

    def __init__(self, driver: "Driver", keep_alive: object, choices: int, backlog: int):
        self.id = 0
        self._backlog = backlog
        self._paused = False
        self._driver = driver
        self._keep_alive = keep_alive
        self._unfinished = choices
        self._events: deque[Event] = deque()
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    @property
    def finished(self) -> bool:
        """True when every choice has finished, whether or not its events were taken."""
        return self._unfinished == 0

    def cancel(self) -> None:
        """Ends the request within one step; its choices finish with "cancelled". From any thread."""
        if not self.finished:
            self._driver.cancel(self.id)

    def _deliver(self, events: Iterable[Event], failure: BaseException | None = None) -> None:
        """Called by the scheduler's thread."""
        with self._changed:
            for event in events:
                self._events.append(event)
                self._unfinished -= event.kind == "finish"
            if failure is not None:
                self._failure, self._unfinished = failure, 0
            elif 0 < self._backlog <= len(self._events) and not self._paused and not self.finished:
                self._paused = True
                self._driver.pause(self.id, True)
            waiting, self._waiting = self._waiting, None
            self._changed.notify_all()
        if waiting is not None:
            loop, future = waiting
            try:
                loop.call_soon_threadsafe(lambda: future.done() or future.set_result(None))  # type: ignore[func-returns-value]
            except RuntimeError:      # the loop was closed meanwhile: nobody listens
                pass

    def _take(self, end: type[Exception]) -> Event | None:
        """The next event; None when there is none yet. With the lock held."""
        if self._paused and 2 * len(self._events) <= self._backlog:
            self._paused = False
            self._driver.pause(self.id, False)
        if self._events:
            return self._events.popleft()
        if self._failure is not None:
            raise self._failure
        if self.finished:
            raise end
        return None

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        with self._changed:
            while (event := self._take(StopIteration)) is None:
                self._changed.wait()
            return event

    def __aiter__(self) -> "Request":
        return self

    async def __anext__(self) -> Event:
        while True:
            with self._changed:
                event = self._take(StopAsyncIteration)
                if event is not None:
                    return event
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                self._waiting = loop, future
            await future

    def __enter__(self) -> "Request":
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    async def __aenter__(self) -> "Request":
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.cancel()


class Driver:
    """The core's scheduler and the thread that steps it, which knows nothing of dsvk.Scheduler, so that one that is forgotten
    ends its thread."""

    def __init__(self, core: _dsvk.Scheduler):
        self.core = core
        self.requests: dict[int, Request] = {}
        self.changed = threading.Condition()
        self.asked = 0      # times that something was asked which may give a step something to do
        self.closing = False
        self.thread: threading.Thread | None = None
        self.pid = os.getpid()

    def submit(self, request: Request, options: dict[str, Any]) -> None:
        with self.changed:
            if self.closing:
                raise _dsvk.StateError("the scheduler is closed")
            request.id = self.core.submit(**options)
            self.requests[request.id] = request
            self.asked += 1
            if self.thread is None:
                self.thread = threading.Thread(target=self.run, name="dsvk scheduler", daemon=True)
                self.thread.start()
            self.changed.notify_all()

    def cancel(self, id: int) -> None:
        with self.changed:
            if not self.closing:
                self.core.cancel(id)
                self.asked += 1
                self.changed.notify_all()

    def pause(self, id: int, paused: bool) -> None:
        with self.changed:
            if not self.closing:
                self.core.pause(id, paused)
                self.asked += 1
                self.changed.notify_all()

    def deliver(self) -> None:
        news: dict[int, list[Event]] = {}
        for fields in self.core.events():
            news.setdefault(fields["request"], []).append(event_of(fields))
        with self.changed:
            if self.closing: # close() has cancelled them and says so itself
                return
            told = [(self.requests[id], events) for id, events in news.items()]
        for request, events in told:
            request._deliver(events)
            if request.finished:
                with self.changed:
                    del self.requests[request.id]

    def run(self) -> None:
        unfinished, seen = 0, 0
        try:
            while True:
                with self.changed:
                    while unfinished == 0 and seen == self.asked and not self.closing:
                        self.changed.wait()
                    if self.closing:
                        return
                    seen = self.asked
                try:
                    unfinished = self.core.step()
                except _dsvk.Error:      # a lost device: every request is told so
                    unfinished = 0
                self.deliver()
        except BaseException as failure:  # memory for the events: nobody may wait for ever
            self.fail(failure)

    def fail(self, failure: BaseException) -> None:
        with self.changed:
            self.closing = True
            requests = list(self.requests.values())
            self.requests.clear()
        for request in requests:
            request._deliver((), failure)

    def close(self) -> None:
        if os.getpid() != self.pid:      # a forked child: the thread is not here, what it held is held for good
            self.core.close()
            return
        with self.changed:
            self.closing = True
            self.changed.notify_all()
            if not self.core.closed:
                self.core.cancel()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()
        self.fail(_dsvk.CancelledError("the scheduler was closed"))
        self.core.close()


class Scheduler:
    """Scheduler(model, context=0, max_running=32, max_waiting=1024, chunk=0, burst=8, cache=True, cache_bytes=0): many
    requests over one model, in a thread of its own that begins with the first request and ends with close().

    All running sequences decode together, prompts are run in chunks between their tokens, and prefixes of earlier timelines are
    kept in device memory and found again. A request gives the same tokens and logprobs whoever else is running.

    context: most tokens of a timeline, 0 for the model's largest. max_running: sequences that decode together, at most 32;
    max_waiting: how many more may wait before submit raises BusyError. chunk: most prompt tokens of a step, 0 for the model's
    max_chunk. burst: most tokens a sequence decodes between two looks at new requests. cache_bytes: device memory for kept
    prefixes, 0 for a quarter of what is free; cache=False keeps none.
    """

    def __init__(self, model: Model, context: int = 0, max_running: int = 32, max_waiting: int = 1024, chunk: int = 0,
                 burst: int = 8, cache: bool = True, cache_bytes: int = 0):
        self._model = model
        self._driver = Driver(_dsvk.Scheduler(model, context, max_running, max_waiting, chunk, burst, cache, cache_bytes))
        self._closer = weakref.finalize(self, self._driver.close)

    def submit(self, prompt: Prompt, max_tokens: int = 0, *, choices: int = 1, temperature: float = 1.0, top_p: float = 1.0,
               top_k: int = 0, min_p: float = 0.0, seed: int | None = None, stop: Stop = (),
               stop_after: int = 0, stop_before: int = 0, logprobs: int | None = None, prompt_logprobs: bool = False,
               exact: bool = False, priority: int = 0, owner: str = "", cache_key: str = "", bos: bool = True,
               backlog: int = 0, frequency_penalty: float = 0.0, presence_penalty: float = 0.0,
               logit_bias: Mapping[int, float] | None = None, constraint: Constraint | None = None) -> Request:
        """Hands in a request, from any thread, and returns at once.

        prompt: text (special tokens in it stay ordinary text; the begin token comes in front unless bos is false),
        or ids. max_tokens: 0 for as many as the context holds.
        choices: so many continuations of one prompt, which is run once; choice i samples with seed + i, None draws a seed. stop:
        texts or ids that end a choice and are not part of it; the model's own end token always does. stop_after,
        stop_before: texts are looked for only behind the one id and before the other (0: from the start, to the end). logprobs:
        how many of the likeliest tokens to tell with each token's own; prompt_logprobs: of the prompt's tokens, too. exact: use
        only kept prefixes that hold, bit for bit, what this prompt alone would compute. Of the waiting, the highest priority
        begins first, then whose owner has the fewest sequences running. cache_key: kept prefixes are found under the same key
        only. backlog: with so many events that nobody has taken yet the request pauses until half of them are; 0: it never does.
        frequency_penalty, presence_penalty: taken off a token's logit as often as it was generated, and once. logit_bias: what is
        added to the logits of ids. constraint: says before each token which may come (dsvk.constrain makes some); what it raises
        ends this request with "error". Log-probabilities are those of the logits as they were. A request with any of these decodes
        one token at a time.
        Raises LimitError when the prompt leaves no room in the context, BusyError when too many wait.
        """
        stop_ids, stop_texts = stops_of(stop, self._model.vocab_size)
        choices, backlog = count_of("choices", choices), count_of("backlog", backlog, "events")
        if choices == 0:
            raise _dsvk.InvalidError("choices is 0; a request has at least one")
        request = Request(self._driver, self, choices, backlog)
        self._driver.submit(request, {
            "prompt": self._model.prompt_tokens(prompt, bos), "max_tokens": max_tokens, "choices": choices,
            "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p,
            "seed": secrets.randbits(64) if seed is None else seed,
            "stop": end_ids(self._model.config) + stop_ids,
            "stop_texts": [text.encode() for text in stop_texts], "stop_after": stop_after,
            "stop_before": stop_before, "logprobs": 0 if logprobs is None else count_of("logprobs", logprobs) + 1,
            "prompt_logprobs": prompt_logprobs,
            "exact": exact, "priority": priority, "owner": owner, "cache_key": cache_key, "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty, "logit_bias": dict(logit_bias) if isinstance(logit_bias, Mapping) else logit_bias,
            "constraint": constraint})
        return request

    @property
    def report(self) -> dict[str, Any]:
        """Counts of sequences (waiting, running, finished, preempted), tokens, and the cache of kept prefixes."""
        return self._driver.core.report

    @property
    def closed(self) -> bool:
        """True after close()."""
        return not self._closer.alive

    def close(self) -> None:
        """Ends every request and the thread, and frees all memory; requests still iterated over raise CancelledError."""
        self._closer()

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<dsvk.Scheduler closed>"
        try:
            report = self.report
        except _dsvk.StateError:
            return "<dsvk.Scheduler of another process>"
        return f"<dsvk.Scheduler {report['running']} running, {report['waiting']} waiting>"
