"""Text from a prompt: a session, a streaming decoder, and stop texts, as an iterator of pieces of text."""
from __future__ import annotations

import time
from typing import Any, Generator, Iterable, Iterator, Mapping, Sequence, TypedDict, Union

from . import _dsvk
from .session import Constraint, Session, integer

Prompt = Union[str, bytes, Sequence[int]]
Stop = Union[str, int, Iterable[Union[str, int]]]


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of Model.generate, for type checkers."""
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    stop: Stop
    bos: bool
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float] | None
    constraint: Constraint | None


def stops_of(stop: Stop, vocab_size: int) -> tuple[list[int], list[str]]:
    """The ids and the texts that end a generation. Raises TypeError for what is neither, InvalidError for an id outside the
    vocabulary."""
    one = isinstance(stop, (str, bytes, bytearray)) or integer(stop) is not None
    items: Iterable[object] = stop if isinstance(stop, Iterable) and not one else [stop]
    ids: list[int] = []
    texts: list[str] = []
    for item in items:
        id = integer(item)
        if isinstance(item, str):
            texts.append(item)
        elif id is None:
            raise TypeError(f"stop: expected texts or token ids, got {item!r}")
        elif 0 <= id < vocab_size:
            ids.append(id)
        else:
            raise _dsvk.InvalidError(f"stop: id {id} is outside the vocabulary, 0 .. {vocab_size - 1}")
    return ids, texts


def held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of text that may be the beginning of a stop text."""
    longest = 0
    for stop in stops:
        for n in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:n]):
                longest = n
                break
    return longest


def first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the earliest stop text begins, or -1."""
    return min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=-1)


class Generation:
    """An iterator of pieces of text (whole characters), made by Model.generate(..., stream=True).

    `tokens` are the ids sampled so far, `prompt_tokens` the prompt's. `prefill_seconds` and `decode_seconds` are the times
    spent so far, `finish` is None, then "stop" (the end token or a stop text) or "length". `session` stays open until the
    iterator ends or is closed, and can be asked for its memory until then.
    """

    def __init__(self, session: Session, decoder: _dsvk.Decoder, prompt_tokens: list[int], max_tokens: int, options: dict[str, Any],
                 end_ids: Sequence[int], stop_texts: Sequence[str]):
        self.session = session
        self.prompt_tokens = prompt_tokens
        self.tokens: list[int] = []
        self.prefill_seconds = self.decode_seconds = 0.0
        self.finish: str | None = None
        self.memory: dict[str, Any] = {}
        self._decoder = decoder
        self._max_tokens = max_tokens
        self._options = options
        self._end_ids = frozenset(end_ids)
        self._stop_texts = [stop for stop in stop_texts if stop]
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the generation early and frees its session."""
        self._pieces.close()
        self.session.close()

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _slices(self) -> Iterator[list[int]]:
        """Lists of new ids, timed; the end token is not among them."""
        start = time.perf_counter()
        self.session.sync(self.prompt_tokens)
        self.prefill_seconds = time.perf_counter() - start
        start = time.perf_counter()
        for ids in self.session.stream(self._max_tokens, stop=self._end_ids, **self._options):
            self.decode_seconds += time.perf_counter() - start
            self.tokens += ids
            ended = bool(ids) and ids[-1] in self._end_ids
            yield ids[:-1] if ended else ids
            if ended:
                self.finish = "stop"
            start = time.perf_counter()

    def _run(self) -> Generator[str, None, None]:
        held = ""
        try:
            for ids in self._slices():
                text = held + "".join(map(self._decoder.push, ids))
                at = first_stop(text, self._stop_texts)
                if at >= 0:
                    self.finish = "stop"
                    if at:
                        yield text[:at]
                    return
                keep = len(text) - held_back(text, self._stop_texts)
                text, held = text[:keep], text[keep:]
                if text:
                    yield text
            self.finish = self.finish or "length"
            rest = held + self._decoder.finish()
            if rest:
                yield rest
        finally:
            if not self.session.closed:
                self.memory = self.session.memory
                self.session.close()
