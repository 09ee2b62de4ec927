"""docs/ builds without a warning, and its references hold everything that can be called."""
import html
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dsvk

pytest.importorskip("sphinx"), pytest.importorskip("myst_parser"), pytest.importorskip("furo")
pytest.importorskip("uvicorn"), pytest.importorskip("starlette"), pytest.importorskip("pydantic"), pytest.importorskip("prometheus_client")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """source(name) -> the HTML of a built page."""
    folder = tmp_path_factory.mktemp("docs")
    built = subprocess.run([ROOT / "tools/docs", folder], env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}, capture_output=True,
                           text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr
    return lambda name: (folder / f"{name}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    """page(name) -> the text of a built page."""
    return lambda name: html.unescape(re.sub(r"<[^>]*>", "", source(name)))


@pytest.fixture(scope="module")
def ids(source):
    """ids(name) -> what a page has an entry for."""
    return lambda name: set(re.findall(r'<dt[^>]* id="([^"]+)"', source(name)))


def test_every_function_of_the_header(page, ids):
    header, text, found = (ROOT / "core/dsvk.h").read_text(encoding="utf-8"), page("c"), ids("c")
    functions = re.findall(r"^DSVK_API [^;(]*?\b(dsvk_\w+)\(", header, re.MULTILINE)
    assert len(functions) > 50 and [name for name in functions if f"c.{name}" not in found or f"{name}(" not in text] == []
    structs = re.findall(r"^typedef (?:struct|enum) (dsvk_\w+) \{", header, re.MULTILINE)
    assert [name for name in structs if f"{name} {{" not in text] == []
    types = re.findall(r"^typedef struct (dsvk_\w+) |^} (dsvk_\w+);|^typedef .*\(\*(dsvk_\w+)\)|^#define (DSVK_\w+) ",
                       header[header.index("/* ----"):], re.MULTILINE)
    assert len(types) > 40 and {f"c.{''.join(names)}" for names in types} - found == set()
    assert "/*" not in re.sub(r"(?s)(typedef|#define|#include).*?\n\n", "", text[text.index("Made from dsvk.h"):])


def public_modules():
    """Those that dsvk.__all__ names, and those that say by an __all__ of their own what is public."""
    for finder, name, _ in pkgutil.iter_modules(dsvk.__path__):
        if name in dsvk.__all__ or not name.startswith("_") and "\n__all__ = " in finder.find_spec(name).loader.get_source(name):
            yield importlib.import_module(f"dsvk.{name}")


def public_names(module):
    """Of a module's own; without an __all__ what has no underscore."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_") and not inspect.ismodule(getattr(module, name))]
    return [name for name, value in vars(module).items()
            if not name.startswith("_") and inspect.isroutine(value) | inspect.isclass(value) and value.__module__ == module.__name__]


def members(cls):
    """What a class, or one of ours that it is derived from, has without an underscore, by the class that has it."""
    return {name: owner for owner in reversed(cls.__mro__) if owner.__module__.split(".")[0] == "dsvk"
            for name in (*vars(owner), *vars(owner).get("__annotations__", ())) if not name.startswith("_")}


def entries(module):
    """The ids of a module's public names and their members: sets of which one will do, for what a class has of a public base, as
    errors do, is said there."""
    for name in public_names(module):
        value = getattr(module, name)
        yield {f"{module.__name__}.{name}"}
        if inspect.isclass(value):
            bases = [base for base in value.__mro__ if getattr(dsvk, base.__name__, None) is base]
            for member, owner in members(value).items():
                also = (f"dsvk.{base.__name__}.{member}" for base in bases if issubclass(base, owner))
                yield {f"{module.__name__}.{name}.{member}", *also}


def test_every_public_member_of_the_python_package(ids):
    modules = [dsvk, *public_modules()]
    assert {"dsvk.chat", "dsvk.constrain", "dsvk.hub", "dsvk.ops", "dsvk.bench", "dsvk.server"} <= {module.__name__ for module in modules}
    wanted, found = [entry for module in modules for entry in entries(module)], ids("python")
    assert {"dsvk.Session.begin"} in wanted and {"dsvk.Device.info"} in wanted and {"dsvk.ops.moe"} in wanted and len(wanted) > 200
    assert [sorted(entry) for entry in wanted if not entry & found] == []


def test_every_python_parameter_has_a_type(source):
    """Those of the C extension's functions too, where they come from its stub."""
    parameters = [html.unescape(re.sub(r"<[^>]*>", "", one))
                  for one in re.findall(r'(?s)<em class="sig-param">(.*?)</em>', source("python"))]
    assert len(parameters) > 300 and "microseconds: int" in parameters and "tokens: Sequence[int] | Buffer" in parameters
    assert [one for one in parameters if ":" not in one and one not in ("/", "*")] == []


def test_every_lua_annotation(source, ids):
    annotations = (ROOT / "lua/types/dsvk.lua").read_text(encoding="utf-8")
    functions = re.findall(r"^function (dsvk[\w.:]*)\(", annotations, re.MULTILINE)
    types = re.findall(r"^---@(?:class|alias) ([\w.]+)", annotations, re.MULTILINE)
    fields = len(re.findall(r"^---@field ", annotations, re.MULTILINE))
    found = ids("lua")
    assert len(functions) > 70 and [name for name in functions if name.replace(":", ".") not in found] == []
    assert len(types) > 15 and [name for name in types if name not in found] == []
    assert fields > 30 and source("lua").count('<span class="pre">field</span>') == fields


def test_a_lua_entry_says_all_that_its_annotation_does(page, source):
    text = page("lua")
    for line in ("dsvk.Model:decode(sessions: dsvk.Session[], n: integer, options?: dsvk.SampleOptions)",
                 "Session.decode for many different sessions at once; seed may be a list, one per session.",
                 "integer[][]? ids, string? message, dsvk.Code? code",
                 "choice?: an index, a UUID, or part of a name that fits one device; nil: the best",
                 "field dsvk.DeviceOptions.budgets?: table<dsvk.Purpose, integer>", "alias dsvk.Purpose: \"weights\"|\"cache\"|"):
        assert line in text, line
    assert '<a class="reference internal" href="#dsvk.SampleOptions" title="dsvk.SampleOptions">' in source("lua")


def test_the_three_programs(page):
    for name, line in ("python", "session.decode(55)"), ("lua", "session:decode(55)"), ("c", "dsvk_session_decode(session, 55"):
        assert line in page(name), name
