"""Sizes and small tables, as text and as HTML."""
from __future__ import annotations

from html import escape
from typing import Iterable


def size(n: float) -> str:
    """Bytes for people: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(n) < 1024 or unit == "TiB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError


def cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return " ".join(cell(v) for v in value)
    if isinstance(value, dict):
        return " ".join(f"{k}={cell(v)}" for k, v in value.items())
    return str(value)


def columns_of(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def text_table(rows: Iterable[dict]) -> str:
    """Rows of equal keys as aligned columns: numbers to the right."""
    rows = list(rows)
    names = columns_of(rows)
    lines = [names] + [[cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    numeric = [all(row.get(name) is None or (isinstance(row.get(name), (int, float)) and not isinstance(row.get(name), bool))
                   for row in rows) for name in names]
    return "\n".join("  ".join(text.rjust(width) if right else text.ljust(width)
                               for text, width, right in zip(line, widths, numeric)).rstrip() for line in lines)


def html_table(rows: Iterable[dict], caption: str = "") -> str:
    rows = list(rows)
    names = columns_of(rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
