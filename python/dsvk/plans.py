"""What dsvk.plan says, as tables and as a picture."""
from __future__ import annotations

from typing import Any

from .chart import COLOURS, Axes, Picture, document, text
from .tables import html_table, size


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> '0-2 5'; long ones are cut in the middle"""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return " ".join(words if len(words) <= 6 else words[:3] + ["...", words[-1]])


def layer_kinds(layers: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Layers that are alike in one row; sizes are of one layer."""
    alike: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for layer in layers:
        key = tuple((name, value) for name, value in layer.items() if name != "layer")
        alike.setdefault(key, []).append(layer["layer"])
    rows: list[dict[str, object]] = []
    for key, numbers in alike.items():
        layer = dict(key)
        rows.append({"kind": layer["kind"] + (" + hash" if layer["hash"] else ""), "count": len(numbers),
                     "weights": size(layer["weights"]), "experts": size(layer["experts"]),
                     "cache/token": size(layer["cache_bytes_per_token"]), "layers": ranges(numbers)})
    return rows


class Plan(dict[str, Any]):
    """What would be allocated where, in bytes: purposes, layers, context and more, from a model's configuration alone."""

    def purposes(self) -> list[dict[str, object]]:
        """A row for each use of device memory, and their sum."""
        notes = {"weights": f"experts {size(self['experts'])}",
                 "cache": f"one session of {self['context_tokens']} tokens, and the RoPE tables"}
        rows: list[dict[str, object]] = [{"memory": name, "size": size(n), "for": notes.get(name, "")}
                                         for name, n in self["purposes"].items()]
        return rows + [{"memory": "together", "size": size(sum(self["purposes"].values())), "for": ""}]

    def plot_context(self) -> Picture:
        """Device memory of one session by the tokens in it, beside the weights."""
        page, most = self["page_tokens"], self["context_tokens"]
        tokens = [page]
        while tokens[-1] < most:
            tokens.append(min(2 * tokens[-1], most))
        points = [(n, self["session_state"] + -(-n // page) * self["page_bytes"]) for n in tokens]
        weights = self["purposes"]["weights"]
        right = max(most, 2 * page)
        axes = Axes("Memory by context", "tokens", "device memory", (page, right),
                    (0.5 * min(points[0][1], weights), 2 * max(points[-1][1], weights)), 2, "{:,.0f}".format, size)
        level, (end_x, end_y) = axes.place(page, weights)[1], axes.place(*points[-1])
        below = level <= end_y < level + 40      # the dashed line's words are just above
        parts = axes.frame() + [axes.line([(page, weights), (right, weights)], COLOURS[1], 'stroke-dasharray="6 4"'),
                                text(axes.left + 8, level - 6, f"weights: {size(weights)}", f'fill="{COLOURS[1]}"'),
                                axes.line(points, COLOURS[0]),
                                text(end_x - 4, end_y + (20 if below else -10), f"one session of {most:,} tokens: {size(points[-1][1])}",
                                     f'text-anchor="end" fill="{COLOURS[0]}"')]
        return document(parts, axes.height())

    def __repr__(self) -> str:
        return f"<dsvk.Plan {size(sum(self['purposes'].values()))} with {self['context_tokens']} tokens>"

    def _repr_html_(self) -> str:
        fits = f"; {size(self['available'])} are available: {'it fits' if self['fits'] else 'it does not fit'}" if "fits" in self else ""
        return (html_table(self.purposes(), f"A token reads {size(self['bytes_per_token'])} of weights{fits}") +
                html_table(layer_kinds(self["layers"])) + self.plot_context())
