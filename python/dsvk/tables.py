"""Sizes and small tables, as text and as HTML."""
from __future__ import annotations

from html import escape
from typing import Any, Iterable


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


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def is_numeric(rows: list[dict[str, Any]], name: str) -> bool:
    """Whether a column has nothing but numbers, so that it goes to the right."""
    values = [row.get(name) for row in rows]
    return all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values)


def text_table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns: numbers to the right."""
    rows = list(rows)
    names = columns_of(rows)
    lines = [names] + [[cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    numeric = [is_numeric(rows, name) for name in names]
    return "\n".join("  ".join(text.rjust(width) if right else text.ljust(width)
                               for text, width, right in zip(line, widths, numeric)).rstrip() for line in lines)


def html_table(rows: Iterable[dict[str, Any]], caption: str = "") -> str:
    rows = list(rows)
    names = columns_of(rows)
    styles = [f' style="text-align:{"right" if is_numeric(rows, name) else "left"}"' for name in names]
    head = "".join(f"<th{style}>{escape(name)}</th>" for name, style in zip(names, styles))
    body = "".join("<tr>" + "".join(f"<td{style}>{escape(cell(row.get(name)))}</td>" for name, style in zip(names, styles)) + "</tr>"
                   for row in rows)
    title = f'<caption style="text-align:left;white-space:nowrap">{escape(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
