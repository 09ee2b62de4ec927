"""dsvk.Session: decoding in slices, so that Ctrl-C is served and text can stream, at no cost to the speed."""
from __future__ import annotations

import operator
import time
from typing import Any, Iterable, Iterator, Mapping, Protocol, Sequence

from . import _dsvk
from .tables import html_table, size

SLICE_SECONDS = 0.2   # of device work between two looks at signals; Ctrl-C is promised within 1 s
SLICE_TOKENS = 64


class Pace:
    """How many tokens fit into a slice, from the time the last ones took."""

    def __init__(self) -> None:
        self.tokens = 1

    def measured(self, tokens: int, seconds: float) -> None:
        fitting = int(SLICE_SECONDS * tokens / max(seconds, 1e-6))
        self.tokens = max(1, min(fitting, 2 * self.tokens, SLICE_TOKENS))


class Constraint(Protocol):
    """What Session.decode, Model.generate and Scheduler.submit take as constraint. after: the id of a token behind which it begins, at
    full speed until then; 0: with the first token."""
    after: int

    def mask(self, choice: int, ids: list[int]) -> bytes | None:
        """Called before each token, in the thread that decodes (a scheduler's own). choice: of a request, or the session's index in
        Model.decode. ids: those generated since the last call for this choice. A bit for every token that may come next, in 32-bit
        words: (vocab_size + 31) // 32 * 4 bytes; None: every one."""
        ...


class Options:
    """What decoding is told for some timelines, slice by slice: the keyword arguments of Session.decode, and which ids are generated.
    begun: where each timeline stands."""

    def __init__(self, begun: Sequence[int], *, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0,
                 seed: int | Sequence[int] = 0, stop: Iterable[int] = (), frequency_penalty: float = 0.0, presence_penalty: float = 0.0,
                 logit_bias: Mapping[int, float] | None = None, constraint: Constraint | None = None, **unknown: object):
        if unknown:
            raise TypeError(f"decoding has no option {', '.join(unknown)}")
        self.stop = list_of("stop", stop, "token ids")
        one = integer(seed)
        if one is not None:
            self.seeds = [one] * len(begun)
        elif isinstance(seed, Iterable):
            self.seeds = list(seed)
        else:
            raise TypeError(f"seed: expected an integer, or one per session, got {seed!r}")
        if len(self.seeds) != len(begun):
            raise _dsvk.InvalidError(f"seed: expected one per session, {len(begun)}, got {len(self.seeds)}")
        self.shared = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "stop": self.stop,
                       "frequency_penalty": frequency_penalty, "presence_penalty": presence_penalty, "logit_bias": logit_bias}
        self.parts = [None if constraint is None else Part(constraint, i) for i in range(len(begun))]
        self.begun = begun

    def of(self, i: int) -> dict[str, Any]:
        """For the next slice of timeline i."""
        return {**self.shared, "seed": self.seeds[i], "generated_from": self.begun[i], "constraint": self.parts[i]}

    def decoded(self, i: int, ids: list[int]) -> None:
        """What that slice gave."""
        part = self.parts[i]
        if part:
            part.untold += ids[part.told:]
            part.told = 0


class Part:
    """A constraint's choice. The library tells of the ids of one slice; those behind the last question of earlier slices come first."""

    def __init__(self, constraint: Constraint, choice: int):
        if not (hasattr(constraint, "after") and hasattr(constraint, "mask")):
            raise TypeError(f"constraint: expected an object with after and mask, got {constraint!r}")
        self.constraint, self.choice, self.after = constraint, choice, constraint.after
        self.untold: list[int] = []
        self.told = 0

    def mask(self, _: int, ids: list[int]) -> bytes | None:
        new, self.untold = self.untold + ids, []
        self.told += len(ids)
        return self.constraint.mask(self.choice, new)


def integer(value: object) -> int | None:
    """An integer of any kind (numpy's too) as int; None for what is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def list_of(name: str, value: object, what: str) -> list[Any]:
    """The items of an argument. Raises TypeError for what has none."""
    try:
        items = iter(value)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"{name}: expected {what}, got {value!r}") from None
    return list(items)


def count_of(name: str, value: object, of: str = "tokens") -> int:
    """A number of tokens, or of what `of` says. Raises TypeError for what is no integer, InvalidError for less than 0."""
    count = integer(value)
    if count is None:
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if count < 0:
        raise _dsvk.InvalidError(f"{name}: expected 0 or more {of}, got {count}")
    return count


def room_for(session: _dsvk.Session, n: int) -> None:
    """LimitError when n more tokens are more than the context, before anything is computed."""
    if session.position + n > session.context:
        raise _dsvk.LimitError(f"{session.position} + {n} = {session.position + n} tokens are more than the context of "
                               f"{session.context}")


class Session(_dsvk.Session):
    """Session(model, context=0, mtp=False, progress=None): one timeline of tokens on a model; use model.session().

    context: most tokens, 0 for the model's largest; memory grows as it is used. mtp: keep the multi-token-prediction
    block in step, so that mtp_logits() can be read. progress(stage, done, total) is called with tokens while syncing, evaluating
    and decoding; an exception it raises stops the call. One call at a time: a second one raises BusyError.
    """

    def stream(self, n: int, **options: Any) -> Iterator[list[int]]:
        """decode, as an iterator of lists of the ids that are new. options: its keyword arguments."""
        told, pace, n = Options([self.position], **options), Pace(), count_of("n", n)
        room_for(self, n)
        while n > 0:
            wanted = min(n, pace.tokens)
            start = time.perf_counter()
            ids = super().decode(wanted, **told.of(0))
            pace.measured(wanted, time.perf_counter() - start)
            told.decoded(0, ids)
            yield ids
            n -= wanted
            if len(ids) < wanted or ids[-1] in told.stop:
                return

    def decode(self, n: int, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0,  # type: ignore[override]
               min_p: float = 0.0, seed: int = 0, stop: Iterable[int] = (), **options: Any) -> list[int]:
        """Appends up to n sampled tokens and returns their ids.

        temperature 0 takes the most likely token (the lowest id on ties). top_p 1, top_k 0, min_p 0: off. The same seed
        after the same prefix gives the same tokens, whoever else is decoding. An id in `stop` ends decoding and is the
        last one returned. Further: frequency_penalty and presence_penalty (taken off the logits of what was generated here), logit_bias
        ({id: what is added to its logit}), constraint (says before each token which may come: dsvk.constrain makes some; what it raises
        is raised here); with any of them a token takes a submit of its own. Raises StateError when the timeline is empty, LimitError
        before anything is computed when n more tokens are more than the context. After Ctrl-C the tokens decoded so far are in
        `tokens`.
        """
        return [id for ids in self.stream(n, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed, stop=stop,
                                          **options) for id in ids]

    def __repr__(self) -> str:
        return "<dsvk.Session closed>" if self.closed else f"<dsvk.Session {self.position} of {self.context} tokens>"

    def _repr_html_(self) -> str:
        if self.closed:
            return "<i>dsvk.Session closed</i>"
        try:
            memory = self.memory
        except _dsvk.StateError:
            return "<i>dsvk.Session of another process</i>"
        rows = [{"memory": name, "size": size(value)} for name, value in memory.items()
                if isinstance(value, (int, float))]
        return html_table(rows, caption=f"Session: {self.position} of {self.context} tokens")
