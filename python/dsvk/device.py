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


class Profile(dict):
    """Times of the dispatches of a `with device.profile() as report:` block, filled when the block ends:
    timestamps, submits, dispatches, host_us, device_us, ops (a list of name, calls, us, bytes, flops)."""

    def rows(self) -> list[dict]:
        """One row per op, the longest first, with GB/s where bytes and time are known."""
        ops = sorted(self.get("ops", []), key=lambda op: -op["us"])
        return [{**op, "GB/s": round(op["bytes"] / op["us"] / 1e3, 2) if op["us"] else None} for op in ops]

    def __str__(self) -> str:
        return text_table(self.rows())

    def _repr_html_(self) -> str:
        return html_table(self.rows())


class Device(_dsvk.Device):
    __doc__ = _dsvk.Device.__doc__

    @contextmanager
    def profile(self) -> Iterator[Profile]:
        """Times every dispatch in the block; the report is filled when it ends."""
        report = Profile()
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
