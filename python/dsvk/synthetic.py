"""Models of known shapes without their weights: checkpoints of random contents at the widths of a published model, with fewer
layers and experts, for measuring speed.

    flash                        all of V4-Flash
    flash:layers=4,experts=32    its first 4 layers, 32 experts in each
    pro:ratios=4/128             two layers of chosen kinds: 0 is SWA, 4 CSA, 128 HCA

The bytes moved and the work done are those of the real layers; the outputs mean nothing. Experts are chosen by score in every
layer and there is no MTP block. `vocab` is 16384 where nothing is said: embedding and head are the only parts that know it.
"""
from __future__ import annotations

import json
import math
import os
import random
import shutil
import tempfile
from array import array
from pathlib import Path
from typing import Any, Iterator

from . import _dsvk
from .progress import Callback

HERE = Path(__file__).parent
FAMILIES = {"flash": HERE / "families/flash.json", "pro": HERE / "families/pro.json", "nano": HERE / "nano/config.json"}
VOCABULARY = 16384


# ---- what was asked for ----

def number(word: str, value: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise _dsvk.InvalidError(f"{word}={value}: expected a number of at least 1")
    return int(value)


def ratios_of(value: str) -> list[int]:
    words = value.split("/")
    if not all(word in ("0", "4", "128") for word in words):
        raise _dsvk.InvalidError(f"ratios={value}: expected 0 (SWA), 4 (CSA) or 128 (HCA), with / between them")
    return [int(word) for word in words]


class Synthetic:
    """A parsed "flash:layers=4,experts=32": `config` is what is written, `family_config` that of the whole model."""

    def __init__(self, text: str):
        self.text = text
        self.family, _, rest = text.partition(":")
        if self.family not in FAMILIES:
            raise _dsvk.InvalidError(f"{self.family!r} is no family of models: {', '.join(FAMILIES)}")
        self.family_config = json.loads(FAMILIES[self.family].read_text(encoding="utf-8"))
        options: dict[str, str] = {}
        for name, value in (self.option(word) for word in rest.split(",") if word):
            if name in options:
                raise _dsvk.InvalidError(f"{name}={options[name]} and {name}={value}: give one of them")
            options[name] = value
        self.config = self.cut(options)
        self.check()

    def option(self, word: str) -> tuple[str, str]:
        name, equals, value = word.partition("=")
        if not equals or name not in ("layers", "experts", "ratios", "vocab"):
            raise _dsvk.InvalidError(f"{word!r}: expected layers=N, experts=N, vocab=N or ratios=0/4/128")
        return name, value

    def cut(self, options: dict[str, str]) -> dict[str, Any]:
        whole = self.family_config
        ratios = whole["compress_ratios"][:whole["num_hidden_layers"]]
        if "ratios" in options:
            ratios = ratios_of(options["ratios"])
            if "layers" in options:
                raise _dsvk.InvalidError("layers and ratios both say how many layers there are: give one of them")
        if "layers" in options:
            layers = number("layers", options["layers"])
            if layers > len(ratios):
                raise _dsvk.InvalidError(f"layers={layers}: {self.family} has {len(ratios)}")
            ratios = ratios[:layers]
        experts = number("experts", options["experts"]) if "experts" in options else whole["n_routed_experts"]
        vocab = number("vocab", options["vocab"]) if "vocab" in options else min(VOCABULARY, whole["vocab_size"])
        return {**whole, "compress_ratios": ratios + [0], "num_hidden_layers": len(ratios), "num_hash_layers": 0,
                "num_nextn_predict_layers": 0, "n_routed_experts": experts, "vocab_size": vocab,
                "num_experts_per_tok": min(experts, whole["num_experts_per_tok"])}

    def check(self) -> None:
        """What the library says of such a configuration, with what was asked for in the place of a file's name."""
        with tempfile.TemporaryDirectory(prefix="dsvk-synthetic-") as folder:
            path = write_config(self, folder)
            try:
                _dsvk.plan(folder)
            except (_dsvk.FormatError, _dsvk.UnsupportedError) as error:
                raise _dsvk.InvalidError(str(error).replace(path, self.text)) from None


# ---- names and shapes ----

Tensor = tuple[str, str, tuple[int, ...]]      # name, kind, shape

def layer_tensors(c: dict[str, Any], p: str, ratio: int, hashed: bool) -> list[Tensor]:
    """[(name, kind, shape)] of one block; kinds FP8 and FP4 stand for a `.weight` and a `.scale`, shape [out, in]."""
    D, H, dh, Rq = c["hidden_size"], c["num_attention_heads"], c["head_dim"], c["q_lora_rank"]
    G, Ro, E, I = c["o_groups"], c["o_lora_rank"], c["n_routed_experts"], c["moe_intermediate_size"]
    Hi, di = c["index_n_heads"], c["index_head_dim"]
    experts = c["expert_dtype"].upper()
    a, f = p + "attn.", p + "ffn."

    def compressor(q: str, d: int) -> list[Tensor]:
        width = 2 * d if ratio == 4 else d
        return [(q + "ape", "F32", (ratio, width)), (q + "wkv.weight", "BF16", (width, D)),
                (q + "wgate.weight", "BF16", (width, D)), (q + "norm.weight", "BF16", (d,))]

    t: list[Tensor] = [(p + "attn_norm.weight", "BF16", (D,)), (p + "ffn_norm.weight", "BF16", (D,))]
    for site in ("attn", "ffn"):
        t += [(f"{p}hc_{site}_fn", "F32", (24, 4 * D)), (f"{p}hc_{site}_base", "F32", (24,)),
              (f"{p}hc_{site}_scale", "F32", (3,))]
    t += [(a + "attn_sink", "F32", (H,)), (a + "wq_a", "FP8", (Rq, D)), (a + "q_norm.weight", "BF16", (Rq,)),
          (a + "wq_b", "FP8", (H * dh, Rq)), (a + "wkv", "FP8", (dh, D)), (a + "kv_norm.weight", "BF16", (dh,)),
          (a + "wo_a", "FP8", (G * Ro, H * dh // G)), (a + "wo_b", "FP8", (D, G * Ro))]
    if ratio:
        t += compressor(a + "compressor.", dh)
    if ratio == 4:
        t += [(a + "indexer.wq_b", "FP8", (Hi * di, Rq)), (a + "indexer.weights_proj.weight", "BF16", (Hi, D))]
        t += compressor(a + "indexer.compressor.", di)
    t += [(f + "gate.weight", "BF16", (E, D))]
    t += [(f + "gate.tid2eid", "I64", (c["vocab_size"], c["num_experts_per_tok"]))] if hashed else [
        (f + "gate.bias", "F32", (E,))]
    for e in range(E):
        t += [(f"{f}experts.{e}.w1", experts, (I, D)), (f"{f}experts.{e}.w2", experts, (D, I)),
              (f"{f}experts.{e}.w3", experts, (I, D))]
    s = f + "shared_experts."
    return t + [(s + "w1", "FP8", (I, D)), (s + "w2", "FP8", (D, I)), (s + "w3", "FP8", (I, D))]


def head_tensors(p: str, D: int) -> list[Tensor]:
    return [(p + "norm.weight", "BF16", (D,)), (p + "hc_head_fn", "F32", (4, 4 * D)), (p + "hc_head_base", "F32", (4,)),
            (p + "hc_head_scale", "F32", (1,))]


def model_tensors(c: dict[str, Any]) -> list[Tensor]:
    """layer_tensors of every layer, the embedding, the head, the MTP blocks: what a checkpoint of this configuration holds."""
    D, V = c["hidden_size"], c["vocab_size"]
    t: list[Tensor] = [("embed.weight", "BF16", (V, D))]
    for l in range(c["num_hidden_layers"]):
        t += layer_tensors(c, f"layers.{l}.", c["compress_ratios"][l], l < c["num_hash_layers"])
    t += head_tensors("", D) + [("head.weight", "BF16", (V, D))]
    for m in range(c["num_nextn_predict_layers"]):
        p = f"mtp.{m}."
        t += layer_tensors(c, p, 0, False) + head_tensors(p, D)
        t += [(p + "e_proj", "FP8", (D, D)), (p + "h_proj", "FP8", (D, D)), (p + "enorm.weight", "BF16", (D,)),
              (p + "hnorm.weight", "BF16", (D,))]
    return t


# ---- contents: a block of each kind, written again and again ----

BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1}
BLOCK = 1 << 22                  # bytes of random codes
NORMALS = 1 << 15                # normal numbers
E4M3_RMS, E2M1_RMS = 120, 2.9    # of uniformly drawn codes


def stored(tensors: list[Tensor]) -> Iterator[tuple[str, str, tuple[int, ...], tuple[Any, ...]]]:
    """(name, dtype, shape, content) as they lie in a file: a quantised matrix becomes its codes and its scales. content: what
    Blocks.of takes, so that matrices have about unit gain and norms are one."""
    for name, kind, shape in tensors:
        gain = math.sqrt(shape[-1])
        if kind == "FP8":
            yield name + ".weight", "F8_E4M3", shape, ("codes", "F8_E4M3")
            yield name + ".scale", "F8_E8M0", (-(-shape[0] // 128), -(-shape[1] // 128)), ("scale", E4M3_RMS * gain)
        elif kind == "FP4":
            yield name + ".weight", "I8", (shape[0], shape[1] // 2), ("codes", "I8")
            yield name + ".scale", "F8_E8M0", (shape[0], shape[1] // 32), ("scale", E2M1_RMS * gain)
        else:
            yield name, kind, shape, ("ones" if "norm" in name else "normal", kind, gain)


class Blocks:
    """One block of bytes for each kind of content, made when it is first asked for."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.normals = [self.random.gauss(0, 1) for _ in range(NORMALS)]
        self.made: dict[tuple[Any, ...], bytes] = {}

    def of(self, content: tuple[Any, ...]) -> bytes:
        if content not in self.made:
            self.made[content] = getattr(self, content[0])(*content[1:])
        return self.made[content]

    def codes(self, dtype: str) -> bytes:
        drawn = self.random.randbytes(BLOCK)
        return drawn.translate(bytes.maketrans(b"\x7f\xff", b"\x7e\xfe")) if dtype == "F8_E4M3" else drawn   # no NaN

    def scale(self, divisor: float) -> bytes:
        return bytes([127 - round(math.log2(divisor))]) * BLOCK

    def ones(self, dtype: str, _: float) -> bytes:
        return self.reals(dtype, [1.0] * NORMALS)

    def normal(self, dtype: str, divisor: float) -> bytes:
        return self.reals(dtype, [x / divisor for x in self.normals])

    def reals(self, dtype: str, values: list[float]) -> bytes:
        floats = array("f", values)
        return (floats if dtype == "F32" else array("H", floats.tobytes())[1::2]).tobytes()   # BF16: the upper half

    def pieces(self, content: tuple[Any, ...], size: int) -> Iterator[bytes | memoryview]:
        block = self.of(content)
        for at in range(0, size, len(block)):
            yield memoryview(block)[:size - at]


def write_config(synthetic: Synthetic, directory: str) -> str:
    """Returns its path."""
    path = os.path.join(directory, "config.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(synthetic.config, f, indent=1)
    return path


def write_weights(synthetic: Synthetic, directory: str, progress: Callback | None = None) -> int:
    """Writes model.safetensors into a folder that exists; returns the bytes of all tensors."""
    listed = [(*tensor, BYTES[tensor[1]] * math.prod(tensor[2])) for tensor in stored(model_tensors(synthetic.config))]
    total, free = sum(tensor[-1] for tensor in listed), shutil.disk_usage(directory).free
    if total > free:
        raise _dsvk.FileError(f"{directory}: {synthetic.text} needs {total} bytes, {free} are free")
    entries, at = {}, 0
    for name, dtype, shape, _, size in listed:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    header, blocks, done = json.dumps(entries).encode(), Blocks(), 0
    with open(os.path.join(directory, "model.safetensors"), "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        for _, _, _, content, size in listed:
            for piece in blocks.pieces(content, size):
                f.write(piece)
                done += len(piece)
            if progress is not None:
                progress("writing", done, total)
    return total
