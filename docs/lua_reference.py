"""The Lua reference, from the annotations for LuaLS in lua/types/dsvk.lua: a domain with an entry for every function, class, field and
alias, and the directive that writes them all."""
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.directives import ObjectDescription
from sphinx.domains import Domain, ObjType
from sphinx.roles import XRefRole
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.nodes import make_refnode
from sphinx.util.rst import escape

ANNOTATIONS = Path(__file__).resolve().parents[1] / "lua/types/dsvk.lua"
KINDS = "table", "class", "function", "field", "alias"


# ---- reading ----

@dataclass
class Entry:
    """values: (name, type, text) of a function's parameters or a class's fields; results: (name, type); says: of the results."""
    kind: str
    name: str
    text: list[str]
    type: str = ""
    values: list[tuple[str, str, str]] = field(default_factory=list)
    results: list[tuple[str, str]] = field(default_factory=list)
    says: str = ""


def split_type(text: str) -> tuple[str, str]:
    """"table<K, V>? what it is" -> the type and the rest: a type ends at white space or a comma outside of brackets."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "<({[") - (character in ">)}]")
        if depth == 0 and (character == "," or character == " " and text[i - 1] not in ":|"):
            return text[:i], text[i:].lstrip(" ")
    return text, ""


def split_results(text: str) -> tuple[list[tuple[str, str]], str]:
    """"string? text, integer n what they are" -> [("text", "string?"), ("n", "integer")], "what they are"."""
    results = []
    while True:
        kind, text = split_type(text)
        name = re.match(r"(\w+|\.\.\.|) *", text)
        results.append((name[1], kind))
        text = text[name.end():]
        if not text.startswith(","):
            return results, text
        text = text[1:].lstrip()


def entries(source: str) -> list[Entry]:
    """What is annotated, in its order. Lines of comment stand before what they are about."""
    found: list[Entry] = []
    text, values, results, says = [], [], [], ""
    for line in source.splitlines():
        tag = re.match(r"---@(\w+) ?(.*)", line)
        function = re.match(r"function ([\w.:]+)\(", line)
        table = re.match(r"([\w.]+) = \{\}", line)
        if tag and tag[1] in ("param", "field"):
            name, rest = tag[2].split(" ", 1)
            (found[-1].values if tag[1] == "field" else values).append((name, *split_type(rest)))
        elif tag and tag[1] == "return":
            results, says = split_results(tag[2])
        elif tag and tag[1] == "class":
            name, base, rest = re.fullmatch(r"([\w.]+)(?:: ([\w.]+))? *(.*)", tag[2]).groups()
            found.append(Entry("class", name, text + [rest] * bool(rest), base or ""))
        elif tag and tag[1] == "alias":
            name, rest = tag[2].split(" ", 1)
            kind, rest = split_type(rest)
            found.append(Entry("alias", name, text + [rest] * bool(rest), kind))
        elif function:
            found.append(Entry("function", function[1], text, "", values, results, says))
        elif table and (not found or found[-1].name != table[1]):     # else it is a class's
            found.append(Entry("table", table[1], text))
        elif not tag and line.startswith("---"):
            text.append(line[3:])
            continue
        if not tag or tag[1] in ("class", "alias"):
            text = []
        if not tag:
            values, results, says = [], [], ""
    return found


# ---- writing ----

def prose(text: str) -> str:
    """Markdown's `code` is the only markup there is."""
    return "".join(f"``{part}``" if i % 2 else escape(part) for i, part in enumerate(text.split("`")))


def paragraphs(lines: list[str]) -> list[str]:
    """Lines of text; what is indented stays as it is."""
    out, literal = [], False
    for line in lines:
        if line.startswith(" ") != literal:
            literal = not literal
            out += ["", ".. code-block:: none", ""] if literal else [""]
        out.append(line if literal else prose(line))
    return [*out, ""]


def written(entry: Entry, members: Sequence[Entry] = ()) -> list[str]:
    """An entry as reStructuredText, and in it those of its members."""
    signature, lines = entry.name, paragraphs(entry.text)
    if entry.kind == "function":
        signature += f"({', '.join(f'{name}: {kind}' for name, kind, _ in entry.values)})"
        if entry.name.startswith("dsvk.ops."):
            lines += [f"What it computes, its arguments and results: :py:func:`{entry.name}`.", ""]
        said = [f"   - **{escape(name)}**: {prose(text)}" for name, _, text in entry.values if text]
        lines += [":Parameters:", "", *said, ""] if said else []
        if entry.results:
            results = ", ".join(f":lua:type:`{kind}` *{escape(name)}*" if name else f":lua:type:`{kind}`" for name, kind in entry.results)
            lines += [f":Returns: {results}{': ' * bool(entry.says)}{prose(entry.says)}", ""]
    elif entry.kind == "class":
        lines += [f"All of :lua:obj:`{entry.type}`, and:", ""] if entry.type else []
        members = [Entry("field", f"{entry.name}.{name}", [text], kind) for name, kind, text in entry.values] + [*members]
    elif entry.type:
        signature += f": {entry.type}"
    for member in members:
        lines += written(member)
    return [f".. lua:{entry.kind}:: {signature}", "", *("   " + line for line in lines), ""]


def reference(found: list[Entry]) -> list[str]:
    """Each table with its functions; then, under a heading of their own, the types that have none."""
    functions: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.kind == "function":
            functions.setdefault(re.split(r"[.:]\w+$", entry.name)[0], []).append(entry)
    tables = {entry.name: entry for entry in found if entry.kind in ("table", "class")}
    lines = [line for owner, members in functions.items() for line in written(tables[owner], members)]
    lines += ["Options and other types", "-" * 23, ""]
    return lines + [line for entry in found if entry.kind != "function" and entry.name not in functions for line in written(entry)]


class Annotations(SphinxDirective):
    """Every entry of lua/types/dsvk.lua."""

    def run(self) -> list[nodes.Node]:
        for file in (ANNOTATIONS, __file__):
            self.env.note_dependency(str(file))
        return self.parse_text_to_nodes("\n".join(reference(entries(ANNOTATIONS.read_text(encoding="utf-8")))), allow_section_headings=True)


# ---- the domain ----

def linked(kind: str) -> list[nodes.Node]:
    """A type, with its names of ours as links."""
    return [addnodes.pending_xref("", nodes.Text(part), refdomain="lua", reftype="obj", reftarget=part, refwarn=True)
            if i % 2 else nodes.Text(part) for i, part in enumerate(re.split(r"(dsvk(?:\.\w+)+)", kind)) if part]


class Type(SphinxRole):
    def run(self):
        return [nodes.literal("", "", *linked(self.text))], []


class Described(ObjectDescription[str]):
    """`dsvk.Session:decode(n: integer, options?: dsvk.SampleOptions)`; the name to find it by, and the id, has a point for the colon."""

    def handle_signature(self, sig: str, node: addnodes.desc_signature) -> str:
        before, name, arguments, kind = re.fullmatch(r"(.*?[.:])??(\w+\??)(?:\((.*)\))?(?:: (.*))?", sig).groups()
        if self.objtype != "function":
            node += addnodes.desc_annotation(self.objtype, self.objtype + " ")
        node += [addnodes.desc_addname(before or "", before or ""), addnodes.desc_name(name, name)]
        if arguments is not None:
            node += self.parameters(arguments, len(sig))
        if kind:
            node += addnodes.desc_type("", ": ", *linked(kind))
        node["fullname"] = f"{before or ''}{name.rstrip('?')}".replace(":", ".")
        return node["fullname"]

    def parameters(self, text: str, length: int) -> addnodes.desc_parameterlist:
        node = addnodes.desc_parameterlist(multi_line_parameter_list=length > self.config.python_maximum_signature_line_length)
        while text:
            name, rest = text.split(": ", 1)
            kind, text = split_type(rest)
            text = text.lstrip(", ")
            node += addnodes.desc_parameter("", "", addnodes.desc_sig_name("", name), nodes.Text(": "), *linked(kind))
        return node

    def add_target_and_index(self, name: str, sig: str, node: addnodes.desc_signature) -> None:
        node["ids"].append(name)
        self.state.document.note_explicit_target(node)
        self.env.domaindata["lua"]["objects"][name] = self.env.docname, self.objtype
        self.indexnode["entries"].append(("single", f"{name} (Lua {self.objtype})", name, "", None))

    def _object_hierarchy_parts(self, node: addnodes.desc_signature) -> tuple[str, ...]:
        return () if self.objtype == "field" else tuple(node["fullname"].split("."))

    def _toc_entry_name(self, node: addnodes.desc_signature) -> str:
        return "".join(node["_toc_parts"][-1:]) + "()" * (self.objtype == "function")


class Lua(Domain):
    """What {lua:obj}`dsvk.Session.decode` leads to; {lua:type}`dsvk.Device|string?` is a type with links."""
    name, label = "lua", "Lua"
    object_types = {kind: ObjType(kind, "obj") for kind in KINDS}
    directives = dict.fromkeys(KINDS, Described)
    roles = {"obj": XRefRole(warn_dangling=True), "type": Type()}
    initial_data = {"objects": {}}      # name -> (page, kind)

    def clear_doc(self, docname):
        self.data["objects"] = {name: at for name, at in self.data["objects"].items() if at[0] != docname}

    def merge_domaindata(self, docnames, otherdata):
        self.data["objects"].update({name: at for name, at in otherdata["objects"].items() if at[0] in docnames})

    def resolve_xref(self, env, fromdocname, builder, typ, target, node, contnode):
        at = self.data["objects"].get(target)
        return at and make_refnode(builder, fromdocname, at[0], target, contnode, target)

    def resolve_any_xref(self, env, fromdocname, builder, target, node, contnode):
        found = self.resolve_xref(env, fromdocname, builder, "obj", target, node, contnode)
        return [("lua:obj", found)] if found else []

    def get_objects(self):
        for name, (docname, kind) in self.data["objects"].items():
            yield name, name, kind, docname, name, 1


def setup(app):
    app.add_domain(Lua)
    app.add_directive("dsvk-annotations", Annotations)
    return {"parallel_read_safe": True}
