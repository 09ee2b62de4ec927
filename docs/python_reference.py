"""What autodoc needs to know of dsvk: types of the C extension's parts, which its stub has, and the form of docstrings."""
import __future__
import ast
import inspect
import re
import textwrap
from pathlib import Path

from dsvk import _dsvk


def take_types_from_the_stub():
    """Puts the stub's functions and properties, with the extension's docstrings, in the place of the extension's own, which have no types.
    (autodoc reads a stub instead of an extension, and then there are no docstrings.)"""
    stub = {"__name__": _dsvk.__name__}
    path = Path(_dsvk.__file__).with_name("_dsvk.pyi")
    exec(compile(path.read_text(encoding="utf-8"), path, "exec", __future__.annotations.compiler_flag), stub)
    for name, declared in list(stub.items()):
        if inspect.isclass(declared) and declared.__module__ == _dsvk.__name__:
            cls = stub[name] = getattr(_dsvk, name)     # the types of all the others' parameters are looked for here
            cls.__module__ = "dsvk"                     # where it, or what is derived from it, has its entry
            cls.__annotations__ = inspect.get_annotations(declared)
            for member, typed in vars(declared).items():
                if member == "__init__" or not member.startswith("_"):
                    typed.__doc__ = getattr(cls, member).__doc__
                    setattr(cls, member, typed)


def marked(block):
    """An indented block as a program, or as what it is."""
    try:
        language = compile(textwrap.dedent(block[0]), "docstring", "exec", ast.PyCF_ONLY_AST) and "python"
    except SyntaxError:
        language = "none"
    return f".. code-block:: {language}\n\n{block[0]}"


def form(app, what, name, obj, options, lines):
    """In docstrings an indented block after an empty line is a program or a table. A field of a named tuple has nothing to say."""
    if lines[:1] and lines[0].startswith("Alias for field number"):
        lines.clear()
    lines[:] = re.sub(r"(?<=\S\n\n)(?: {4}.*\n|\n)+", marked, "\n".join([*lines, ""])).split("\n")


def setup(app):
    take_types_from_the_stub()
    app.connect("autodoc-process-docstring", form)
    return {"parallel_read_safe": True}
