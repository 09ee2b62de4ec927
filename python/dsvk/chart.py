"""Charts as SVG, written by hand: no dependency, and a browser or a notebook shows them."""
from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Callable, Sequence

WIDTH, LABEL, BAR, LINE = 760, 240, 430, 18   # pixels
COLOURS = ("#3b6ea5", "#c0692f", "#4f8a5b", "#7d5a9c")


class Picture(str):
    """The text of an SVG file, which a notebook shows as what it is. save(path) writes it."""

    def _repr_html_(self) -> str:
        return str(self)

    def save(self, path: str) -> None:
        """Writes it as a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self)


@dataclass
class Bars:
    title: str
    rows: Sequence[tuple[str, float]]
    full: float | None = None    # what a whole bar stands for; None: the largest


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def document(parts: Sequence[str], height: float) -> Picture:
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
            f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>')
    return Picture("\n".join([head, *parts, "</svg>\n"]))


def text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {extra}>{escape(words)}</text>'


def svg(heading: list[str], charts: list[Bars]) -> Picture:
    """Lines of text, then the charts below one another, each to its own scale from zero. A bar ends where its scale does."""
    parts: list[str] = []
    y: float = LINE
    for line in heading:
        parts.append(text(10, y, line))
        y += LINE
    for chart, colour in zip(charts, COLOURS):
        y += LINE
        parts.append(text(10, y, chart.title, 'font-weight="bold"'))
        y += LINE / 2
        most = chart.full or max([value for _, value in chart.rows], default=0) or 1
        for label, value in chart.rows:
            width = BAR * min(value / most, 1)
            parts.append(text(LABEL - 8, y + 13, label, 'text-anchor="end"'))
            parts.append(f'<rect x="{LABEL}" y="{y + 2:g}" width="{width:.1f}" height="{LINE - 4}" fill="{colour}"/>')
            parts.append(text(LABEL + width + 6, y + 13, number(value)))
            y += LINE
    return document(parts, y + LINE)


# ---- shades in a grid ----

def shade(part: float) -> str:
    """From a light one to the first colour and on to a dark one, for 0 .. 1."""
    stops = ((222, 232, 243), (59, 110, 165), (16, 34, 66))
    at = 2 * min(max(part, 0.0), 1.0)
    low, rest = (stops[0:2], at) if at < 1 else (stops[1:3], at - 1)
    return "#" + "".join(f"{round(a + (b - a) * rest):02x}" for a, b in zip(*low))


def thinned(n: int, most: int) -> list[int]:
    """At most about `most` of 0 .. n - 1, at even distances of 1, 2, 5, 10, ..."""
    step = next(s for s in (f * 10 ** e for e in range(9) for f in (1, 2, 5)) if n <= most * s)
    return list(range(0, n, step))


def heat_map(title: str, rows: Sequence[Sequence[float | None]], across: str, down: str, scale: str) -> Picture:
    """A cell for each number, darker for larger, none for None; from 0 to the largest, and without a scale where there is nothing else
    than 0. Large grids are shown by the largest of neighbouring cells. scale: what the numbers are."""
    most_cells = 400
    tall, wide = (max(1, -(-n // most_cells)) for n in (len(rows), max((len(row) for row in rows), default=1)))
    blocks = [[max((v for row in rows[i:i + tall] for v in row[j:j + wide] if v is not None), default=None)
               for j in range(0, max((len(row) for row in rows), default=0), wide)] for i in range(0, len(rows), tall)]
    columns = len(blocks[0]) if blocks else 0
    left, top, room = 70, 3 * LINE, WIDTH - 70 - 110
    width = min(36.0, room / max(columns, 1))
    height = max(min(24.0, 480 / max(len(blocks), 1)), 1.0)
    most = max((v for row in blocks for v in row if v is not None), default=0)
    parts = [text(10, LINE, title, 'font-weight="bold"')]
    right, bottom = left + width * columns, top + height * len(blocks)
    parts.append(f'<rect x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" stroke="#ccc"/>')
    for i, row in enumerate(blocks):
        for j, value in enumerate(row):
            if value is not None:
                parts.append(f'<rect x="{left + j * width:.2f}" y="{top + i * height:.2f}" width="{width + 0.2:.2f}" '
                             f'height="{height + 0.2:.2f}" fill="{shade(value / (most or 1))}"/>')
    for i in thinned(len(blocks), max(2, int(len(blocks) * height / LINE))):
        parts.append(text(left - 6, top + (i + 0.5) * height + 4, str(i * tall), 'text-anchor="end" fill="#555"'))
    for j in thinned(columns, max(2, int(columns * width / 34))):
        parts.append(text(left + (j + 0.5) * width, bottom + 15, str(j * wide), 'text-anchor="middle" fill="#555"'))
    parts.append(text((left + right) / 2, bottom + 2 * LINE - 2, across, 'text-anchor="middle"'))
    parts.append(f'<text transform="translate(20 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(down)}</text>')
    if most:
        parts.append(text(right + 24, top - 8, scale, 'fill="#555"'))
    for i in range(5 if most else 0):
        y = top + i * LINE
        parts.append(f'<rect x="{right + 24:.1f}" y="{y}" width="14" height="{LINE}" fill="{shade(1 - i / 4)}"/>')
        parts.append(text(right + 44, y + 13, number(most * (1 - i / 4))))
    return document(parts, max(bottom, top + 5 * LINE) + 2.5 * LINE)


def spread(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Places for labels, in this order, as near to where they are wanted as their distance and the limits let them be."""
    places: list[float] = []
    for at in wanted:
        places.append(max(at, places[-1] + step if places else low))
    limit = high
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - step
    return places


# ---- lines and points on two axes ----

def ticks(low: float, high: float) -> list[int]:
    """Whole numbers between two others, at most about eight."""
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100) if (high - low) / step <= 8 or step == 100)
    return [n for n in range(math.ceil(low), math.floor(high) + 1) if n % step == 0]


@dataclass
class Axes:
    """Where numbers lie in a picture with two logarithmic axes, marked at powers of `base`."""
    title: str
    x_label: str
    y_label: str
    x: tuple[float, float]
    y: tuple[float, float]
    base: int
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    wide: int = 560
    left, top, tall = 90, 36, 320

    def place(self, x: float, y: float) -> tuple[float, float]:
        def part(value: float, limits: tuple[float, float]) -> float:
            return math.log(value / limits[0]) / math.log(limits[1] / limits[0])
        return self.left + self.wide * part(x, self.x), self.top + self.tall * (1 - part(y, self.y))

    def frame(self) -> list[str]:
        bottom, right = self.top + self.tall, self.left + self.wide
        parts = [text(10, LINE, self.title, 'font-weight="bold"')]
        for exponent in ticks(*(math.log(limit, self.base) for limit in self.x)):
            x, _ = self.place(float(self.base) ** exponent, self.y[0])
            parts.append(f'<line x1="{x:.1f}" y1="{self.top}" x2="{x:.1f}" y2="{bottom}" stroke="#eee"/>')
            parts.append(text(x, bottom + 15, self.x_text(float(self.base) ** exponent), 'text-anchor="middle" fill="#555"'))
        for exponent in ticks(*(math.log(limit, self.base) for limit in self.y)):
            _, y = self.place(self.x[0], float(self.base) ** exponent)
            parts.append(f'<line x1="{self.left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#eee"/>')
            parts.append(text(self.left - 6, y + 4, self.y_text(float(self.base) ** exponent), 'text-anchor="end" fill="#555"'))
        parts.append(f'<path d="M{self.left} {self.top} V{bottom} H{right}" fill="none" stroke="#555"/>')
        parts.append(text((self.left + right) / 2, bottom + 2 * LINE - 3, self.x_label, 'text-anchor="middle"'))
        parts.append(f'<text transform="translate(18 {(self.top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
                     f'{escape(self.y_label)}</text>')
        return parts

    def line(self, points: Sequence[tuple[float, float]], colour: str, extra: str = "") -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" {extra}/>'

    def height(self) -> float:
        return self.top + self.tall + 2.5 * LINE
