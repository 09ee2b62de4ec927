"""dsvk.constrain: what a model may say, as grammars: JSON by a schema, Lark, regular expressions, and a conversation's answers.

    grammars = constrain.Grammars(model)
    scheduler.submit(prompt, constraint=grammars.json({"type": "object"}))

The package llguidance compiles them and says before each token which may come: pip install "dsvk[grammar]".
"""
from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from copy import copy
from typing import Any, Callable, Iterator, Sequence, TypeVar
from urllib.parse import quote, unquote

from . import _dsvk, dsml
from .dsml import Tool
from .model import Model, end_ids

__all__ = ["Constraint", "GrammarError", "Grammars"]

GRAMMAR_BYTES = 4 << 20     # of one grammar's text
REGEX_BYTES = 4096          # of a regular expression that a caller wrote, in a schema too: compiling takes up to its square
LARK_BYTES = 8 << 10        # of a grammar that a caller wrote: an error deep in it takes its square, too
NESTED = 64                 # brackets in one
STACK = 256 << 20           # of the thread that compiles, which goes down once for each rule or bracket inside another; only what it uses
                            # becomes memory
SCHEMA_OBJECTS = 2048       # of one schema; compiling takes up to the square of the properties that an object has
TOOLS_OBJECTS = 8192        # of the schemas of all tools of an answer
SCHEMA_VALUES = 1 << 15     # of one schema: objects, texts of an enum, and all else
KEPT = 64                   # compiled grammars
SOUND = 4096                # schemas known to be
SEARCHES = 64               # compilations to find out what is wrong with one
T = TypeVar("T")
STACKS = threading.Lock()   # the size of the next thread's stack is the process's
# JSON is written on one line, with or without a space behind a comma and a colon: where white space may stand without end, a model may
# fill its limit with it.
JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": False, "coerce_one_of": False}


class GrammarError(_dsvk.UnsupportedError):
    """A grammar or schema that cannot be used. place: of several, which; pointer and keyword: where in a schema ("" and None for
    other grammars); sentence: without the place."""

    def __init__(self, reason: str, place: str = "", pointer: str = "", keyword: str | None = None):
        where = f"keyword {keyword!r} at {pointer or '/'}: " if keyword is not None else f"at {pointer}: " if pointer else ""
        self.place, self.pointer, self.keyword, self.sentence = place, pointer, keyword, where + reason
        super().__init__((f"{place}: " if place else "") + self.sentence)


def deep(job: Callable[[], T]) -> T:
    """What job() gives, from a thread with a stack that is deep enough for every grammar there may be."""
    done: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            done.append(job())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, name="dsvk grammar", daemon=True)
    with STACKS:
        before = threading.stack_size(STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if failures:
        raise failures[0]
    return done[0]


class Vocabulary:
    """A model's tokens as llguidance asks for them. Every added token is markup there, which no text in a grammar matches."""
    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: _dsvk.Tokenizer, size: int, end: int):
        self.eos_token_id, self.bos_token_id = end, None
        self.tokens = [self.bytes_of(tokenizer, id) for id in range(size)]
        self.special_token_ids = [id for id in range(size) if tokenizer.is_added(id)]
        self._tokenizer = tokenizer

    @staticmethod
    def bytes_of(tokenizer: _dsvk.Tokenizer, id: int) -> bytes:
        try:
            return tokenizer.decode_bytes([id])
        except _dsvk.InvalidError:      # a vocabulary may have ids that no token has
            return b""

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text)


class Constraint:
    """A compiled grammar on its way through the choices of one request: what Scheduler.submit takes as constraint."""

    def __init__(self, matcher: Any, words: int, after: int = 0, begun: Sequence[int] = (), ends: dsml.Ends | None = None):
        self.after, self._bytes = after, 4 * words
        self._ends = ends
        self._ends_of: dict[int, dsml.Ends] = {}
        self._matcher = matcher
        self._matchers: dict[int, Any] = {}
        self._begun = list(begun)

    def mask(self, choice: int, ids: list[int]) -> bytes | None:
        """See dsvk.session.Constraint."""
        matcher = self._matchers.get(choice)
        if matcher is None:
            begun = self._since_begin(choice, ids)
            if begun is None:
                return None
            matcher = self._matchers[choice] = self._matcher.deep_copy()
            ids = self._begun + begun
        if ids and not matcher.consume_tokens(ids):
            raise GrammarError(self._error(matcher) or "a token that the grammar has not")
        bits = matcher.compute_bitmask()
        if matcher.is_error():      # a limit that only this text comes to
            raise GrammarError(self._error(matcher))
        return bits[:self._bytes] if self._ends is None else self._ended(self._ends, choice, ids, bits)

    def _ended(self, begun: dsml.Ends, choice: int, ids: list[int], bits: bytes) -> bytes:
        """The mask without the marker where it would end a value too early."""
        ends = self._ends_of.setdefault(choice, copy(begun))
        for id in ids:
            ends.push(id)
        left = bytearray(bits[:self._bytes])
        if ends.open:
            left[ends.marker // 8] &= ~(1 << ends.marker % 8) & 0xff
        return bytes(left)

    def _since_begin(self, choice: int, ids: list[int]) -> list[int] | None:
        """Of the ids of a choice those that are the grammar's; None: it has not begun."""
        return ids[ids.index(self.after) + 1:] if self.after else ids

    @staticmethod
    def _error(matcher: Any) -> str:
        said: str = matcher.get_error()
        return said.strip().partition("\n")[0]


class CallConstraint(Constraint):
    """A constraint that begins with a block of tool calls: behind the marker that "<" stands before. At any other it is asleep."""

    def __init__(self, matcher: Any, words: int, after: int, tokens: Sequence[bytes], ends: dsml.Ends | None):
        super().__init__(matcher, words, after, ends=ends)
        self._tokens = tokens
        self._tails: dict[int, bytes] = {}

    def _since_begin(self, choice: int, ids: list[int]) -> list[int] | None:
        tail = self._tails.get(choice, b"")
        for i, id in enumerate(ids):
            if id == self.after and tail.endswith(b"<"):
                return ids[i + 1:]
            tail = (tail + self._tokens[id])[-1:]
        self._tails[choice] = tail
        return None


class Grammars:
    """Grammars(model): compiles grammars for a model's vocabulary, and keeps the last ones; from any thread.

    Raises UnsupportedError when llguidance is not installed, or the model has no tokenizer. What it compiles is limited in size,
    time and states; what goes beyond, and what is not supported, is a GrammarError."""

    def __init__(self, model: Model):
        try:
            import llguidance
        except ImportError:
            raise _dsvk.UnsupportedError('constrained output needs the package llguidance: pip install "dsvk[grammar]"') from None
        if model.tokenizer is None:
            raise _dsvk.UnsupportedError("the model has no tokenizer.json, which constrained output needs")
        ends = end_ids(model.config)
        if not ends:
            raise _dsvk.UnsupportedError("the model has no end token, which constrained output needs")
        self.tokenizer, self.words = model.tokenizer, (model.vocab_size + 31) // 32
        self._vocabulary = Vocabulary(model.tokenizer, model.vocab_size, ends[0])
        self._matcher, self._limits = llguidance.LLMatcher, llguidance.LLParserLimits(verbose_errors=False)
        self._tokens = llguidance.LLTokenizer(self._vocabulary, n_vocab=model.vocab_size, eos_token=ends)
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._sound: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    # ---- compiling ----

    def compiled(self, grammar: str) -> Any:
        """A matcher at the beginning of an llguidance grammar, for copying. Raises ValueError with what is wrong."""
        with self._lock:
            matcher = self._compiled.pop(grammar, None)
            if matcher is not None:
                self._compiled[grammar] = matcher
                return matcher
        matcher = self._made(grammar)
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return matcher

    def _made(self, grammar: str) -> Any:
        """The same, not kept."""
        if len(grammar.encode()) > GRAMMAR_BYTES:
            raise ValueError(f"a grammar of {len(grammar.encode())} bytes, at most {GRAMMAR_BYTES} are allowed")
        def make() -> tuple[Any, Any]:
            matcher = self._matcher(self._tokens, grammar, limits=self._limits, log_level=0)
            first = matcher.deep_copy()
            if not matcher.is_error():
                first.compute_bitmask()      # a grammar that has no text shows there
            return matcher, first

        matcher, first = deep(make)
        for one in (matcher, first):
            if one.is_error():
                raise ValueError(" ".join(one.get_error().split())[:300])
        return matcher

    def _of_schema(self, schema: Any) -> Any:
        return self.compiled(self._matcher.grammar_from_json_schema(with_options(schema)))

    def check_schema(self, schema: Any, place: str, pointers: Sequence[str] = ("",)) -> None:
        """GrammarError when no value can be made for one of the parts at these pointers of a schema, each for itself: it names the
        keyword that is in the way, and where it stands."""
        objects, values = size(schema)
        if objects > SCHEMA_OBJECTS or values > SCHEMA_VALUES:
            raise GrammarError(f"a schema of {objects} objects and {values} values, at most {SCHEMA_OBJECTS} and {SCHEMA_VALUES} "
                               "are allowed", place)
        for pattern in patterns(schema):
            if len(pattern.encode()) > REGEX_BYTES:
                raise GrammarError(f"a pattern of {len(pattern.encode())} bytes, at most {REGEX_BYTES} are allowed", place, "", "pattern")
        key = hashlib.sha256(json.dumps([schema, list(pointers)]).encode()).digest()
        with self._lock:
            if key in self._sound:
                self._sound.move_to_end(key)
                return
        reason = self.refusal(schema, pointers)
        if reason is not None:
            pointer, keyword, closer = Culprit(self, schema).find(pointers)
            raise GrammarError(f"not supported: {closer or reason}", place, pointer, keyword)
        for pointer, part in ranges(schema):
            if (keyword := self._kept_wrong(part)) is not None:
                raise GrammarError("not supported: in this range llguidance does not keep to it", place, pointer, keyword)
        with self._lock:
            self._sound[key] = None
            while len(self._sound) > SOUND:
                self._sound.popitem(last=False)

    def _kept_wrong(self, bounds: dict[str, float]) -> str | None:
        """The keyword of a range of numbers that llguidance compiles, and then lets a bound through that is not in it: 1.9 does where
        both bounds are within a whole number and the next."""
        try:
            matcher = self._of_schema({"type": "number", **bounds})
        except ValueError:
            return None      # nothing is in it: for whoever asks for the whole
        for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
            if keyword in bounds and self._takes(matcher, f"{bounds[keyword]:g}"):
                return keyword
        return None

    def _takes(self, matcher: Any, text: str) -> bool:
        walked = matcher.deep_copy()
        return bool(walked.consume_tokens(self.tokenizer.encode(text)) and walked.is_accepting())

    def refusal(self, schema: Any, pointers: Sequence[str]) -> str | None:
        """Why the parts at these pointers of a schema cannot be compiled, all of them."""
        if list(pointers) != [""]:
            wanted = {str(i): {"$ref": "#/$defs/whole" + quote(pointer, safe="/~")} for i, pointer in enumerate(pointers)}
            whole = {name: value for name, value in moved(schema).items() if name not in ("$id", "$schema")}
            version = {name: value for name, value in schema.items() if name == "$schema"}
            schema = {**version, "$defs": {"whole": whole}, "type": "object", "properties": wanted, "required": list(wanted),
                      "additionalProperties": False}
        try:
            self._made(self._matcher.grammar_from_json_schema(with_options(schema)))
        except ValueError as error:
            return str(error)
        return None

    # ---- what there is ----

    def json(self, schema: Any = None, *, place: str = "") -> Constraint:
        """A value of a JSON schema (a dict, True); None: any object."""
        schema = {"type": "object"} if schema is None else schema
        self.check_schema(schema, place)
        return Constraint(self._of_schema(schema), self.words)

    def regex(self, pattern: str, *, place: str = "") -> Constraint:
        """A text that a regular expression matches as a whole, in the syntax of Rust's regex."""
        self.check_text("regex", pattern, place)
        return Constraint(self.compiled(self._matcher.grammar_from_regex(pattern or "()")), self.words)

    def lark(self, grammar: str, *, place: str = "") -> Constraint:
        """A text of a grammar in llguidance's variant of Lark, from its rule `start`."""
        self.check_text("lark", grammar, place)
        return Constraint(self.compiled(self._matcher.grammar_from_lark(grammar)), self.words)

    def check_text(self, syntax: str, text: str, place: str) -> None:
        """GrammarError when a grammar that a caller wrote cannot be compiled."""
        most = REGEX_BYTES if syntax == "regex" else LARK_BYTES
        if len(text.encode()) > most:
            raise GrammarError(f"a {syntax} grammar of {len(text.encode())} bytes, at most {most} are allowed", place)
        deepest = depth = 0
        for character in text:
            depth += (character in "([{") - (character in ")]}")
            deepest = max(deepest, depth)
        if deepest > NESTED:
            raise GrammarError(f"brackets nested deeper than {NESTED}", place)
        make = self._matcher.grammar_from_regex if syntax == "regex" else self._matcher.grammar_from_lark
        try:
            self.compiled(make(text))
        except ValueError as error:
            raise GrammarError(f"no {syntax} grammar that can be used: {error}", place) from None

    def answer(self, tools: Sequence[Tool] = (), *, must_call: bool = False, parallel: bool = True, schema: Any = None,
               thinking: bool = False, begun: str = "", place: str = "") -> Constraint | None:
        """A conversation's answer; None when nothing is constrained.

        tools: those that may be called: what opens a block of calls then is one, whose calls parse, have the arguments that
        their tools ask for, and nothing behind them. must_call: the answer is such a block; parallel=False: of one call.
        schema: the answer is JSON of it, or calls. thinking: the answer begins inside thinking, which is free. begun: what stands
        of the answer already.
        """
        objects = sum(size(tool.schema)[0] for tool in tools)
        if objects > TOOLS_OBJECTS:
            raise GrammarError(f"the tools' schemas have {objects} objects, at most {TOOLS_OBJECTS} are allowed", place)
        for tool in tools:
            dsml.check(self, tool)
        if schema is not None:
            self.check_schema(schema, place)
        if not tools and schema is None:
            return None
        free = schema is None and not must_call      # until a block begins
        answer = None if schema is None else with_options(schema)
        try:
            matcher = self.compiled(dsml.grammar(self._marker, tools, parallel, answer, free, must_call))
        except ValueError as error:
            for tool in tools if len(tools) > 1 else ():
                self.answer([tool], must_call=True)
            raise GrammarError(f"a grammar that cannot be used: {error}", tools[0].place if len(tools) == 1 else place) from None
        ends = dsml.Ends(self._marker, self._vocabulary.tokens) if any(tool.text for tool in tools) else None
        if free:
            return CallConstraint(matcher, self.words, self._marker, self._vocabulary.tokens, ends)
        ids = self.tokenizer.encode(begun)
        if ids and not matcher.deep_copy().consume_tokens(ids):
            raise GrammarError("what was begun of the answer is no beginning of what is asked for", place)
        return Constraint(matcher, self.words, thinking and self.tokenizer.id("</think>") or 0, ids, ends)

    @property
    def _marker(self) -> int:
        """The id of the token that tool calls are written with."""
        marker = self.tokenizer.id("｜DSML｜")
        if marker is None:
            raise _dsvk.UnsupportedError("the tokenizer lacks ｜DSML｜, which tool calls are written with")
        return marker


# ---- schemas ----

def with_options(schema: Any) -> dict[str, Any]:
    """A schema with our options for llguidance instead of any that came with it."""
    if isinstance(schema, dict):
        return {**schema, "x-guidance": JSON_OPTIONS}
    return {"allOf": [schema], "x-guidance": JSON_OPTIONS}


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
NAMED = ("properties", "patternProperties")
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties")


def children(schema: Any, pointer: str) -> Iterator[str]:
    """Pointers of the schemas that the one at `pointer` is made of."""
    if not isinstance(schema, dict):
        return
    for keyword in NAMED + LISTED + SINGLE:
        value = schema.get(keyword)
        if keyword in NAMED and isinstance(value, dict):
            yield from (f"{pointer}/{keyword}/{escaped(name)}" for name in value)
        elif keyword in LISTED and isinstance(value, list):
            yield from (f"{pointer}/{keyword}/{i}" for i in range(len(value)))
        elif keyword in SINGLE and isinstance(value, dict):
            yield f"{pointer}/{keyword}"
    yield from referred(schema)


def referred(schema: Any) -> list[str]:
    """The pointer that a reference into the same schema has."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    return [unquote(reference[1:])] if isinstance(reference, str) and reference.startswith("#") else []


def at(schema: Any, pointer: str) -> Any:
    """The part of a schema; None when there is none."""
    if pointer and not pointer.startswith("/"):
        return None
    for name in pointer.split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list) and name.isdecimal() and int(name) < len(schema):
            schema = schema[int(name)]
        elif isinstance(schema, dict) and name in schema:
            schema = schema[name]
        else:
            return None
    return schema


def size(value: Any) -> tuple[int, int]:
    """Objects in a JSON value, and all values."""
    objects = values = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        values += 1
        if isinstance(one, dict):
            objects += 1
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return objects, values


def patterns(schema: Any) -> Iterator[str]:
    """The regular expressions in a schema, and what looks like one."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
            yield from (text for text in (one.get("pattern"), *(one.get("patternProperties") or ())) if isinstance(text, str))
        elif isinstance(one, list):
            waiting += one


def ranges(schema: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """The bounds of numbers in a schema, where one of them is exclusive, with their pointers."""
    waiting = [("", schema)]
    while waiting:
        pointer, one = waiting.pop()
        if isinstance(one, dict):
            waiting += [(f"{pointer}/{escaped(name)}", value) for name, value in one.items()]
            bounds = {name: one[name] for name in BOUNDS if isinstance(one.get(name), (int, float)) and not isinstance(one[name], bool)}
            if one.get("type") != "integer" and any(name.startswith("exclusive") for name in bounds):
                yield pointer, bounds
        elif isinstance(one, list):
            waiting += [(f"{pointer}/{i}", value) for i, value in enumerate(one)]


class Culprit:
    """Looks for what is wrong with a schema that cannot be compiled, by a limited number of compilations."""

    def __init__(self, grammars: Grammars, schema: Any):
        self.grammars, self.schema, self.left = grammars, schema, SEARCHES

    def refusal(self, schema: Any, pointers: Sequence[str]) -> str | None:
        self.left -= 1
        return self.grammars.refusal(schema, pointers)

    def first(self, pointers: Sequence[str]) -> str | None:
        """The first of these parts that cannot be compiled alone, as far as may be looked."""
        if not pointers or self.left <= 0 or self.refusal(self.schema, pointers) is None:
            return None
        while len(pointers) > 1 and self.left > 0:
            half = len(pointers) // 2
            pointers = pointers[:half] if self.refusal(self.schema, pointers[:half]) is not None else pointers[half:]
        return pointers[0] if len(pointers) == 1 else None

    def target(self, pointer: str) -> str:
        """Where a part really stands that only refers to another."""
        part = at(self.schema, pointer)
        there = [one for one in referred(part) if len(part) == 1 and at(self.schema, one) is not None]
        return there[0] if there else pointer

    def find(self, pointers: Sequence[str]) -> tuple[str, str | None, str | None]:
        """Pointer of the innermost part at fault, the keyword of it that is in the way, and why."""
        pointer, reason = "", None
        inner, seen = self.first(pointers), {""}
        while inner is not None:
            pointer = inner
            seen.add(pointer)
            deeper = [self.target(one) for one in children(at(self.schema, pointer), pointer)]
            inner = self.first([one for one in dict.fromkeys(deeper) if one not in seen and at(self.schema, one) is not None])
        part = at(self.schema, pointer)
        if self.left > 0:
            reason = self.refusal(self.schema, [pointer])
        for keyword in sorted(part, key="type".__eq__) if isinstance(part, dict) else ():      # without a type much else is no fault
            if self.left > 0 and self.refusal(without(self.schema, pointer, keyword), [pointer]) is None:
                return pointer, keyword, reason
        return pointer, None, reason


def moved(value: Any) -> Any:
    """A schema to be put at #/$defs/whole: its references lead there."""
    if isinstance(value, dict):
        return {name: "#/$defs/whole" + part[1:] if name == "$ref" and isinstance(part, str) and part.startswith("#") else moved(part)
                for name, part in value.items()}
    return [moved(part) for part in value] if isinstance(value, list) else value


def without(schema: Any, pointer: str, keyword: str) -> Any:
    """The schema less one keyword of the part at `pointer`."""
    if pointer == "":
        return {name: value for name, value in schema.items() if name != keyword}
    head, _, rest = pointer[1:].partition("/")
    rest = "/" + rest if rest else ""
    if isinstance(schema, list):
        return [without(part, rest, keyword) if str(i) == head else part for i, part in enumerate(schema)]
    return {name: without(part, rest, keyword) if escaped(name) == head else part for name, part in schema.items()}
