"""dsvk.Device: what Python adds to the handle, a profile as a context manager and readable representations."""
from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any, Iterator

from . import _dsvk
from .chart import COLOURS, LINE, Axes, Picture, document, spread, text
from .tables import html_table, size, text_table


def devices() -> list[dict[str, Any]]:
    """Every Vulkan device the loader shows, in the order of preference, usable or not: dicts of index, name, uuid, type, api,
    driver, usable, reason, chosen, memory (bytes), subgroup, features, ... Empty where there is no driver."""
    found: list[dict[str, Any]] = _dsvk.survey()["devices"]
    return found


def sums_by(key: str, ops: list[dict[str, Any]]) -> dict[str | None, dict[str, Any]]:
    """{name or part: sums of calls, us, bytes and flops} of a profile's ops."""
    sums: dict[str | None, dict[str, Any]] = {}
    for op in ops:
        entry = sums.setdefault(op[key], dict.fromkeys(("calls", "us", "bytes", "flops"), 0))
        for what in entry:
            entry[what] += op[what]
    return sums


#: Ops that have a kernel on matrix units, for steps of many rows. The name of a device's way to multiply may take one out.
MATRIX_OPS = {"matmul": "", "moe_expert_up": "", "moe_expert_down": "", "sparse_attn": "plain attention", "indexer": "plain indexer"}


def on_matrix_units(op: str, way: str | None) -> bool:
    """Whether an op's steps of many rows are multiplied so. way: a device's info["matmul"], None before there is one."""
    without = MATRIX_OPS.get(op)
    return without is not None and (way or "").startswith("coopmat") and not (without and without in str(way))


def op_figures(ops: list[dict[str, Any]], per: int = 1, peaks: dict[str, Any] | None = None,
               way: str | None = None) -> list[dict[str, Any]]:
    """What each op takes for one of `per` steps, the longest first, and what fraction of the measured peaks that is. way: of
    on_matrix_units; None for steps of few rows, which no matrix unit has a part in."""
    def fraction(sums: dict[str, Any], what: str, peak: str) -> float | None:
        return 1e6 * sums[what] / sums["us"] / peaks[peak] if peaks and peaks[peak] and sums["us"] else None
    rows = [{"name": name, **{key: value / per for key, value in sums.items()},
             "bandwidth_fraction": fraction(sums, "bytes", "copy_bytes_per_s"),
             "flops_fraction": fraction(sums, "flops", "f32_flops_per_s"),
             "matrix_fraction": fraction(sums, "flops", "matrix_flops_per_s") if on_matrix_units(str(name), way) else None}
            for name, sums in sums_by("name", ops).items()]
    return sorted(rows, key=lambda op: -op["us"])


def best_of(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Of peaks measured twice, so that a busy moment is not taken for what a device can do."""
    best = {key: max(first[key], second[key]) if key.endswith("per_s") and first[key] is not None else first[key] for key in first}
    if best["matrix_flops_per_s"] != first["matrix_flops_per_s"]:
        best["matrix_kernel"] = second["matrix_kernel"]
    return best


def op_table(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for people; percentages of the peaks where they were measured."""
    rows = []
    for op in figures:
        row = {"op": op["name"], "calls": round(op["calls"], 2), "us": round(op["us"], 1), "MB": round(op["bytes"] / 1e6, 3)}
        for unit, what, of in (("GB/s", "bytes", {"of copy": "bandwidth_fraction"}),
                               ("GFLOP/s", "flops", {"of f32": "flops_fraction", "of matrix": "matrix_fraction"})):
            known = op["us"] and op[what]
            row[unit] = round(op[what] / op["us"] / 1e3, 2) if known else None
            row.update({name: f"{100 * op[fraction]:.1f} %" if known else None for name, fraction in of.items()
                        if op[fraction] is not None})
        rows.append(row)
    return rows


class Profile(dict[str, Any]):
    """Times of the dispatches of a `with device.profile() as report:` block, filled when the block ends: timestamps, submits,
    dispatches, host_us, device_us, ops (a list of name, part of the model, calls, us, bytes, flops)."""

    peaks: dict[str, Any] | None = None
    way: str | None = None    # the device's, to multiply

    def rows(self) -> list[dict[str, Any]]:
        """One row per op, the longest first; after device.measure() also how near it comes to the device's peaks. That of matrix
        units is given for ops that use them in steps of many rows; a profile does not know how many there were."""
        return op_table(op_figures(self.get("ops", []), peaks=self.peaks, way=self.way))

    def plot_roofline(self) -> Picture:
        """Each op by its operations per byte and how many it does a second, below what device.measure() found the device can do: the
        slope is its bandwidth, the levels its arithmetic. A point's size is the op's share of the time."""
        if self.peaks is None:
            raise _dsvk.StateError("the device's peaks are not known: call device.measure() before device.profile()")
        bandwidth, levels = self.peaks["copy_bytes_per_s"], {"float32": self.peaks["f32_flops_per_s"]}
        if self.peaks["matrix_flops_per_s"]:
            levels["matrix units"] = self.peaks["matrix_flops_per_s"]
        ops = [op for op in op_figures(self.get("ops", [])) if op["us"] and op["bytes"] and op["flops"]]
        points = [(op["flops"] / op["bytes"], 1e6 * op["flops"] / op["us"], op) for op in ops]
        return roofline(bandwidth, levels, points, sum(op["us"] for op in ops))

    def __str__(self) -> str:
        return text_table(self.rows())

    def _repr_html_(self) -> str:
        return html_table(self.rows()) + (self.plot_roofline() if self.peaks and self.get("ops") else "")


def roofline(bandwidth: float, levels: dict[str, float], points: list[tuple[float, float, dict[str, Any]]], us: float) -> Picture:
    """bandwidth in bytes/s, levels in operations/s; points (operations per byte, operations/s, op)."""
    knees = [level / bandwidth for level in levels.values()]
    xs, ys = [x for x, _, _ in points] + knees, [y for _, y, _ in points] + list(levels.values())
    low, high = 10 ** math.floor(math.log10(min(xs) / 2)), 10 ** math.ceil(math.log10(max(xs) * 2))
    axes = Axes(f"Roofline of a profile; memory {rate(bandwidth)}B/s", "operations per byte", "operations per second", (low, high),
                (10 ** math.floor(math.log10(min(ys) / 2)), 10 ** math.ceil(math.log10(max(ys) * 1.5))), 10, "{:g}".format, rate, 500)
    parts = axes.frame()
    for (name, level), colour in zip(levels.items(), COLOURS[1:]):
        start = max(low, axes.y[0] / bandwidth)
        parts.append(axes.line([(start, bandwidth * start), (level / bandwidth, level), (high, level)], colour))
        x, y = axes.place(high, level)
        parts.append(text(x - 4, y - 6, f"{name}: {rate(level)}/s", f'text-anchor="end" fill="{colour}"'))
    by_height = sorted(points, key=lambda point: -point[1])
    step = min(LINE, axes.tall / max(len(points), 1))
    labels = spread([axes.place(x, y)[1] for x, y, _ in by_height], step, axes.top, axes.top + axes.tall)
    for (x, y, op), label in zip(by_height, labels):
        (at_x, at_y), share = axes.place(x, y), 100 * op["us"] / us
        words = f"{op['name']} {f'{share:.0f}' if share >= 0.5 else '<1'} %"
        parts.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="{3 + 14 * math.sqrt(op["us"] / us):.1f}" fill="{COLOURS[0]}" '
                     f'fill-opacity="0.6"><title>{op["name"]}: {op["us"]:.0f} us</title></circle>')
        parts.append(f'<line x1="{at_x:.1f}" y1="{at_y:.1f}" x2="{axes.left + axes.wide + 16}" y2="{label:.1f}" stroke="#bbb" '
                     'stroke-width="0.5"/>')
        parts.append(text(axes.left + axes.wide + 20, label + 4, words, 'font-size="11"'))
    return document(parts, axes.height())


def rate(n: float) -> str:
    """Operations for people: 2.5e9 -> '2.5 G'."""
    for unit in ("", " k", " M", " G", " T"):
        if n < 1000 or unit == " T":
            return f"{n:.3g}{unit}"
        n /= 1000
    raise AssertionError


class Device(_dsvk.Device):
    __doc__ = _dsvk.Device.__doc__
    peaks: dict[str, Any] | None = None   # what measure() found

    def measure(self) -> dict[str, Any]:
        self.peaks = super().measure()
        return self.peaks

    measure.__doc__ = _dsvk.Device.measure.__doc__

    @contextmanager
    def profile(self) -> Iterator[Profile]:
        """Times every dispatch in the block; the report is filled when it ends."""
        report = Profile()
        report.peaks = self.peaks
        self.profile_begin()
        try:
            yield report
        finally:
            report.update(self.profile_end())
            report.way = self.info["matmul"]

    def __repr__(self) -> str:
        if self.closed:
            return "<dsvk.Device closed>"
        try:
            return f"<dsvk.Device {self.info['name']!r}>"
        except _dsvk.StateError:
            return "<dsvk.Device of another process>"

    def _repr_html_(self) -> str:
        if self.closed:
            return "<i>dsvk.Device closed</i>"
        try:
            info, memory = self.info, self.memory()
        except _dsvk.StateError:
            return "<i>dsvk.Device of another process</i>"
        used = [{"purpose": name, "used": size(entry["used"]), "peak": size(entry["peak"])}
                for name, entry in memory.items() if "used" in entry]
        return html_table(used, caption=f"{info['name']} ({info['type']}, Vulkan {info['api']})")
