"""dsvk.Session: decoding in slices, so that Ctrl-C is served and text can stream, at no cost to the speed."""
from __future__ import annotations

import time
from typing import Any, Iterable, Iterator

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


def sampling(temperature: float, top_p: float, top_k: int, min_p: float, seed: int, stop: Iterable[int]) -> dict[str, Any]:
    return {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed, "stop": list(stop)}


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

    def stream(self, n: int, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0,
               seed: int = 0, stop: Iterable[int] = ()) -> Iterator[list[int]]:
        """decode, as an iterator of lists of the ids that are new."""
        options = sampling(temperature, top_p, top_k, min_p, seed, stop)
        room_for(self, n)
        pace = Pace()
        while n > 0:
            wanted = min(n, pace.tokens)
            start = time.perf_counter()
            ids = super().decode(wanted, **options)
            pace.measured(wanted, time.perf_counter() - start)
            yield ids
            n -= wanted
            if len(ids) < wanted or ids[-1] in options["stop"]:
                return

    def decode(self, n: int, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0,  # type: ignore[override]
               min_p: float = 0.0, seed: int = 0, stop: Iterable[int] = ()) -> list[int]:
        """Appends up to n sampled tokens and returns their ids.

        temperature 0 takes the most likely token (the lowest id on ties). top_p 1, top_k 0, min_p 0: off. The same seed
        after the same prefix gives the same tokens, whoever else is decoding. An id in `stop` ends decoding and is the
        last one returned. Raises StateError when the timeline is empty, LimitError before anything is computed when n
        more tokens are more than the context. After Ctrl-C the tokens decoded so far are in `tokens`.
        """
        return [id for ids in self.stream(n, temperature, top_p, top_k, min_p, seed, stop) for id in ids]

    def __repr__(self) -> str:
        return "<dsvk.Session closed>" if self.closed else f"<dsvk.Session {self.position} of {self.context} tokens>"

    def _repr_html_(self) -> str:
        if self.closed:
            return "<i>dsvk.Session closed</i>"
        rows = [{"memory": name, "size": size(value)} for name, value in self.memory.items()
                if isinstance(value, (int, float))]
        return html_table(rows, caption=f"Session: {self.position} of {self.context} tokens")
