"""dsvk.Model, and what can be asked about a model without loading it."""
from __future__ import annotations

import asyncio
import concurrent.futures
import os
import secrets
import time
from pathlib import Path
from typing import Any, AsyncIterator, Literal, Sequence, Union, Unpack, overload

from . import _dsvk, hub
from .device import Device
from .generation import GenerateOptions, Generation, Prompt, Stop, stops_of
from .plans import Plan
from .progress import Callback, Progress, Shown
from .session import Options, Pace, Session, count_of, list_of, room_for
from .tables import html_table, size
from .trace import Trace

ModelPath = Union[str, "os.PathLike[str]"]


def locate(path: ModelPath, progress: Progress = None, files: Sequence[str] = hub.FILES) -> Path:
    """The folder of a model: "nano" is the small one that comes with the package, "org/name" a repository's (dsvk.hub), unless
    there is a folder of that name. progress: of a download, of those files that are wanted."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a folder or the name of a model, got {path!r}")
    if path == "nano" and not os.path.exists(path):
        return Path(__file__).parent / "nano"
    return hub.pull(str(path), progress=progress, files=files) if hub.is_name(path) else Path(path)


def plan(path: ModelPath, context: int = 0, device: Device | None = None, cache: str = "native", max_chunk: int = 0,
         page_tokens: int = 0) -> Plan:
    return Plan(_dsvk.plan(locate(path, files=["config.json"]), context, device, cache, max_chunk, page_tokens))


def verify(path: ModelPath, progress: Progress = None, strict: bool = False, threads: int = 0) -> dict[str, Any]:
    folder = locate(path, progress)
    with Shown(progress) as callback:
        return _dsvk.verify(folder, callback, strict, threads)


plan.__doc__, verify.__doc__ = _dsvk.plan.__doc__, _dsvk.verify.__doc__


class Model(_dsvk.Model):
    """Immutable weights on a device, shared by any number of sessions.

    path: a folder in the published safetensors layout, "org/name" for a repository's (dsvk.hub), or "nano" for the small model that
    comes with the package.
    device: a Device, or what Device takes as its choice; None for the best one. budgets: bytes by purpose for the device
    opened here. progress: True for a bar, or a callable (stage, done, total) in bytes. cache: "native" (FP8 and FP4 rows,
    lossless against the published code) or "f32". strict: unknown tensors are an error. verify: NaN or infinity in a
    weight is an error. max_chunk: most rows of one forward pass, 0 for 512. page_tokens: tokens per cache page, a multiple of 128,
    0 for 512. threads: that read files, 0 for 2.
    Raises FormatError, UnsupportedError, FileError for the files; NoDeviceError, DeviceMemoryError for the device.
    """

    def __init__(self, path: ModelPath, device: Device | str | int | None = None, budgets: dict[str, int] | None = None,
                 progress: Progress = None, cache: str = "native", strict: bool = False, verify: bool = False,
                 max_chunk: int = 0, page_tokens: int = 0, threads: int = 0):
        if isinstance(device, _dsvk.Device):
            if budgets:
                raise _dsvk.InvalidError("budgets belong to the device: pass them to dsvk.Device")
            self._own_device = None
        else:
            device = self._own_device = Device(device, budgets=budgets)
        folder = locate(path, progress)
        with Shown(progress) as callback:
            super().__init__(folder, device, callback, cache, strict, verify, max_chunk, page_tokens, threads)

    def close(self) -> None:
        """Lets go of the weights; they are freed when the last session of the model is closed."""
        super().close()
        if self._own_device is not None:
            self._own_device.close()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def session(self, context: int = 0, mtp: bool = False, progress: Callback | None = None) -> Session:
        """A new empty timeline. context: most tokens, 0 for the model's largest; mtp: keep MTP logits available; progress: called as
        dsvk.Session says."""
        return Session(self, context, mtp, progress)

    def prompt_tokens(self, prompt: Prompt, bos: bool = True) -> list[int]:
        """The ids generate starts from: a text's with the begin token in front unless bos is false; ids as they are."""
        if not isinstance(prompt, (str, bytes, bytearray)):
            return list_of("prompt", prompt, "text or token ids")
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise _dsvk.UnsupportedError("the model has no tokenizer.json: give the prompt as token ids")
        begin = self.config["bos_token_id"] if bos else -1
        return ([begin] if begin >= 0 else []) + tokenizer.encode(prompt)

    @overload
    def generate(self, prompt: Prompt, max_tokens: int = 256, stream: Literal[False] = False,
                 **options: Unpack[GenerateOptions]) -> str: ...

    @overload
    def generate(self, prompt: Prompt, max_tokens: int = 256, *, stream: Literal[True],
                 **options: Unpack[GenerateOptions]) -> Generation: ...

    @overload
    def generate(self, prompt: Prompt, max_tokens: int, stream: Literal[True],
                 **options: Unpack[GenerateOptions]) -> Generation: ...

    @overload
    def generate(self, prompt: Prompt, max_tokens: int = 256, stream: bool = False,
                 **options: Unpack[GenerateOptions]) -> str | Generation: ...

    def generate(self, prompt: Prompt, max_tokens: int = 256, stream: bool = False, *, temperature: float = 1.0,
                 top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0, seed: int | None = None,
                 stop: Stop = (), bos: bool = True, **further: Any) -> str | Generation:
        """Continues a text: str, or with stream=True an iterator of pieces of it, whole characters only.

        prompt: text (special tokens in it stay ordinary text), or ids. temperature 1 and top_p 1 are what the model card
        recommends; temperature 0 takes the most likely token; top_k 0, min_p 0: off. seed: None draws one. stop: texts or ids that end
        the generation and are not part of the result; the model's own end token always does. bos: whether the begin token stands before
        a text. further: frequency_penalty, presence_penalty, logit_bias and constraint of Session.decode; dsvk.constrain makes
        constraints, of JSON schemas among others. Raises LimitError when the prompt is more than the context; a context that fills up
        ends the text.
        """
        stop_ids, stop_texts = stops_of(stop, self.vocab_size)
        max_tokens = count_of("max_tokens", max_tokens)
        config, tokens = self.config, self.prompt_tokens(prompt, bos)
        if not tokens:
            raise _dsvk.InvalidError("the prompt is empty")
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise _dsvk.UnsupportedError("the model has no tokenizer.json: use session() for token ids")
        largest = config["max_positions"]
        if len(tokens) > largest:
            raise _dsvk.LimitError(f"{len(tokens)} tokens are more than the context of {largest}")
        max_tokens = min(max_tokens, largest - len(tokens))
        options = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p,
                   "seed": secrets.randbits(64) if seed is None else seed, **further}
        Options([len(tokens)], **options)       # what is wrong with them is said before anything is computed
        generation = Generation(self.session(context=len(tokens) + max_tokens), tokenizer.decoder(), tokens, max_tokens,
                                options, end_ids(config) + stop_ids, stop_texts)
        return generation if stream else "".join(generation)

    async def astream(self, prompt: Prompt, max_tokens: int = 256, **options: Unpack[GenerateOptions]) -> AsyncIterator[str]:
        """generate(..., stream=True) for `async for`: the event loop runs on while the device works. options: those of generate. A
        loop that is left early, or cancelled, ends the generation; dsvk.Scheduler runs many of them at once."""
        generation = self.generate(prompt, max_tokens, True, **options)
        loop, pool = asyncio.get_running_loop(), concurrent.futures.ThreadPoolExecutor(1, "dsvk.astream")  # one thread at a time
        try:
            while (piece := await loop.run_in_executor(pool, next, generation, None)) is not None:
                yield piece
        finally:
            if not generation.session.closed:
                generation.session.cancel()
            await loop.run_in_executor(pool, generation.close)
            pool.shutdown(wait=False)

    def trace(self, tokens: Prompt, progress: Progress = None) -> Trace:  # type: ignore[override]
        """Runs a prompt (text, or ids) from nothing and keeps what the forward pass goes through: router choices, indexer selections
        and scores, compressed rows, hyper-connection coefficients, streams, logits. See dsvk.Trace for names and shapes. All of it
        stays in host memory: about 24 * hidden size * layers bytes for every token."""
        ids = self.prompt_tokens(tokens)
        with Shown(progress) as callback:
            entries = super().trace(ids, callback)
        tokenizer = self.tokenizer
        return Trace(entries, ids, [tokenizer.decode([id]) for id in ids] if tokenizer else [], self.config)

    def decode(self, sessions: Sequence[Session], n: int, **options: Any) -> list[list[int]]:
        """Session.decode for many different sessions of this model at once, one row each per step, which costs little
        more than one of them alone. options: those of Session.decode; seed: one for all, or one per session. Returns a list of ids per
        session."""
        sessions, n = list_of("sessions", sessions, "sessions of this model"), count_of("n", n)
        for i, session in enumerate(sessions):
            if not isinstance(session, _dsvk.Session):
                raise TypeError(f"sessions[{i}]: expected a dsvk.Session, got {session!r}")
            if session.model is not self:
                raise _dsvk.InvalidError(f"sessions[{i}] belongs to another model")
            room_for(session, n)
        told = Options([session.position for session in sessions], **options)
        rows: list[list[int]] = [[] for _ in sessions]
        running, pace = list(range(len(sessions))), Pace()
        while n > 0 and running:
            wanted = min(n, pace.tokens)
            start = time.perf_counter()
            new = _dsvk.decode_batch([sessions[i] for i in running], wanted, [told.of(i) for i in running])
            pace.measured(wanted, time.perf_counter() - start)
            for i, ids in zip(running, new):
                told.decoded(i, ids)
                rows[i] += ids
            running = [i for i, ids in zip(running, new) if len(ids) == wanted and ids[-1] not in told.stop]
            n -= wanted
        return rows

    def __repr__(self) -> str:
        return "<dsvk.Model closed>" if self.closed else f"<dsvk.Model {self.report['path']!r} on {self.device!r}>"

    def _repr_html_(self) -> str:
        if self.closed:
            return "<i>dsvk.Model closed</i>"
        config, report = self.config, self.report
        names = ("n_layers", "hidden_size", "n_experts", "n_experts_per_token", "vocab_size", "max_positions")
        rows = [{"": name, "value": config[name]} for name in names]
        return html_table(rows, caption=f"{report['path']}: {size(report['bytes'])}")


def end_ids(config: dict[str, Any]) -> list[int]:
    """The end token's id, if the configuration names one (-1: none)."""
    return [config["eos_token_id"]] if config["eos_token_id"] >= 0 else []
