"""Bar charts as SVG, written by hand: no dependency, and a browser or a notebook shows them."""
from __future__ import annotations

from dataclasses import dataclass
from html import escape

WIDTH, LABEL, BAR, LINE = 760, 240, 430, 18   # pixels
COLOURS = ("#3b6ea5", "#c0692f", "#4f8a5b", "#7d5a9c")


@dataclass
class Bars:
    title: str
    rows: list[tuple[str, float]]


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {extra}>{escape(words)}</text>'


def svg(heading: list[str], charts: list[Bars]) -> str:
    """Lines of text, then the charts below one another, each to its own scale from zero."""
    parts, y = [], LINE
    for line in heading:
        parts.append(text(10, y, line))
        y += LINE
    for chart, colour in zip(charts, COLOURS):
        y += LINE
        parts.append(text(10, y, chart.title, 'font-weight="bold"'))
        y += LINE / 2
        most = max([value for _, value in chart.rows], default=0) or 1
        for label, value in chart.rows:
            width = BAR * value / most
            parts.append(text(LABEL - 8, y + 13, label, 'text-anchor="end"'))
            parts.append(f'<rect x="{LABEL}" y="{y + 2:g}" width="{width:.1f}" height="{LINE - 4}" fill="{colour}"/>')
            parts.append(text(LABEL + width + 6, y + 13, number(value)))
            y += LINE
    height = y + LINE
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
            f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>')
    return "\n".join([head, *parts, "</svg>\n"])
