"""The directive that makes the C reference from core/dsvk.h."""
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

HEADER = Path(__file__).resolve().parents[1] / "core/dsvk.h"

# In the header a comment stands before what it is about, or behind it on its last line; "---- name ----" begins a section.
PIECE = re.compile(r"/\*(?P<comment>.*?)\*/|(?P<code>typedef (?:struct|enum)\b[^;{]*\{.*?\}[^;]*;|typedef[^;]*;|DSVK_API[^;]*;"
                   r"|#define DSVK_\w+(?:[^\n]*\\\n)*[^\n]*)", re.DOTALL)


def prose(comment: str) -> str:
    """A comment as lines of reStructuredText. A line goes on where the next one's first word had no room any more; `code` is the only
    markup there is."""
    lines = [re.sub(r"^\s*\*? ?", "", line) for line in comment.strip().splitlines()]
    width, whole = max(map(len, lines)), lines[:1]
    for before, line in zip(lines, lines[1:]):
        if line[:1].strip() and before and len(f"{before} {line.split()[0]}") > width:
            whole[-1] += " " + line
        else:
            whole.append(line)
    return "\n".join("".join(f"``{part}``" if i % 2 else re.sub(r"([*_|\\])", r"\\\1", part) for i, part in enumerate(line.split("`")))
                     for line in whole)


def declarations(text: str):
    """The header as (section, comment, code), in its order; code "" is a comment by itself."""
    section, comment, before = "", "", None
    for piece in PIECE.finditer(text[text.index("/* ----"):]):
        code, words = piece["code"], piece["comment"]
        if code:
            if before:
                yield before
            before, comment = (section, comment, re.sub(r"^DSVK_API\s+", "", code)), ""
        elif re.fullmatch(r" -{4} .* -{4} ", words):
            if before:
                yield before
            before, section, comment = None, words.strip(" -"), ""
        else:
            behind = piece.string[:piece.start()].rstrip(" ")
            if before and not behind.endswith("\n"):  # on the declaration's line
                before = (before[0], (before[1] + "\n" + prose(words)).strip(), before[2])
            else:
                if comment:
                    yield from (item for item in (before, (section, comment, "")) if item)
                    before = None
                comment = prose(words)
    if before:
        yield before


class Header(SphinxDirective):
    """Every declaration of core/dsvk.h with its comment, under the header's own headings."""

    def run(self) -> list[nodes.Node]:
        for file in (HEADER, __file__):
            self.env.note_dependency(str(file))
        lines, last = [], None
        for section, comment, code in declarations(HEADER.read_text(encoding="utf-8")):
            if section != last:
                lines += ["", section[0].upper() + section[1:], "-" * len(section), ""]
                last = section
            function = not code.startswith(("typedef", "#")) and " ".join(code.rstrip(";").split())
            name = re.search(r"^#define (\w+)|^typedef[^{]*\(\*(\w+)\)|(\w+);$", code)
            indent = "   " if code else ""
            if function:
                lines += [f".. c:function:: {function}", ""]
            elif code:
                lines += [f".. c:{'macro' if name[1] else 'type'}:: {name[name.lastindex]}", ""]
                if not re.fullmatch(r"typedef struct (\w+) \1;", code):
                    lines += ["   .. code-block:: c", "", *("      " + line for line in code.splitlines()), ""]
            lines += [*(indent + "| " + line for line in comment.splitlines()), ""]
        section = nodes.section()
        section.document = self.state.document
        self.state.nested_parse(StringList(lines, source=str(HEADER)), 0, section, match_titles=True)
        return section.children


def setup(app):
    app.add_directive("dsvk-header", Header)
    return {"parallel_read_safe": True}
