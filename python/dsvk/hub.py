"""Models by the name of a repository: "org/name" is looked for in huggingface_hub's cache and fetched where it is not there.

    dsvk.Model("org/name")                  # or dsvk pull org/name

The hub's own environment variables hold: HF_HOME (where the cache is), HF_HUB_OFFLINE=1 (nothing is fetched), HF_ENDPOINT, HF_TOKEN.
What was interrupted goes on where it stopped. Only what a model is read from is fetched: configuration, tokenizer, safetensors.
"""
from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any, Sequence

from . import _dsvk
from .progress import Callback, Progress, Shown
from .tables import size

__all__ = ["pull"]

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json")


def is_name(path: object) -> bool:
    """Whether a path can be meant as "org/name": nothing lies there."""
    return isinstance(path, str) and NAME.fullmatch(path) is not None and not os.path.exists(path)


def bar_class(callback: Callback | None, total: int) -> type:
    """A silent progress bar in which the hub counts; its bytes go to the callback, one thread at a time."""
    from tqdm.auto import tqdm
    lock, done = threading.Lock(), 0

    class Counter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any):
            self.counts = kwargs.get("unit") == "B" and not str(kwargs.pop("name", "")).endswith(".transfer")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if self.counts and callback is not None:
                with lock:
                    done += int(n or 0)
                    callback("download", min(done, total), total)
    return Counter


def check_room(name: str, missing: int, cache: str) -> None:
    """FileError before the first byte when the disk has no room for what is missing."""
    folder = Path(cache).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise _dsvk.FileError(f"{name}: {size(missing)} are to be downloaded, and {folder} has {size(free)} free")


def why_not(error: BaseException | None, host: str) -> str:
    """Why nothing could be fetched: what the hub answered or, without an answer, what happened; None: nobody asked it."""
    if error is None:
        return "nothing is fetched offline"
    if getattr(error, "response", None) is None:
        return f"{host} cannot be reached ({type(error).__name__}: {error})"
    return " ".join(filter(None, str(error).splitlines()[:3])).rstrip(".")     # the status, an empty line, and what it is about


def pull(name: str, revision: str = "main", progress: Progress = None, offline: bool = False,
         files: Sequence[str] = FILES) -> Path:
    """The folder of a repository's model, fetched where it is not in the cache. revision: a branch, a tag or a commit. offline: nothing
    is fetched. progress: as in dsvk.Model, in bytes. files: patterns of the names that are wanted. Raises UnsupportedError
    without huggingface_hub, FileError for what cannot be had."""
    if not isinstance(name, str):
        raise TypeError(f"name: expected the name of a repository, as in org/name, got {name!r}")
    if NAME.fullmatch(name) is None:
        raise _dsvk.InvalidError(f"{name!r}: expected the name of a repository, as in org/name")
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise _dsvk.UnsupportedError(f"{name}: no such folder; for repositories of that name: pip install 'dsvk[hub]'") from None
    options: dict[str, Any] = {"revision": revision, "allow_patterns": list(files)}
    offline = offline or constants.HF_HUB_OFFLINE
    total, failure = 0, None
    try:
        if not offline:
            try:
                plan = huggingface_hub.snapshot_download(name, dry_run=True, tqdm_class=bar_class(None, 0), **options)
                total = sum(file.file_size or 0 for file in plan if file.will_download)
                check_room(name, total, constants.HF_HUB_CACHE)
            except errors.DryRunError as error:
                offline, failure = True, error.__cause__       # what is in the cache will do
        with Shown(progress if total else None) as callback:
            return Path(huggingface_hub.snapshot_download(name, local_files_only=offline, tqdm_class=bar_class(callback, total), **options))
    except errors.LocalEntryNotFoundError as error:
        failure = failure or error.__cause__
        raise _dsvk.FileError(f"{name} ({revision}): {why_not(failure, constants.ENDPOINT)}, and not all of it is in the cache "
                              f"{constants.HF_HUB_CACHE}") from failure
    except errors.HfHubHTTPError.__bases__[0] as error:     # HTTPError of the client that this huggingface_hub stands on
        raise _dsvk.FileError(f"{name} ({revision}): {why_not(error, constants.ENDPOINT)}") from error
    except _dsvk.Error:
        raise
    except (errors.HFValidationError, OSError) as error:    # a bad revision; a cache that cannot be read or written
        raise _dsvk.FileError(f"{name} ({revision}): {error}") from error
