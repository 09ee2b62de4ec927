"""dsvk.Device: what Python adds to the handle, a profile as a context manager and readable representations."""
from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from . import _dsvk
from .tables import html_table, size, text_table


def devices() -> list[dict]:
    """Every Vulkan device the loader shows, in the order of preference, usable or not: dicts of index, name, uuid, type, api,
    driver, usable, reason, chosen, memory (bytes), subgroup, features, ... Empty where there is no driver."""
    return _dsvk.survey()["devices"]


def sums_by(key: str, ops: list[dict]) -> dict[str | None, dict]:
    """{name or part: sums of calls, us, bytes and flops} of a profile's ops."""
    sums: dict[str | None, dict] = {}
    for op in ops:
        entry = sums.setdefault(op[key], dict.fromkeys(("calls", "us", "bytes", "flops"), 0))
        for what in entry:
            entry[what] += op[what]
    return sums


def op_figures(ops: list[dict], per: int = 1, peaks: dict | None = None) -> list[dict]:
    """What each op takes for one of `per` steps, the longest first, and what fraction of the measured peaks that is."""
    def fraction(sums: dict, what: str, peak: str) -> float | None:
        return 1e6 * sums[what] / sums["us"] / peaks[peak] if peaks and peaks[peak] and sums["us"] else None
    rows = [{"name": name, **{key: value / per for key, value in sums.items()},
             "bandwidth_fraction": fraction(sums, "bytes", "copy_bytes_per_s"),
             "flops_fraction": fraction(sums, "flops", "f32_flops_per_s"),
             "matrix_fraction": fraction(sums, "flops", "matrix_flops_per_s")} for name, sums in sums_by("name", ops).items()]
    return sorted(rows, key=lambda op: -op["us"])


def op_table(figures: list[dict]) -> list[dict]:
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


class Profile(dict):
    """Times of the dispatches of a `with device.profile() as report:` block, filled when the block ends: timestamps, submits,
    dispatches, host_us, device_us, ops (a list of name, part of the model, calls, us, bytes, flops)."""

    peaks: dict | None = None

    def rows(self) -> list[dict]:
        """One row per op, the longest first; after device.measure() also how near it comes to the device's peaks."""
        return op_table(op_figures(self.get("ops", []), peaks=self.peaks))

    def __str__(self) -> str:
        return text_table(self.rows())

    def _repr_html_(self) -> str:
        return html_table(self.rows())


class Device(_dsvk.Device):
    __doc__ = _dsvk.Device.__doc__
    peaks: dict | None = None   # what measure() found

    def measure(self) -> dict:
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

    def __repr__(self) -> str:
        return "<dsvk.Device closed>" if self.closed else f"<dsvk.Device {self.info['name']!r}>"

    def _repr_html_(self) -> str:
        if self.closed:
            return "<i>dsvk.Device closed</i>"
        info, memory = self.info, self.memory()
        used = [{"purpose": name, "used": size(entry["used"]), "peak": size(entry["peak"])}
                for name, entry in memory.items() if "used" in entry]
        return html_table(used, caption=f"{info['name']} ({info['type']}, Vulkan {info['api']})")
