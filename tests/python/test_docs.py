"""docs/ builds without a warning, and its references hold everything that can be called."""
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dsvk

pytest.importorskip("sphinx"), pytest.importorskip("myst_parser")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """page(name) -> the text of a built page."""
    folder = tmp_path_factory.mktemp("docs")
    built = subprocess.run([ROOT / "tools/docs", folder], env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}, capture_output=True,
                           text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr

    def text(name):
        return html.unescape(re.sub(r"<[^>]*>", "", (folder / f"{name}.html").read_text(encoding="utf-8")))
    return text


def test_every_function_of_the_header(page):
    header = (ROOT / "core/dsvk.h").read_text(encoding="utf-8")
    text = page("c")
    functions = re.findall(r"^DSVK_API [^;(]*?\b(dsvk_\w+)\(", header, re.MULTILINE)
    assert len(functions) > 50 and [name for name in functions if f"{name}(" not in text] == []
    structs = re.findall(r"^typedef (?:struct|enum) (dsvk_\w+) \{", header, re.MULTILINE)
    assert [name for name in structs if f"{name} {{" not in text] == []
    assert "/*" not in re.sub(r"(?s)(typedef|#define|#include).*?\n\n", "", text[text.index("Made from dsvk.h"):])


def test_every_name_of_the_module(page):
    text = page("python")
    assert [name for name in dsvk.__all__ if name not in ("__version__", "chat") and f"dsvk.{name}" not in text] == []
    assert "dsvk.chat.encode_ids" in text and "dsvk.chat.Parser" in text


def test_the_three_programs_and_the_lua_types(page):
    for name, line in ("python", "session.decode(55)"), ("lua", "session:decode(55)"), ("c", "dsvk_session_decode(session, 55"):
        assert line in page(name), name
    assert "---@class dsvk.SampleOptions" in page("lua") and "session:poll(" in page("lua")
