"""Progress on a terminal: tqdm where it is installed, one rewritten line where it is not, nothing when nobody looks."""
from __future__ import annotations

import sys
from typing import Any, Callable, TextIO, Union

from .tables import size

Callback = Callable[[str, int, int], object]
Progress = Union[None, bool, Callback]

TOKENS = ("tokens", "decode")     # stages that are counted in tokens; the others are in bytes


class Line:
    """A callback (stage, done, total) that keeps one line of stderr up to date."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.last: tuple[str, int] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        percent = 100 * done // total if total else 0
        if (stage, percent) != self.last:
            self.last = stage, percent
            print(f"\r{stage} {percent:3d} % of {f'{total:,} tokens' if stage in TOKENS else size(total)}\x1b[K", end="", file=self.stream, flush=True)

    def close(self) -> None:
        if self.last is not None:
            print("\r\x1b[K", end="", file=self.stream, flush=True)


class Bar:
    """The same with tqdm, which knows notebooks too."""

    def __init__(self, tqdm: Any):
        self.tqdm, self.stage = tqdm, ""
        self.bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.close()
            bytes_ = stage not in TOKENS
            self.bar = self.tqdm(total=total, desc=stage, unit="B" if bytes_ else " tokens", unit_scale=bytes_, leave=False)
            self.stage = stage
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Shown:
    """`with Shown(progress) as callback`: True becomes a display that goes away at the end."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.display: Bar | Line | None = None

    def __enter__(self) -> Callback | None:
        if self.progress is not True:
            return self.progress or None
        try:
            from tqdm.auto import tqdm
            self.display = Bar(tqdm)
        except ImportError:
            self.display = Line() if sys.stderr.isatty() else None
        return self.display

    def __exit__(self, *exception: object) -> None:
        if self.display is not None:
            self.display.close()
