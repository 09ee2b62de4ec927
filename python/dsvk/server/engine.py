"""What every request shares: the model, its scheduler, and what is remembered of turns with tool calls."""
from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Callable, Iterable, Mapping

import dsvk
from dsvk.constrain import Constraint, Grammars

from .errors import bad, of_engine, overflow
from .limits import BACKLOG, COMPILERS, LIKELY_CHARACTERS
from .metrics import Metrics

REMEMBERED_TOKENS = 1 << 20
MOST_LOGGED = 256
PIECE = 1 << 14      # characters that are counted at a time
CUT = re.compile("[A-Za-z](?=[ \n])|[一-龥](?=[，。 \n])")      # no word goes on behind it
log = logging.getLogger("dsvk.server")


class Turns:
    """What was sampled, so that the next prompt repeats it exactly and continues the kept prefix: by the id of a turn's first call, for
    the same calls, or, without calls, by what it says, for the same text may be cut into other tokens. At most
    REMEMBERED_TOKENS ids; the least recently used turn goes first."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, tuple[list[int], tuple[str, ...]]] = OrderedDict()
        self._tokens = 0
        self._lock = threading.Lock()

    @staticmethod
    def name(thoughts: str, said: str) -> str:
        """Of a turn without calls."""
        return hashlib.sha256(json.dumps([thoughts, said]).encode()).hexdigest()

    def put(self, id: str, tokens: list[int], calls: Iterable[str] = ()) -> None:
        """calls: ids of all calls of the turn, whose first is `id`."""
        with self._lock:
            self._tokens += len(tokens) - len(self._turns.pop(id, ([], ()))[0])
            self._turns[id] = tokens, tuple(calls)
            while self._tokens > REMEMBERED_TOKENS:
                self._tokens -= len(self._turns.popitem(last=False)[1][0])

    def find(self, wanted: Iterable[tuple[str, Iterable[str]]]) -> Mapping[str, list[int]]:
        """The tokens of those turns (id, calls) that were put with the same calls, by id."""
        with self._lock:
            found = {id: self._turns[id][0] for id, calls in wanted if id in self._turns and self._turns[id][1] == tuple(calls)}
            for id in found:
                self._turns.move_to_end(id)
            return found


Compile = Callable[[], Constraint | None]


@dataclass
class Job:
    """A request in the engine's terms. chat: the answer is a turn of a conversation, not just text; thinking: its mode; inside:
    it begins inside thinking; calls: tool calls are wanted; one_call: and a second one is cut off; call_prefix: of their ids.
    progress: tell how much of the prompt is read. constraint: gives what the answer is held to (constraints.py). logprobs: how many of the
    likeliest tokens to tell, None for no log-probabilities. prompt_field: where the client gave the prompt.

    more_prompts: continued besides, each with as many choices. score_prompt: log-probabilities of the prompt's tokens, too; only_score:
    and no others; unseen: so many tokens begin a prompt that are no part of the client's text."""
    prompt: list[int]
    chat: bool = True
    thinking: bool = False
    inside: bool = False
    max_tokens: int = 0
    choices: int = 1
    sampling: dict[str, Any] = field(default_factory=dict)
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    calls: bool = False
    one_call: bool = False
    call_prefix: str = "call_"
    progress: bool = False
    constraint: Compile | None = None
    user: str = ""
    prompt_field: str = "messages"
    more_prompts: list[list[int]] = field(default_factory=list)
    score_prompt: bool = False
    only_score: bool = False
    unseen: int = 0

    @property
    def prompts(self) -> list[list[int]]:
        return [self.prompt, *self.more_prompts]


class Running(list[dsvk.Request]):
    """A job's requests, one a prompt, of one scheduler."""

    def __init__(self, scheduler: dsvk.Scheduler):
        super().__init__()
        self.scheduler = scheduler

    def cancel(self) -> None:
        for request in self:
            request.cancel()


class Engine:
    """Engine(model, name): the model under a name, with a scheduler that close() ends. After a lost device it goes on, with what it
    remembers, when begin() is given the model opened anew (keeper.py does that).

    context: most tokens of prompt and answer, 0 for the model's largest. max_tokens: most tokens of an answer, 0 for what the
    context holds. isolate: kept prefixes are found only by the same user. revision: of the prompt format, see chat.encode. queue_timeout:
    seconds after which a request that has not begun is given up, 0 for never. any_model: every model name is this one's. strict_history:
    a turn with calls that comes back without its thoughts is refused, as DeepSeek's service does; else they are looked up by the call's id.
    """

    def __init__(self, model: dsvk.Model, name: str, *, scheduler: dsvk.Scheduler | None = None, context: int = 0,
                 max_tokens: int = 0, max_waiting: int = 4096, isolate: bool = False, revision: str | None = None,
                 queue_timeout: float = 0, any_model: bool = False, strict_history: bool = False):
        if model.tokenizer is None:
            raise dsvk.UnsupportedError("the model has no tokenizer.json, which a server needs")
        largest = model.config["max_positions"]
        if not 0 <= context <= largest or max_tokens < 0:
            raise dsvk.InvalidError(f"context: expected 0 to {largest}, got {context}; max_tokens: at least 0, got {max_tokens}")
        self.name, self.revision, self.isolate = name, revision, isolate
        self.any_model, self.strict_history = any_model, strict_history
        self.queue_timeout = queue_timeout or None
        self.context = context or largest
        self.most_tokens = min(max_tokens or self.context, self.context)
        self.max_waiting = max_waiting
        self.created = int(time.time())
        self.turns = Turns()
        self.metrics = Metrics(self)
        self._logged: set[str] = set()
        self.compilers = ThreadPoolExecutor(COMPILERS, "dsvk compiler")
        self._grammars_lock = threading.Lock()
        self._over = threading.Event()
        self.begin(model, scheduler)

    def begin(self, model: dsvk.Model, scheduler: dsvk.Scheduler | None = None) -> None:
        """Serves from this model, the same as before."""
        assert model.tokenizer is not None
        self.model, self.tokenizer = model, model.tokenizer
        think_end, marker = self.tokenizer.id("</think>"), self.tokenizer.id("｜DSML｜")
        if think_end is None or marker is None:
            raise dsvk.UnsupportedError("the tokenizer lacks </think> or ｜DSML｜, which the conversation format needs")
        self.think_end, self.dsml = think_end, marker
        self.fingerprint = fingerprint(model)
        self._grammars: Grammars | None = None
        self.scheduler = scheduler or dsvk.Scheduler(model, context=self.context, max_waiting=self.max_waiting)
        self._over.clear()

    @property
    def current(self) -> Engine:
        """Itself, as a Keeper has an engine at times."""
        return self

    def seen(self, error: dsvk.Error | None, scheduler: dsvk.Scheduler) -> None:
        """Of every error that comes from a scheduler: that its device is lost ends wait(), unless there is another by now."""
        if isinstance(error, dsvk.DeviceLostError) and scheduler is self.scheduler:
            self._over.set()

    def wake(self) -> None:
        """Ends wait()."""
        self._over.set()

    def wait(self) -> None:
        """Until the device is lost, or wake()."""
        self._over.wait()

    @property
    def grammars(self) -> Grammars:
        """What constrains answers; made when first asked for. UnsupportedError when llguidance is not installed."""
        with self._grammars_lock:
            if self._grammars is None:
                self._grammars = Grammars(self.model)
            return self._grammars

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return not self.scheduler.closed

    def status(self) -> dict[str, Any]:
        """What somebody who looks wants to know: the model, its device, memory by purpose in bytes, the scheduler's counts."""
        info, config, memory = self.model.device.info, self.model.config, self.model.device.memory()
        heap = memory.pop("heap", {})
        purposes = {name: {"used": entry["used"], "peak": entry["peak"]} for name, entry in memory.items()}
        return {"model": {"id": self.name, "context": self.context, "bytes": self.model.report["bytes"],
                          **{name: config[name] for name in ("n_layers", "hidden_size", "n_experts", "n_experts_per_token")}},
                "device": {name: info[name] for name in ("name", "type", "driver", "api", "matmul")},
                "memory": {"heap": heap, "purposes": purposes},
                "scheduler": self.scheduler.report, "version": dsvk.__version__}

    def close(self) -> None:
        """Ends the scheduler and with it every request; the model stays open."""
        self.scheduler.close()

    def log_once(self, text: str) -> None:
        """A line of the log, unless it was there before; what strangers can make it say has an end."""
        if text not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(text)
            log.warning("%s", printable(text))

    def submit(self, job: Job, constraint: Constraint | None = None) -> Running:
        """All of a job or nothing; constraint: what its own gave. Stop texts are looked for in the answer's text only: behind the
        thoughts, before the calls."""
        longest = max(map(len, job.prompts))
        if longest >= self.context:
            raise overflow(longest + 1, self.context, job.prompt_field)
        running = Running(self.scheduler)
        user = job.user.encode("unicode_escape").decode()      # any text, also one with a NUL
        try:
            for prompt in job.prompts:
                running.append(running.scheduler.submit(
                    prompt, min(job.max_tokens or self.most_tokens, self.most_tokens), choices=job.choices, stop=job.stop,
                    stop_after=self.think_end if job.inside and job.stop else 0,
                    stop_before=self.dsml if job.chat and job.stop else 0, logprobs=job.logprobs,
                    prompt_logprobs=job.score_prompt, constraint=constraint, backlog=BACKLOG, owner=user,
                    cache_key=user if self.isolate else "", **job.sampling))
            return running
        except dsvk.Error as error:
            running.cancel()
            self.seen(error, running.scheduler)
            raise (bad(None, str(error)) if isinstance(error, dsvk.InvalidError) else of_engine(error)) from None


def refuse_too_long(engine: Engine, texts: Iterable[str], field: str) -> None:
    """Texts of one prompt that surely do not fit, without making tokens of all of them, which may take a minute: pieces are counted
    of those that likely do not, between places where every tokenizer of the family cuts. The error tells the tokens counted."""
    found, texts = 0, list(texts)
    if sum(map(len, texts)) <= LIKELY_CHARACTERS * engine.context:
        return
    for text in texts:
        places = (CUT.search(text, at, at + PIECE) for at in range(0, len(text), PIECE))
        for begin, end in pairwise(place.end() for place in places if place is not None):
            found += len(engine.tokenizer.encode(text[begin:end]))
            if found >= engine.context:
                raise overflow(found + 1, engine.context, field)


async def submitted(engine: Engine, threads: ThreadPoolExecutor, job: Callable[[], Job]) -> tuple[Job, Running]:
    """The job that job() makes in one of these threads, handed in, away from the event loop; if nobody waits for it any more it is
    cancelled. Grammars are compiled in threads that do nothing else, so that those which take long hold up each other and no other
    request."""
    loop, constraint = asyncio.get_running_loop(), None
    made = await loop.run_in_executor(threads, job)
    if made.constraint is not None:
        constraint = await loop.run_in_executor(engine.compilers, made.constraint)

    def cancel(done: asyncio.Task[Running]) -> None:
        if done.exception() is None:
            done.result().cancel()

    task = asyncio.ensure_future(asyncio.to_thread(engine.submit, made, constraint))
    try:
        return made, await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(cancel)
        raise


def printable(text: str, most: int = 256) -> str:
    """Text of strangers as a log may have it: no control characters, and not much."""
    return text[:most].encode("unicode_escape").decode()[:most]


def fingerprint(model: dsvk.Model) -> str:
    """Changes with the build, the device and the weights."""
    info, folder = model.device.info, dsvk.locate(model.report["path"])
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors"))]
    text = json.dumps([dsvk.__version__, info["name"], info["driver"], model.config, files], sort_keys=True, default=str)
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:16]
