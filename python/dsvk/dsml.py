"""Tool calls as the family writes them (spec 6.4), as a grammar of llguidance's: which tools, which arguments, and nothing else.

    <｜DSML｜tool_calls>
    <｜DSML｜invoke name="NAME">
    <｜DSML｜parameter name="KEY" string="true">TEXT</｜DSML｜parameter>
    <｜DSML｜parameter name="KEY" string="false">JSON</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜tool_calls>

｜DSML｜ is one token, which text never has, so a value needs no escapes: it ends at "</" and that token.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence
from urllib.parse import unquote

if TYPE_CHECKING:
    from .constrain import Grammars

ANY_ORDER = 64      # properties of a tool that may come in any order; with more they come in the schema's
ALTERNATIVES = 64   # of one argument
ASSERTIONS = ("anyOf", "oneOf", "allOf", "patternProperties", "minProperties", "maxProperties", "enum", "const", "not")
NOTES = ("title", "description", "default", "examples", "deprecated", "$comment")      # say nothing about values


@dataclass
class Tool:
    """A tool that may be called. schema: of its arguments, an object's, which they will match; None: they are any object. text:
    instead, the one argument, named `argument`, is a text of a grammar, ("lark" or "regex", its definition). place: what error
    messages call the schema or the grammar."""
    name: str
    schema: dict[str, Any] | None = None
    text: tuple[str, str] | None = None
    argument: str = "input"
    place: str = ""


# ---- what a tool's schema has to be ----

def check(grammars: "Grammars", tool: Tool) -> None:
    """GrammarError for what a tool's calls could not be held to."""
    from .constrain import GrammarError, escaped
    if tool.text is not None:
        grammars.check_text(*tool.text, tool.place)
    if tool.schema is None:
        return
    grammars.check_schema(tool.schema, tool.place)
    schema, at = resolved(tool.schema, tool.schema)
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise GrammarError("arguments are an object", tool.place, "", "type")
    for keyword in ASSERTIONS:
        if keyword in schema:
            raise GrammarError("not supported for the arguments as a whole", tool.place, "", keyword)
    named, pointers = schema.get("properties", {}), []
    for name, value in properties(schema).items():
        if not name or any(character in name for character in '"\n\r<'):
            raise GrammarError(f"a name that tool calls cannot be written with: {name[:80]!r}", tool.place, "", "properties")
        pointer = f"{at}/properties/{escaped(name)}" if name in named else f"{at}/additionalProperties"
        parts(value, tool.schema, tool.place, pointer)
        pointers += [pointer] if isinstance(value, dict) else []
    if pointers:
        grammars.check_schema(tool.schema, tool.place, list(dict.fromkeys(pointers)))


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The schemas of all arguments there may be, those that are only required included."""
    others = schema.get("additionalProperties", True)
    named = schema.get("properties", {})
    return {name: value for name, value in named.items() if value is not False} | {
        name: others for name in schema.get("required", []) if name not in named}


def resolved(schema: Any, root: Any) -> tuple[Any, str]:
    """What a schema that is nothing but a reference into `root` refers to, and the pointer there."""
    from .constrain import at
    pointer = ""
    for _ in range(64):
        if not isinstance(schema, dict) or asserted(schema) != {"$ref"}:
            break
        pointer = unquote(schema["$ref"].removeprefix("#"))
        schema = at(root, pointer)
    return schema, pointer


def asserted(schema: dict[str, Any]) -> set[str]:
    return set(schema) - set(NOTES) - {"$defs", "definitions"}


def parts(schema: Any, root: Any, place: str = "", pointer: str = "") -> tuple[list[dict[str, Any]], list[Any]]:
    """A value's schema as those for what is written as text, strings, and those for what is written as JSON. What an anyOf says twice,
    or of itself, counts once. GrammarError when there are too many; place and pointer are what it calls the schema."""
    from .constrain import GrammarError
    texts: list[dict[str, Any]] = []
    others: list[Any] = []
    waiting, seen = [schema], set()
    while waiting:
        one, _ = resolved(waiting.pop(), root)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if len(seen) > ALTERNATIVES:
            raise GrammarError(f"more than {ALTERNATIVES} alternatives for one argument", place, pointer, "anyOf")
        if isinstance(one, dict) and asserted(one) == {"anyOf"}:
            waiting += reversed(one["anyOf"])
            continue
        text, other = part(one)
        texts += text
        others += other
    return texts, others


def part(schema: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The same of a schema that is no reference and no anyOf."""
    if schema is True or (isinstance(schema, dict) and not asserted(schema)):
        return [{"type": "string"}], [True]
    if not isinstance(schema, dict):
        return [], [schema]
    kind = schema.get("type")
    if kind == "string":
        return [schema], []
    for keyword in ("enum", "const"):
        values = [] if keyword not in schema else schema["enum"] if keyword == "enum" else [schema["const"]]
        texts = [value for value in values if isinstance(value, str)]
        if texts and (kind is None or "string" in kind):
            rest = {name: value for name, value in schema.items() if name not in (keyword, "type")}
            others = [value for value in values if not isinstance(value, str)]
            return [{**rest, "type": "string", "enum": texts}], [{**schema, "enum": others}] if others and keyword == "enum" else []
    if isinstance(kind, list) and "string" in kind:
        others = [one for one in kind if one != "string"]
        return [{**schema, "type": "string"}], [{**schema, "type": others}] if others else []
    return [], [schema]


# ---- the grammar ----

def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def text_terminal(schema: dict[str, Any]) -> str | None:
    """A string's schema as a terminal of raw text and the "</" behind it; None when only JSON's form of it can be held to."""
    keywords = asserted(schema) - {"type"}
    if len(keywords) == 1 and keywords <= {"enum", "const"}:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return "(" + " | ".join(quoted(value + "</") for value in values if isinstance(value, str)) + ")"
    if not keywords <= {"minLength", "maxLength"}:
        return None
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    return r"/(?s:.*)<\//" if not keywords else rf"/(?s:.{{{least},{most}}})<\//"


class Rules:
    """Collects the rules of a grammar, and the other grammars that it refers to."""

    def __init__(self, marker: int):
        self.marker = f"<[{marker}]>"
        self.lines: list[str] = []
        self.others: list[dict[str, Any]] = []

    def add(self, name: str, *alternatives: str) -> str:
        self.lines.append(f"{name}: " + "\n  | ".join(alternatives))
        return name

    def json(self, schema: Any, root: dict[str, Any]) -> str:
        """A value of a part of `root`, whose references it may follow."""
        from .constrain import moved, with_options
        if '"$ref"' in json.dumps(schema):
            schema = {**moved(schema), "$defs": {"whole": moved(root)}}
        return "%json " + json.dumps(with_options(schema), ensure_ascii=False)

    def parameter(self, key: str, name: str, texts: Sequence[str], values: Sequence[str]) -> str:
        """key: a terminal or a literal behind `name="`, up to the quote; texts: terminals; values: rules of JSON."""
        ends = [f'"\\" string=\\"true\\">" {text} {self.marker}' for text in texts]
        ends += [f'"\\" string=\\"false\\">" {value} "</" {self.marker}' for value in values]
        inner = self.add(f"{name}_value", *ends)
        return self.add(name, f'"<" {self.marker} "parameter name=\\"" {key} {inner} "parameter>\\n"')

    def invoke(self, name: str, key: str, body: str) -> str:
        return self.add(name, f'"<" {self.marker} "invoke name=\\"" {key} "\\">\\n" {body} "</" {self.marker} "invoke>\\n"')

    # ---- tools ----

    def loose(self, tools: Sequence[Tool]) -> str:
        """Tools whose arguments are any object. Without arguments an empty line may stand in their place."""
        self.lines += ["LOOSE_NAME: " + " | ".join(quoted(tool.name) for tool in tools), r'LOOSE_KEY: /[^"\n\r<>]+/',
                       r"LOOSE_TEXT: /(?s:.*)<\//", f"loose_json: {self.json(True, {})}"]
        parameter = self.parameter("LOOSE_KEY", "loose_parameter", ["LOOSE_TEXT"], ["loose_json"])
        return self.invoke("loose", "LOOSE_NAME", self.add("loose_body", f"{parameter}+", r'"\n"?'))

    def strict(self, tool: Tool, name: str) -> str:
        root = tool.schema or {}
        schema, _ = resolved(root, root)
        given = properties(schema)
        required = [i for i, key in enumerate(given) if key in schema.get("required", [])]
        rules = [self.argument(f"{name}_{i}", key, value, root) for i, (key, value) in enumerate(given.items())]
        body = [self.in_any_order(name, rules, required) if 0 < len(rules) <= ANY_ORDER else
                " ".join(rule if i in required else f"{rule}?" for i, rule in enumerate(rules))]
        if not required:
            body += [r'"\n"?']
        return self.invoke(name, quoted(tool.name), self.add(f"{name}_body", *filter(None, body)))

    def in_any_order(self, name: str, rules: Sequence[str], required: Sequence[int]) -> str:
        """Each at most once: the rule's number has a bit for each that came."""
        rest = f"{name}_rest"
        condition = "true"
        for i in required:
            condition = f"and(bit_set({i}), {condition})"
        self.lines.append(f"{rest}::_ : " + "\n  | ".join(
            [f'"" %if {condition}'] + [f"{rule} {rest}::set_bit({i}) %if bit_clear({i})" for i, rule in enumerate(rules)]))
        return f"{rest}::0x0"

    def argument(self, name: str, key: str, schema: Any, root: dict[str, Any]) -> str:
        strings, others = parts(schema, root)
        texts: list[str] = []
        for one in strings:
            terminal = text_terminal(one)
            if terminal is None:
                others = [*others, one]
                continue
            texts.append(f"{name.upper()}_TEXT_{len(texts)}")
            self.lines.append(f"{texts[-1]}: {terminal}")
        values = [self.add(f"{name}_json_{i}", self.json(one, root)) for i, one in enumerate(others)]
        return self.parameter(quoted(key), name, texts, values)

    def text(self, tool: Tool, name: str) -> str:
        """A tool whose one argument is a text of a grammar."""
        syntax, definition = tool.text or ("", "")
        text = f"{name.upper()}_TEXT"
        if syntax == "regex":
            self.lines.append(f'{text}: /{regex_in_lark(definition or "()")}/ "</"')
        else:
            self.others.append({"name": f"{name}_grammar", "lark_grammar": definition})
            text = self.add(f"{name}_text", f'@{name}_grammar "</"?')      # which its last terminal may have taken: see Ends
        return self.invoke(name, quoted(tool.name), self.parameter(quoted(tool.argument), f"{name}_parameter", [text], []))

    def block(self, tools: Sequence[Tool], parallel: bool) -> str:
        loose = [tool for tool in tools if tool.schema is None and tool.text is None]
        calls = [self.loose(loose)] if loose else []
        for i, tool in enumerate(tools):
            if tool.text is not None:
                calls.append(self.text(tool, f"tool_{i}"))
            elif tool.schema is not None:
                calls.append(self.strict(tool, f"tool_{i}"))
        call = self.add("call", *calls)
        return self.add("block", f'"tool_calls>\\n" {call}{"+" if parallel else ""} "</" {self.marker} "tool_calls>"')


class Ends:
    """Where a value may end. In a grammar that a caller wrote the last terminal may take the "</" that ends the value, so the rule
    leaves it open, and this says whether "</" stands at the end of what came of the value."""

    def __init__(self, marker: int, tokens: Sequence[bytes]):
        self.marker, self._tokens = marker, tokens
        self._tail, self._tag, self._opened = b"", b"", False

    def push(self, id: int) -> None:
        if id == self.marker:
            self._opened, self._tag = not self._tail.endswith(b"</"), b""
        else:
            self._tail = (self._tail + self._tokens[id])[-2:]
            self._tag = (self._tag + self._tokens[id])[:9]

    @property
    def open(self) -> bool:
        """In a value that may not end here."""
        return self._opened and self._tag == b"parameter" and self._tail != b"</"


def regex_in_lark(pattern: str) -> str:
    import llguidance
    written: str = llguidance.regex_to_lark(pattern, "")
    return written


def grammar(marker: int, tools: Sequence[Tool], parallel: bool, answer: Any, free: bool, must_call: bool) -> str:
    """An answer in llguidance's format. answer: the schema of what it is, if it is no call; None: it has to be one. free: the
    grammar begins behind the marker of a block."""
    rules = Rules(marker)
    starts = []
    if answer is not None and not must_call:
        starts.append(rules.add("answer", "%json " + json.dumps(answer, ensure_ascii=False)))
    if tools:
        block = rules.block(tools, parallel)
        starts.append(block if free else f'"\\n\\n<" {rules.marker} {block}')
    rules.add("start", *starts)
    return json.dumps({"grammars": [{"name": "whole", "lark_grammar": "\n".join(rules.lines)}, *rules.others]}, ensure_ascii=False)
