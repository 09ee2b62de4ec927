"""The ops of the V4 family on tensors of your own, without a model: to study its attention, or to build something else with it.

    device = dsvk.Device()
    w = dsvk.Tensor(numpy_array, device, form="matrix")     # or BF16, FP8, FP4 with scales
    y = dsvk.ops.matmul(x, w)                                # x: a Tensor, or an array that goes to w's device
    numpy.asarray(y)                                         # no copy where the host sees the device's memory

Each function runs one op on the device and waits. Arrays are float32 (idx, table and tokens int32), rows are tokens of one sequence
from position `start` on. Shapes and ranges are checked: InvalidError names the argument, what was expected and what came. The
formulas are those of the engine, section numbers those of its specification.
"""
from __future__ import annotations

from textwrap import fill
from typing import Any, Callable, TypeVar, Union

from . import _dsvk
from ._dsvk import Tensor

Input = Union[Tensor, Any]     # or anything with the buffer protocol or DLPack
Function = TypeVar("Function", bound=Callable[..., Any])

_TABLE: dict[str, dict[str, Any]] = {op["name"]: op for op in _dsvk.ops()}


def _run(name: str, arguments: dict[str, Any], device: _dsvk.Device | None = None) -> tuple[Any, Any, Any, Any]:
    """All four results of an op, None where it has fewer. The device is that of its tensors unless it is given."""
    for value in arguments.values():
        if isinstance(value, Tensor):
            device = device or value.device
    if device is None:
        raise _dsvk.InvalidError(f"{name}: at least one argument has to be a dsvk.Tensor, which says the device")
    numbers = {argument["name"] for argument in _TABLE[name]["arguments"] if "shape" not in argument}
    on_device = {key: value if value is None or key in numbers or isinstance(value, Tensor) else Tensor(value, device)
                 for key, value in arguments.items()}
    first, second, third, fourth = _dsvk.op(device, name, on_device)
    return first, second, third, fourth


def _one(name: str, arguments: dict[str, Any], device: _dsvk.Device | None = None) -> Tensor:
    result: Tensor = _run(name, arguments, device)[0]
    return result


def _shapes(slots: list[dict[str, Any]]) -> str:
    return "; ".join(f"{slot['name']} {slot['kind']} [{slot['shape'].replace(' ', ', ')}]{' or None' if slot['optional'] else ''}"
                     for slot in slots if "shape" in slot)


def _op(function: Function) -> Function:
    """Gives a function of an op its documentation, which the engine has, and behind that its own."""
    op = _TABLE[function.__name__]
    arguments = _shapes(op["arguments"])
    ranges = "; ".join(f"{slot['name']} {slot['least']:.16g} to {slot['most']:.16g}" for slot in op["arguments"] if "least" in slot)
    paragraphs = filter(None, [op["does"], arguments and f"Arguments: {arguments}.", ranges and f"Ranges: {ranges}.",
                               f"Returns: {_shapes(op['results'])}.", function.__doc__])
    function.__doc__ = "\n\n".join(fill(paragraph, 100) for paragraph in paragraphs)
    return function


@_op
def matmul(x: Input, w: Tensor, groups: int = 1) -> Tensor:
    return _one("matmul", locals())


@_op
def rms_norm(x: Input, weight: Input, eps: float = 1e-6) -> Tensor:
    return _one("rms_norm", locals())


@_op
def rope_table(device: _dsvk.Device, positions: int = 4096, dim: int = 64, base: float = 10000.0, factor: float = 1.0,
               original: int = 65536, beta_fast: float = 32.0, beta_slow: float = 1.0) -> Tensor:
    """device: the dsvk.Device it is made on; the other ops take that of their tensors."""
    arguments = {key: value for key, value in locals().items() if key != "device"}
    if not isinstance(device, _dsvk.Device):
        raise TypeError(f"device: expected a dsvk.Device, got {device!r}")
    return _one("rope_table", arguments, device)


@_op
def rope(q: Input, table: Tensor, start: int = 0, eps: float = 1e-6) -> Tensor:
    return _one("rope", locals())


@_op
def quant_row(kv: Input, weight: Input, table: Tensor, start: int = 0, eps: float = 1e-6, native: bool = False) -> Tensor:
    return _one("quant_row", locals())


@_op
def quant_index(iq: Input, table: Tensor, start: int = 0, native: bool = False) -> Tensor:
    return _one("quant_index", locals())


@_op
def kv_compress(ks: Input, ape: Input, norm: Input, table: Tensor, index: bool = False, eps: float = 1e-6,
                native: bool = False) -> Tensor:
    return _one("kv_compress", locals())


@_op
def indexer(iq: Input, weights: Input, keys: Input, start: int = 0, scale: float = 0.0) -> Tensor:
    return _one("indexer", locals())


@_op
def topk(scores: Input, k: int, start: int = -1) -> Tensor:
    return _one("topk", locals())


@_op
def sparse_attention(q: Input, kv: Input, sink: Input, table: Tensor, compressed: Input | None = None, idx: Input | None = None,
                     ratio: int = 0, window: int = 128, start: int = -1, scale: float = 0.0) -> Tensor:
    return _one("sparse_attention", locals())


@_op
def hyper_connection(streams: Input, fn: Input, base: Input, scale: Input, norm: Input, y: Input | None = None,
                     post: Input | None = None, comb: Input | None = None, iterations: int = 20, eps: float = 1e-6,
                     hc_eps: float = 1e-6) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    return _run("hyper_connection", locals())


@_op
def moe(x: Input, gate: Tensor, experts: Tensor, bias: Input | None = None, table: Input | None = None, tokens: Input | None = None,
        shared: Tensor | None = None, k: int = 6, route_scale: float = 1.0, limit: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Either bias, or table with the tokens it is for: one of the two has to be there. k counts with bias; a table has its own."""
    return _run("moe", locals())[:3]


@_op
def sample(logits: Input, temperature: float = 0.0, top_k: int = 0, top_p: float = 0.0, min_p: float = 0.0, seed: int = 0,
           start: int = 0) -> Tensor:
    return _one("sample", locals())
