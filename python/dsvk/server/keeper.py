"""An engine over its whole life: while its model is being loaded, while it serves, and when its device is lost (faults S07)."""
from __future__ import annotations

import threading
import time
from typing import Callable, Sequence

import dsvk
from dsvk.progress import Callback

from .engine import Engine, log
from .errors import unavailable

PAUSES = (0.0, 1.0, 2.0, 5.0, 15.0, 60.0)      # seconds before each attempt to open a lost device again; the last for all that follow


class Keeper:
    """Keeper(load, make): the engine make(load(progress)), from start() to close() in a thread of its own.

    load: opens the model and its device; it is told what to report progress to, and is called again after the device was lost. What the
    engine remembers of turns and has counted stays then. pauses: seconds before each attempt after a loss. `failure`: why the first
    attempt failed.
    """

    def __init__(self, load: Callable[[Callback], dsvk.Model], make: Callable[[dsvk.Model], Engine], pauses: Sequence[float] = PAUSES):
        self.failure: BaseException | None = None
        self._load, self._make, self._pauses = load, make, pauses
        self._engine: Engine | None = None
        self._state = "the model is being loaded"
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, opened: Callable[[Engine], object] = lambda engine: None, failed: Callable[[], object] = lambda: None) -> None:
        """opened: called when the model is there, each time. failed: called when the first attempt fails. Both in the thread."""
        self._thread = threading.Thread(target=self._run, args=(opened, failed), name="dsvk keeper", daemon=True)
        self._thread.start()

    @property
    def current(self) -> Engine:
        """The engine, if there is one at the moment; else ApiError 503 with Retry-After."""
        engine = self._engine
        if engine is None:
            raise unavailable(self._state)
        return engine

    def close(self) -> None:
        """Ends the engine, its model and the thread. A load is given up at its next step."""
        self._closing.set()
        if self._engine is not None:
            self._engine.wake()
        if self._thread is not None:
            self._thread.join()

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self._closing.is_set():
            raise dsvk.CancelledError("the server ends")
        self._state = f"the model is being loaded: {stage}, {100 * done // total if total else 0} %"

    def _run(self, opened: Callable[[Engine], object], failed: Callable[[], object]) -> None:
        try:
            engine = self._make(self._load(self._progress))
        except BaseException as failure:
            self.failure = failure
            failed()
            return
        while True:
            self._engine = engine
            if not self._closing.is_set():
                opened(engine)
                engine.wait()
            self._engine, self._state = None, "the device was lost, and is being opened again"
            engine.close()
            self._let_go(engine.model)
            if self._closing.is_set() or not self._again(engine):
                return

    @staticmethod
    def _let_go(model: dsvk.Model) -> None:
        """Requests that came before may still be in a short call of it."""
        while not model.closed:
            try:
                model.close()
            except dsvk.BusyError:
                time.sleep(0.01)

    def _again(self, engine: Engine) -> bool:
        """Opens the model anew for an engine that lost its device, as often as that takes; false when it is to end before."""
        log.error("the device was lost; it is opened again")
        attempt = 0
        while not self._closing.wait(self._pauses[min(attempt, len(self._pauses) - 1)]):
            attempt += 1
            try:
                engine.begin(self._load(self._progress))
                return True
            except Exception as error:      # whatever it is, the next attempt may do better
                log.error("attempt %d to open the model again: %s", attempt, error)
                self._state = "the device was lost, and could not be opened again so far"
        return False
