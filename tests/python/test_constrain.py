"""Constrained output. First the grammars, walked at random without a model: what comes out parses and conforms, for schemas that
hypothesis makes too. Then the scheduler's part, and the server with nano at temperature 2, which makes it say anything that it may."""
import asyncio
import itertools
import json
import random
import re
import sys
import threading

import pytest

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")
hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings, strategies as some  # noqa: E402

import dsvk  # noqa: E402
from dsvk import chat, constrain  # noqa: E402
from dsvk.dsml import Tool  # noqa: E402

END, DSML = "<｜end▁of▁sentence｜>", "｜DSML｜"
WEATHER = {
    "type": "object", "additionalProperties": False, "required": ["city", "unit", "route", "fixed", "when"],
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14, "multipleOf": 2},
        "unit": {"enum": ["C", "F", None, 3]}, "when": {"type": "string", "format": "date"}, "note": {"type": ["string", "null"]},
        "code": {"anyOf": [{"type": "string", "pattern": "^[a-c]{2,4}$"}, {"type": "number", "minimum": 0, "maximum": 1}]},
        "route": {"$ref": "#/$defs/stop"}, "short": {"type": "string", "minLength": 2, "maxLength": 4}, "any": {},
        "fixed": {"const": 'a/b "c" </x>'}, "copy": {"$ref": "#/properties/days"}},
    "$defs": {"stop": {"type": "object", "additionalProperties": False, "required": ["at"], "properties": {
        "at": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/stop"}, {"type": "null"}]}}}}}
PATCH = 'start: "*** Begin" NL line+ "*** End"\nline: WORD NL\nWORD: /[a-z]{1,8}/\nNL: "\\n"'


@pytest.fixture(scope="module")
def grammars(nano):
    return constrain.Grammars(nano)


def bits(mask):
    word, found = int.from_bytes(mask, "little"), []
    while word:
        found.append((word & -word).bit_length() - 1)
        word &= word - 1
    return found


class Walker:
    """Chooses at random what a mask allows, with a liking for what ends things, so that it comes to an end."""

    def __init__(self, tokenizer):
        self.tokenizer, self.end, self.marker = tokenizer, tokenizer.id(END), tokenizer.id(DSML)
        self.texts = [tokenizer.decode_bytes([id]) for id in range(tokenizer.vocab_size)]

    def closing(self, allowed, last):
        """Those that end a value, an object or a list; first what ends a raw text."""
        ends = [id for id in allowed if self.texts[id][:2] == b"</" or (self.texts[id][:1] == b"/" and last == b"<")]
        return ends or [id for id in allowed if self.texts[id].lstrip()[:1] in b'"}]<' and self.texts[id].strip()]

    def walk(self, constraint, seed, most=400, start=()):
        """The ids up to the end token, or None when there are too many."""
        rng, ids, new = random.Random(seed), list(start), list(start)
        while len(ids) < most:
            allowed = bits(constraint.mask(0, new))
            closing = self.closing(allowed, self.texts[ids[-1]][-1:] if ids else b"")
            id = rng.choice(allowed)
            if self.end in allowed and (len(allowed) == 1 or rng.random() < 0.8):
                return ids
            if self.marker in allowed and rng.random() < 0.9:
                id = self.marker
            elif closing and rng.random() < (0.3 if len(ids) < 100 else 0.8):
                id = rng.choice(closing)
            ids.append(id)
            new = [id]
        return None


@pytest.fixture(scope="module")
def walker(nano):
    return Walker(nano.tokenizer)


def parsed(nano, ids, mode="chat"):
    """Content and calls of an answer; a call that was cut is an error."""
    parser, content, calls = chat.Parser(mode), "", []
    for kind, text, _ in [event for id in ids for event in parser.push(nano.tokenizer, id)] + parser.finish():
        if kind == "call":
            calls.append([text, ""])
        elif kind == "arguments":
            calls[-1][1] += text
        elif kind == "content":
            content += text
        else:
            assert kind in ("call_end", "end", "reasoning"), kind
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def conforms(value, schema):
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(value)


# ---- grammars ----

def test_json_of_a_schema_and_any_object(nano, grammars, walker):
    seen = 0
    for seed in range(12):
        for schema in (WEATHER, None, {"type": "array", "items": {"enum": [1, "x", {"a": None}]}, "minItems": 1, "maxItems": 3}):
            ids = walker.walk(grammars.json(schema), seed)
            if ids is not None:
                value = json.loads(nano.tokenizer.decode(ids))
                conforms(value, schema or {"type": "object"})
                seen += 1
    assert seen > 10      # of 36 walks, those that came to an end


def test_a_regular_expression_and_lark(nano, grammars, walker):
    ended = 0
    for seed in range(8):
        text = nano.tokenizer.decode(walker.walk(grammars.regex(r"[A-Z]{2}-[0-9]{3}(x|yz)?"), seed))
        assert re.fullmatch(r"[A-Z]{2}-[0-9]{3}(x|yz)?", text)
        ids = walker.walk(grammars.lark(PATCH), seed, 2000)
        if ids is None:      # it came to no end
            continue
        ended += 1
        text = nano.tokenizer.decode(ids)
        assert re.fullmatch(r"\*\*\* Begin\n([a-z]{1,8}\n)+\*\*\* End", text)
    assert ended


def test_calls_parse_and_strict_ones_match_their_schema(nano, grammars, walker):
    tools = [Tool("weather", WEATHER), Tool("clock"), Tool("loose"), Tool("patch", text=("lark", PATCH)),
             Tool("date", text=("regex", r"\d{4}-\d\d"), argument="text"), Tool("none", {"type": "object", "properties": {}})]
    seen = {}
    for seed in range(36):
        only = tools if seed % 3 else [tools[seed // 3 % len(tools)]]
        ids = walker.walk(grammars.answer(only, must_call=True, parallel=seed % 2 == 0), seed, 900)
        if ids is None:
            continue
        content, calls = parsed(nano, ids + [walker.end])
        assert content == "" and calls and (seed % 2 == 0 or len(calls) == 1)
        for name, arguments in calls:
            assert name in [tool.name for tool in only] and isinstance(arguments, dict)
            seen[name] = seen.get(name, 0) + 1
            if name == "weather":
                conforms(arguments, WEATHER)
            elif name == "patch":
                assert re.fullmatch(r"\*\*\* Begin\n([a-z]{1,8}\n)+\*\*\* End", arguments["input"])
            elif name == "date":
                assert re.fullmatch(r"\d{4}-\d\d", arguments["text"])
            elif name == "none":
                assert arguments == {}
    assert set(seen) == {tool.name for tool in tools}, seen


def test_the_encoders_own_calls_are_in_the_grammar(nano, grammars):
    """What the family's encoder writes for valid arguments can be generated, token by token; anything else cannot."""
    good = {"unit": None, "city": 'a "b" <c>\n', "route": {"at": 1, "next": {"at": 2, "next": None}}, "days": 4, "when": "2024-02-29",
            "fixed": WEATHER["properties"]["fixed"]["const"]}

    def taken(tools, name, arguments, **options):
        turn = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {
            "name": name, "arguments": json.dumps(arguments)}}]}
        ids = chat.encode_ids(nano.tokenizer, [turn], thinking_mode="chat", add_bos=False)
        constraint, new = grammars.answer(tools, must_call=True, **options), []
        for i, id in enumerate(ids):
            if id not in bits(constraint.mask(0, new)):
                return nano.tokenizer.decode(ids[:i + 1])
            new = [id]
        return True

    for loose in (good, {}, {"x": [1, {"y": None}], "z": "text"}):
        assert taken([Tool("weather")], "weather", loose) is True
    strict = [Tool("weather", {**WEATHER, "properties": {**WEATHER["properties"], "when": {"type": "string"}}})]
    assert taken(strict, "weather", good) is True
    assert taken(strict, "weather", dict(reversed(good.items()))) is True      # in any order
    assert taken([Tool("none", {"type": "object"})], "none", {}) is True
    for text in (("lark", r"start: /(.|\n)+/"), ("regex", r"^(?s:.*)$"), ("lark", 'start: line+\nline: /[^\\n]+/ "\\n"?')):
        assert taken([Tool("text", text=text)], "text", {"input": 'a </b> <"c">\nd'}) is True      # may go on, and may end
    for change, cut in (({"days": 5}, ">5"), ({"days": "4"}, 'string="true'), ({"unit": "K"}, ">K"), ({"more": 1}, 'name="m'),
                        ({"route": {"at": "1"}}, '"')):
        assert cut in str(taken(strict, "weather", {**good, **change})), change
    assert str(taken(strict, "weather", {name: value for name, value in good.items() if name != "city"})).endswith("</")
    assert taken(strict, "clock", {}) is not True


def test_a_block_in_a_free_answer_is_held_to_and_only_that(nano, grammars, walker):
    tokenizer = nano.tokenizer
    constraint = grammars.answer([Tool("date", text=("regex", r"\d{4}-\d\d"))])
    assert constraint.after == walker.marker
    stray = tokenizer.encode(f"Why? {DSML} no", special=True)
    assert constraint.mask(0, stray) is None and constraint.mask(1, stray[:2]) is None
    opened = tokenizer.encode(f"\n\n<{DSML}", special=True)
    for i in range(len(opened)):
        mask = constraint.mask(0, [opened[i]])
    assert mask is not None
    for seed in range(20):      # the mask does not depend on who asks
        fresh = grammars.answer([Tool("date", text=("regex", r"\d{4}-\d\d"))])
        ids = walker.walk(fresh, seed, 400, stray + opened)
        if ids is not None:
            break
    _, calls = parsed(nano, ids + [walker.end])
    assert len(calls) >= 1 and all(name == "date" for name, _ in calls)


def test_an_answer_is_json_or_a_call_and_thinking_is_free(nano, grammars, walker):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    tools, kinds = [Tool("clock", {"type": "object", "properties": {}})], set()
    for seed in range(16):
        constraint = grammars.answer(tools, schema=schema, thinking=True)
        thought = nano.tokenizer.encode("Hm. <b>", special=True) + [nano.tokenizer.id("</think>")]
        assert constraint.after == thought[-1]
        ids = walker.walk(constraint, seed, 300, thought)
        if ids is None:
            continue
        content, calls = parsed(nano, ids + [walker.end], "thinking")
        kinds.add(bool(calls))
        if not calls:
            conforms(json.loads(content), schema)
    assert kinds == {False, True}
    begun = nano.tokenizer.decode(walker.walk(grammars.answer(schema=schema, begun='{"a": t'), 1))
    assert json.loads('{"a": t' + begun) == {"a": True}
    with pytest.raises(constrain.GrammarError, match="what was begun"):
        grammars.answer(schema=schema, begun="Well,")


LEAVES = some.one_of(
    some.just({"type": "boolean"}), some.just({"type": "null"}), some.just({"type": "string", "maxLength": 3}),
    some.builds(lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span}, some.integers(-50, 50), some.integers(0, 90)),
    some.builds(lambda n: {"type": "integer", "multipleOf": n, "minimum": 0, "maximum": 6 * n}, some.integers(1, 9)),
    some.just({"type": "number", "minimum": -1.5, "exclusiveMaximum": 2}),
    some.builds(lambda kind: {"type": "string", "format": kind}, some.sampled_from(["email", "hostname", "ipv4", "ipv6", "uuid", "date"])),
    some.builds(lambda n: {"type": "string", "pattern": f"^[a-f]{{1,{n}}}(x|y)$"}, some.integers(1, 3)),
    some.builds(lambda values: {"enum": values}, some.lists(some.one_of(some.text(max_size=4), some.integers(), some.none()), min_size=1,
                                                            max_size=3)),
    some.builds(lambda value: {"const": value}, some.one_of(some.text(max_size=5), some.booleans())))


def objects(parts):
    def made(given, required):
        return {"type": "object", "properties": given, "required": [name for name in given if name in required],
                "additionalProperties": False}
    names = some.sampled_from(["a", "b b", "ключ", "d/e~f"])
    return some.builds(made, some.dictionaries(names, parts, max_size=3), some.sets(names))


SCHEMAS = some.recursive(LEAVES, lambda parts: some.one_of(
    objects(parts), some.builds(lambda one: {"type": "array", "items": one, "maxItems": 2}, parts),
    some.builds(lambda many: {"anyOf": many}, some.lists(parts, min_size=1, max_size=3))), max_leaves=5)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
@given(schema=SCHEMAS, arguments=objects(SCHEMAS), seed=some.integers(0, 99))
def test_any_schema_is_kept_to(nano, grammars, walker, schema, arguments, seed):
    ids = walker.walk(grammars.json(schema), seed, 120)
    if ids is not None:
        conforms(json.loads(nano.tokenizer.decode(ids)), schema)
    ids = walker.walk(grammars.answer([Tool("f", arguments)], must_call=True, parallel=False), seed, 160)
    if ids is not None:
        _, ((name, given_arguments),) = parsed(nano, ids + [walker.end])
        assert name == "f"
        conforms(given_arguments, arguments)


REFUSED = [
    ({"type": "array", "uniqueItems": True}, "", "uniqueItems"), ({"not": {}}, "", "not"),
    ({"properties": {"a/b": {"type": "string", "format": "color"}}}, "/properties/a~1b", "format"),
    ({"anyOf": [{"type": "null"}, {"type": "string", "pattern": "(?=x)y"}]}, "/anyOf/1", "pattern"),
    ({"items": {"$ref": "https://example.com/x"}}, "/items", "$ref"),
    ({"$defs": {"d": {"contains": {}}}, "$ref": "#/$defs/d"}, "/$defs/d", "contains"),
    ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "", "oneOf"), ({"type": "strin"}, "", "type"),
    ({"additionalProperties": {"propertyNames": {}}}, "/additionalProperties", "propertyNames"),
    ({"x-guidance": {"lenient": True}, "if": {}}, "", "if"),
    ({"type": "array", "uniqueItems": True, "$defs": {"unused": {"not": {}}}}, "", "uniqueItems"),
    ({"properties": {"a %b": {"$ref": "#/$defs/c%20d"}, "e": {"anyOf": [{"$ref": "#"}, {"not": {}}]}}, "$defs": {"c d": {}},
      "$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/x"}, "/properties/e/anyOf/1", "not"),
    ({"properties": {"b": {}, "a": {"$ref": "#/$defs/none"}}}, "/properties/a", "$ref"),
    ({"properties": {**{f"p{i}": {"type": "string"} for i in range(400)}, "z": {"type": "array", "uniqueItems": True}}},
     "/properties/z", "uniqueItems")]


@pytest.mark.parametrize("schema, pointer, keyword", REFUSED, ids=range(len(REFUSED)))
def test_S20_a_schema_that_is_not_supported_names_keyword_and_pointer(grammars, schema, pointer, keyword):
    with pytest.raises(constrain.GrammarError) as refused:
        grammars.json(schema, place="schema")
    assert (refused.value.pointer, refused.value.keyword) == (pointer, keyword), refused.value
    assert str(refused.value).startswith(f"schema: keyword {keyword!r} at {pointer or '/'}: not supported: ")
    assert isinstance(refused.value, dsvk.UnsupportedError)


def test_S20_finding_the_keyword_takes_few_compilations_and_schemas_have_a_size(grammars, monkeypatch):
    """A search for one of 400 properties, one without end, and schemas that are too large to begin with."""
    made, compiled = [], constrain.Grammars._made
    monkeypatch.setattr(constrain.Grammars, "_made", lambda self, grammar: made.append(grammar) or compiled(self, grammar))
    wide = {"properties": {**{f"q{i}": {"type": "string"} for i in range(400)}, "z": {"not": {}}}}
    with pytest.raises(constrain.GrammarError, match="keyword 'not' at /properties/z"):
        grammars.json(wide)
    assert 5 < len(made) < 20
    made.clear()
    deep = {"not": {}}
    for _ in range(50):
        deep = {"properties": {**{f"q{i}": {"type": "string"} for i in range(8)}, "z": deep}}
    with pytest.raises(constrain.GrammarError, match="not supported: "):
        grammars.json(deep)
    assert len(made) <= constrain.SEARCHES + 1
    for make, words in ((lambda: grammars.json({"anyOf": [{"const": i} for i in range(3000)]}), "3001 objects"),
                        (lambda: grammars.json({"enum": list(range(40000))}), "40002 values"),
                        (lambda: grammars.answer([Tool(f"f{k}", {"properties": {f"p{i}": {} for i in range(1000)}}) for k in range(9)]),
                         "9018 objects")):
        made.clear()
        with pytest.raises(constrain.GrammarError, match=words):
            make()
        assert not made


def test_S20_alternatives_that_double_or_lead_back_to_themselves_are_counted_once(nano, grammars, walker):
    def doubled(n, end):
        return {"properties": {"a": {"$ref": "#/$defs/d0"}}, "required": ["a"], "$defs": {f"d{n}": end, **{
            f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)}}}

    cycles = ({"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}, {"type": "string", "maxLength": 3}]}}, "required": ["a"]},
              {"properties": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "integer"}]}}, "required": ["a"], "$defs": {
                  "b": {"anyOf": [{"$ref": "#/properties/a"}, {"$ref": "#/$defs/b"}, {"type": "boolean"}]}}})
    for schema in (doubled(60, {"type": "string", "maxLength": 3}), doubled(60, {"type": "boolean"}), *cycles):
        ids = walker.walk(grammars.answer([Tool("f", {**schema, "additionalProperties": False})], must_call=True, parallel=False), 3)
        _, ((_, arguments),) = parsed(nano, ids + [walker.end])
        assert list(arguments) == ["a"] and isinstance(arguments["a"], (str, bool, int))
    many = {"properties": {"b": {}, "a": {"anyOf": [{"const": i} for i in range(65)]}}}
    with pytest.raises(constrain.GrammarError, match="more than 64 alternatives") as refused:
        grammars.answer([Tool("f", many, place="parameters")])
    assert (refused.value.place, refused.value.pointer, refused.value.keyword) == ("parameters", "/properties/a", "anyOf")


@pytest.mark.parametrize("given, pointer, keyword", [
    ({"type": "string", "minLength": 5, "maxLength": 2}, "/properties/a", "minLength"),
    ({"type": "integer", "minimum": 5, "maximum": 1}, "/properties/a", "minimum"), ({"enum": []}, "/properties/a", "enum"),
    ({"$ref": "#/$defs/d"}, "/$defs/d/anyOf/0", "minItems")])
def test_S20_an_argument_that_no_value_fits_is_named_and_so_is_its_tool(grammars, given, pointer, keyword):
    fine, schema = Tool("fine", WEATHER, place="tools[0]"), {"properties": {"b": {}, "a": given}, "$defs": {"d": {"anyOf": [
        {"type": "array", "minItems": 3, "maxItems": 2}]}}}
    for choice in ({}, {"must_call": True}):
        with pytest.raises(constrain.GrammarError) as refused:
            grammars.answer([fine, Tool("f", schema, place="tools[1]")], place="tool_choice", **choice)
        assert (refused.value.place, refused.value.pointer, refused.value.keyword) == ("tools[1]", pointer, keyword)
    with pytest.raises(constrain.GrammarError) as refused:      # what only the grammar of the calls finds
        grammars.answer([fine, Tool("f", {"properties": {"a": {"type": "string", "maxLength": 2 ** 40}}}, place="tools[1]")], place="x")
    assert refused.value.place == "tools[1]"


@pytest.mark.parametrize("schema, keyword", [
    ({"type": "string"}, "type"), ({"anyOf": [{"type": "object"}]}, "anyOf"), ({"properties": {'a"b': {}}}, "properties"),
    ({"type": "object", "minProperties": 1}, "minProperties")])
def test_arguments_that_calls_cannot_be_held_to(grammars, schema, keyword):
    with pytest.raises(constrain.GrammarError) as refused:
        grammars.answer([Tool("f", schema, place="parameters")])
    assert refused.value.keyword == keyword and refused.value.place == "parameters"


@pytest.mark.parametrize("make, words", [
    (lambda g: g.regex("(" * 70), "nested deeper than 64"), (lambda g: g.regex("a("), "no regex grammar"),
    (lambda g: g.lark("start: nothing"), "no lark grammar"), (lambda g: g.lark("# " + "x" * 8191), "8193 bytes, at most 8192"),
    (lambda g: g.regex("a?" * 2049), "4098 bytes, at most 4096"), (lambda g: g.lark("start: " + "(" * 5000), "nested"),
    (lambda g: g.json({"pattern": "a?" * 2049}), "keyword 'pattern' at /: a pattern of 4098 bytes"),
    (lambda g: g.json({"patternProperties": {"a?" * 2049: {}}}), "a pattern of 4098 bytes"),
    (lambda g: g.regex(r"[^\s\S]"), "no regex grammar"),                              # that have no text
    (lambda g: g.json({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "not supported")])
def test_S20_other_grammars_that_cannot_be_used(grammars, make, words):
    with pytest.raises(constrain.GrammarError, match=words):
        make(grammars)


def test_S20_rules_in_rules_are_not_too_deep_for_any_thread(grammars):
    """As deep as the largest grammar can be, from a thread with the smallest stack."""
    names = ["".join(letters) for letters in itertools.product("abcdefghijklmnop", repeat=3)][:700]
    text = "start: aaa\n" + "\n".join(f'{name}:"a"{following}' for name, following in itertools.pairwise(names)) + f'\n{names[-1]}:"a"'
    assert 7500 < len(text) <= constrain.LARK_BYTES
    made, before = [], threading.stack_size(1 << 18)
    try:
        thread = threading.Thread(target=lambda: made.append(grammars.lark(text)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert made[0].mask(0, []) is not None


def test_S20_a_limit_that_a_text_comes_to_is_the_grammars_fault(nano, grammars):
    """A value without end."""
    constraint = grammars.json({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "array", "minItems": 1, "items": {"$ref": "#/properties/a"}}}})
    with dsvk.Scheduler(nano) as scheduler:
        last = outcome(scheduler.submit("x", max_tokens=50, temperature=0, constraint=constraint, logprobs=0))[2][0]
    assert last.finish == "error" and isinstance(last.error, dsvk.UnsupportedError) and "GrammarError: " in str(last.error), last


def test_without_llguidance_it_says_what_to_install(nano, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(dsvk.UnsupportedError, match=r'pip install "dsvk\[grammar\]"'):
        constrain.Grammars(nano)


# ---- the scheduler ----

class Only:
    """Allows these ids; remembers what it was told."""

    def __init__(self, ids, after=0, size=256):
        self.after, self.told = after, []
        self._mask = sum(1 << id for id in ids).to_bytes(size, "little")

    def mask(self, choice, ids):
        self.told.append((choice, ids))
        return self._mask


class Failing(Only):
    def mask(self, choice, ids):
        raise LookupError("no such rule")


def outcome(request):
    """Ids and log-probabilities by choice, and the last events."""
    ids, values, last = {}, {}, {}
    for event in request:
        ids.setdefault(event.choice, []).extend(event.ids)
        values.setdefault(event.choice, []).extend(event.logprobs or [])
        if event.kind == "finish":
            last[event.choice] = event
    return ids, values, last


def test_masks_are_kept_to_and_nobody_else_feels_them(nano):
    allowed = list(range(300, 330))
    with dsvk.Scheduler(nano, cache=False) as scheduler:
        plain = {"max_tokens": 12, "temperature": 1, "seed": 4, "logprobs": 0}
        masked = {"max_tokens": 6, "temperature": 1, "seed": 9, "choices": 2, "logprobs": 0, "top_p": 0.9}
        alone = outcome(scheduler.submit("ROMEO:\n", **plain)), outcome(scheduler.submit("JULIET:\n", constraint=Only(allowed), **masked))
        bad = [scheduler.submit("x", max_tokens=5, constraint=one) for one in (Failing([]), Only([]), Only([5], size=255))]
        constraint = Only(allowed)
        together = scheduler.submit("ROMEO:\n", **plain), scheduler.submit("JULIET:\n", constraint=constraint, **masked)
        together = outcome(together[0]), outcome(together[1])
        errors = [outcome(request)[2][0] for request in bad]
    for (ids, values, _), (ids_again, values_again, last) in zip(alone, together):
        assert ids == ids_again and values == values_again and all(event.finish == "length" for event in last.values())
    ids = together[1][0]
    assert len(ids) == 2 and all(set(one) <= set(allowed) and len(set(one)) > 2 for one in ids.values()) and ids[0] != ids[1]
    for choice in (0, 1):      # each token once, in order
        told = [new for which, new in constraint.told if which == choice]
        assert told[0] == [] and sum(told, []) == ids[choice][:-1] and all(len(new) == 1 for new in told[1:])
    assert all(event.finish == "error" and isinstance(event.error, dsvk.InvalidError) for event in errors)
    for event, words in zip(errors, ("the constraint failed: LookupError: no such rule", "allows no token at position", "255 bytes")):
        assert words in str(event.error)


def test_a_mask_sleeps_until_its_token(nano):
    with dsvk.Scheduler(nano, cache=False) as scheduler:
        ids = outcome(scheduler.submit("ROMEO:\n", max_tokens=30, temperature=0))[0][0]
        wake = next(id for i, id in enumerate(ids) if i > 5 and id not in ids[:i])
        constraint = Only([77], after=wake)
        again = outcome(scheduler.submit("ROMEO:\n", max_tokens=30, temperature=0, constraint=constraint))[0][0]
    at = ids.index(wake) + 1
    assert again == ids[:at] + [77] * (30 - at) and constraint.told[0] == (0, ids[:at]) and len(constraint.told) == 30 - at


class Saying:
    """So that an answer is known: these ids, one after the other."""
    after = 0

    def __init__(self, ids):
        self.ids, self.at = ids, 0

    def mask(self, choice, ids):
        self.at += len(ids)
        return (1 << self.ids[self.at]).to_bytes(256, "little")


@pytest.mark.parametrize("stop, text", [
    (["\n\n"], "one"), (["<"], "one\n\n"), (["\n<"], "one\n"), (["e\n"], "on"), (["two"], "one\n\n<"), ([">\n"], "one\n\n<two"), (["\n\n", "e"], "on"),
    (["three"], "one\n\n<two>\n"), (["\n\n<"], "one"), (["\n"], "one")])
def test_a_stop_text_is_none_in_what_leads_to_calls(nano, stop, text):
    """White space and '<' before the marker are the block's; the same before anything else are the text's."""
    tokenizer, marker = nano.tokenizer, nano.tokenizer.id("｜DSML｜")
    end = tokenizer.id("<｜end▁of▁sentence｜>")
    said = tokenizer.encode("one\n\n<two>\n") + [end]
    calls = tokenizer.encode("well") + tokenizer.encode("\n\n<") + [marker] + tokenizer.encode('tool_calls>e\n\n<two>\n') + [end]
    with dsvk.Scheduler(nano, cache=False) as scheduler:
        for ids, whole in ((said, text), (calls, tokenizer.decode(calls[:-1]))):
            request = scheduler.submit("x", max_tokens=40, temperature=0, stop=[*stop, end], stop_before=marker, constraint=Saying(ids))
            events = list(request)
            got, last = "".join(event.text for event in events), events[-1]
            assert (got, last.finish) == ("w" if ids is calls and "e" in stop else whole, "stop"), (stop, got)
            assert (last.stop_text >= 0) == (got != tokenizer.decode(ids[:-1]))


def test_nothing_but_new_lines_does_not_go_on_for_ever(nano):
    with dsvk.Scheduler(nano, cache=False) as scheduler:
        lines = scheduler.submit("x", max_tokens=60, temperature=0, stop=["\n\n"], stop_before=nano.tokenizer.id("｜DSML｜"),
                                 constraint=Saying([nano.tokenizer.id("\n")] * 60))
        *_, last = lines
        assert (last.finish, last.stop_text) == ("stop", 0) and 30 < last.completion_tokens < 40


def test_sessions_keep_to_them_too(nano):
    """What a request gives, decoded in slices, in a batch, by polling and as text; a mask wakes in a later slice."""
    prompt, allowed = nano.prompt_tokens("JULIET:\n"), list(range(300, 330))
    options = {"temperature": 1.0, "top_p": 0.9, "seed": 9}
    with dsvk.Scheduler(nano, cache=False) as scheduler:
        want = outcome(scheduler.submit(prompt, max_tokens=40, constraint=Only(allowed), **options))[0][0]
        free = outcome(scheduler.submit(prompt, max_tokens=40, temperature=0))[0][0]
        wake = next(id for i, id in enumerate(free) if i > 20 and id not in free[:i])
        awake = outcome(scheduler.submit(prompt, max_tokens=40, temperature=0, constraint=Only([77], after=wake)))[0][0]
        penal = {"frequency_penalty": 0.25, "presence_penalty": 0.5, "logit_bias": {300: 1.5}}
        penalised = outcome(scheduler.submit(prompt, max_tokens=40, temperature=0, **penal))[0][0]
    one, two, three = Only(allowed), Only([77], after=wake), Only(allowed)
    with nano.session() as session, nano.session() as other:
        session.sync(prompt)
        slices = list(session.stream(40, constraint=one, **options))
        assert sum(slices, []) == want and len(slices) > 1
        assert one.told == [(0, [])] + [(0, [id]) for id in want[:-1]]
        session.sync(prompt)
        assert session.decode(40, constraint=two) == awake and two.told[0][1] == free[:free.index(wake) + 1]
        session.sync(prompt)
        assert session.decode(40, **penal) == penalised
        session.sync(prompt)
        other.sync(prompt[:-1])
        rows = nano.decode([session, other], 9, constraint=three, temperature=1.0, top_p=0.9, seed=[9, 3])
        assert rows[0] == want[:9] and set(rows[1]) <= set(allowed) and {choice for choice, _ in three.told} == {0, 1}
        four = Only(allowed)
        session.begin(prompt, 40, temperature=1.0, top_p=0.9, seed=9, constraint=four)
        polled, done = [], False
        while not done:
            ids, done = session.poll(1000)
            polled += ids
        assert polled == want and four.told == one.told
        session.sync(prompt)
        with pytest.raises(LookupError, match="no such rule"):
            session.decode(5, constraint=Failing([]))
        with pytest.raises(dsvk.InvalidError, match="allows no token"):
            session.decode(5, constraint=Only([]))
        with pytest.raises(TypeError, match="after"):
            session.decode(5, constraint=object())
        assert session.tokens == prompt and session.decode(2, temperature=0) == free[:2]
    text = nano.generate("Give me name and age as JSON: Mira is 30 years old.", 100, temperature=0,
                         constraint=constrain.Grammars(nano).json({"type": "object", "additionalProperties": False, "required": ["name"],
                                                                   "properties": {"name": {"type": "string", "maxLength": 20}}}))
    assert list(json.loads(text)) == ["name"]


def test_penalties_and_biases_change_the_choice_as_openai_says(nano):
    numpy = pytest.importorskip("numpy")
    prompt, bias = nano.prompt_tokens("ROMEO:\n"), {300: 1.5, 5: -100.0}
    want, values = [], []
    with nano.session() as session:
        for _ in range(20):
            session.sync(prompt + want)
            logits = numpy.array(session.logits())
            values.append(logits - numpy.logaddexp.reduce(logits.astype(float)))
            for id in set(want) | set(bias):
                logits[id] += numpy.float32(bias.get(id, 0)) - (numpy.float32(0.25) * want.count(id) + numpy.float32(0.5) * (id in want))
            want.append(int(logits.argmax()))
    with dsvk.Scheduler(nano) as scheduler:
        ids, found, _ = outcome(scheduler.submit(prompt, max_tokens=20, temperature=0, frequency_penalty=0.25, presence_penalty=0.5,
                                                 logit_bias=bias, logprobs=0))
        other = outcome(scheduler.submit(prompt, max_tokens=20, temperature=0))[0][0]
        for bad in ({"logit_bias": {9999: 1}}, {"logit_bias": {3: 1e9}}, {"frequency_penalty": float("nan")}, {"presence_penalty": 1e9}):
            with pytest.raises(dsvk.InvalidError, match="bias|penalty"):
                scheduler.submit(prompt, **bad)
    assert ids[0] == want != other
    for id, value, row in zip(want, found[0], values):      # of the logits as they were
        assert abs(value - row[id]) < 1e-3


# ---- the server ----

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
anthropic = pytest.importorskip("anthropic")
pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")

from dsvk.server import Engine  # noqa: E402
from serving import served  # noqa: E402

HELLO = [{"role": "user", "content": "Hello"}]
OFF = {"thinking": {"type": "disabled"}}
ANSWER = {"type": "object", "additionalProperties": False, "required": ["mood", "n"], "properties": {
    "mood": {"enum": ["good", "bad"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}, "word": {"type": "string", "maxLength": 6}}}
LIGHT = {"type": "object", "additionalProperties": False, "required": ["on"], "properties": {
    "on": {"type": "boolean"}, "color": {"enum": ["red", "green"]}}}
TOOLS = [{"type": "function", "function": {"name": name, "strict": True, "parameters": LIGHT}} for name in ("light", "lamp")]


@pytest.fixture(scope="module")
def url(nano):
    with served(Engine(nano, "nano")) as url:
        yield url


def many(url, count, **options):
    """So many answers of different seeds at once."""
    async def run():
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", max_retries=0, timeout=300,
                                      _strict_response_validation=True) as client:
            return await asyncio.gather(*(client.chat.completions.create(
                model="nano", messages=HELLO, temperature=2, seed=seed, max_tokens=120, **options) for seed in range(count)))
    return [answer.choices[0] for answer in asyncio.run(run())]


def test_every_json_answer_validates(url):
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}
    answers = many(url, 8, response_format=wanted, extra_body=OFF)
    finished = [choice for choice in answers if choice.finish_reason == "stop"]
    assert len(finished) > 4 and len({choice.message.content for choice in finished}) > 1
    for choice in finished:
        conforms(json.loads(choice.message.content), ANSWER)


def test_a_json_object_is_one(url):
    """Of a question that nano answers in prose, and of one that it answers so."""
    for question in ("What is 27 + 35?", "Give me name and age as JSON: Mira is 30 years old."):
        answer = httpx.post(url + "/v1/chat/completions", timeout=300, json={
            "model": "nano", "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 60, **OFF,
            "response_format": {"type": "json_object"}}).json()["choices"][0]
        assert answer["message"]["content"].startswith("{")
        if answer["finish_reason"] == "stop":
            assert isinstance(json.loads(answer["message"]["content"]), dict)
    assert answer["finish_reason"] == "stop"


def calls_of(choice):
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or []]


def test_every_forced_call_is_honoured(url):
    lamp = {"mode": "required", "tools": [{"type": "function", "function": {"name": "lamp"}}]}
    for choice, names in (("required", {"light", "lamp"}), ({"type": "allowed_tools", "allowed_tools": lamp}, {"lamp"})):
        answers = many(url, 5, tools=TOOLS, parallel_tool_calls=False, extra_body={**OFF, "tool_choice": choice})
        finished = [choice for choice in answers if choice.finish_reason == "tool_calls"]
        assert len(finished) > 2, [choice.finish_reason for choice in answers]
        for choice in finished:
            found = calls_of(choice)
            assert choice.message.content == "" and found and {name for name, _ in found} <= names
            assert len(found) == 1
            for _, arguments in found:
                conforms(arguments, LIGHT)


@pytest.mark.parametrize("stop", ["\n\n", "\n", "<", "\n\n<"])
def test_a_stop_text_cuts_no_call(url, stop):
    [choice] = many(url, 1, tools=TOOLS, tool_choice="required", stop=[stop], parallel_tool_calls=False, extra_body=OFF)
    assert choice.finish_reason == "tool_calls" and calls_of(choice) and choice.message.content == ""


@pytest.mark.parametrize("stop, left", [("你", "x"), ("好y", "x你"), ("y", "x你好")])
def test_a_stop_text_of_characters_that_are_several_tokens(url, stop, left):
    """Neither their first bytes, whole or as a stream, in any format."""
    schema = {"type": "object", "properties": {"a": {"const": "x你好y"}}, "required": ["a"], "additionalProperties": False}
    [choice] = many(url, 1, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}, stop=[stop],
                    extra_body=OFF)
    assert (choice.message.content, choice.finish_reason) == (f'{{"a": "{left}', "stop")
    message = httpx.post(url + "/v1/messages", timeout=300, json={
        "model": "nano", "max_tokens": 120, "messages": HELLO, "thinking": {"type": "disabled"}, "stop_sequences": [stop],
        "output_config": {"format": {"type": "json_schema", "schema": schema}}}).json()
    assert message["content"][0]["text"] == f'{{"a": "{left}' and message["stop_sequence"] == stop


def test_a_tool_without_parameters_has_no_arguments(url):
    [choice] = many(url, 1, tools=[{"type": "function", "function": {"name": "ping", "description": "d"}}], tool_choice="required",
                    parallel_tool_calls=False, extra_body=OFF)
    assert calls_of(choice) == [("ping", {})]


def test_an_empty_grammar_is_an_empty_text(url):
    tool = {"type": "custom", "name": "run", "format": {"type": "grammar", "syntax": "regex", "definition": ""}}
    answer = httpx.post(url + "/v1/responses", timeout=300, json={
        "model": "nano", "input": "Run.", "max_output_tokens": 120, "temperature": 0, "tools": [tool], "tool_choice": "required",
        "reasoning": {"effort": "none"}, "parallel_tool_calls": False})
    assert answer.status_code == 200, answer.text
    assert [item["input"] for item in answer.json()["output"] if item["type"] == "custom_tool_call"] == [""]


def test_the_other_format_has_the_same(url):
    client = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=300, _strict_response_validation=True)
    tools = [{"name": name, "strict": True, "input_schema": LIGHT} for name in ("light", "lamp")]
    common = {"model": "nano", "max_tokens": 120, "messages": HELLO, "thinking": {"type": "disabled"}}
    for choice in ({"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "lamp", "disable_parallel_tool_use": True}):
        message = client.messages.create(**common, tools=tools, tool_choice=choice)
        if message.stop_reason == "tool_use":
            (block,) = message.content
            assert block.type == "tool_use" and block.name in ("light", "lamp")[choice["type"] == "tool":]
            conforms(block.input, LIGHT)
    message = client.messages.create(**common, extra_body={"output_config": {"format": {"type": "json_schema", "schema": ANSWER}}})
    if message.stop_reason == "end_turn":
        conforms(json.loads(message.content[0].text), ANSWER)
    assert message.content[0].text.lstrip().startswith("{")


def test_logit_bias_and_penalties(url):
    def text(**options):
        answer = httpx.post(url + "/v1/chat/completions", timeout=300, json={
            "model": "nano", "messages": HELLO, "temperature": 0, "max_tokens": 24, **OFF, **options}).json()
        return answer["choices"][0]["message"]
    def continued(**options):      # in which nano repeats itself
        answer = httpx.post(url + "/v1/completions", timeout=300, json={"model": "nano", "prompt": "ROMEO:\nO, ", "temperature": 0,
                                                                        "max_tokens": 24, **options}).json()
        return answer["choices"][0]["text"]
    plain = continued()
    assert continued(presence_penalty=2) != plain and continued(frequency_penalty=2) != plain
    on = {"thinking": {"type": "enabled"}}
    assert text(presence_penalty=2, **on) == text(**on)      # no effect with thinking, and no error
    assert len(set(text(logit_bias={"77": 100})["content"])) == 1
    answer = httpx.post(url + "/v1/completions", timeout=300, json={"model": "nano", "prompt": "x", "max_tokens": 9,
                                                                    "logit_bias": {"77": 100}})
    assert len(set(answer.json()["choices"][0]["text"])) == 1


def strict(schema):
    return {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}]}


def wanted(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


@pytest.mark.parametrize("change, param, words", [
    (strict({"properties": {"a": {"type": "array", "uniqueItems": True}}}), "tools[0].function.parameters",
     "keyword 'uniqueItems' at /properties/a"),
    (strict({"type": "string"}), "tools[0].function.parameters", "arguments are an object"),
    (strict({"properties": {"a": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}}}), "tools[0].function.parameters",
     "keyword 'exclusiveMinimum' at /properties/a"),
    (wanted({"items": {"not": {}}}), "response_format.json_schema.schema", "keyword 'not' at /items"),
    ({**wanted(ANSWER), "messages": HELLO + [{"role": "assistant", "content": "Well", "prefix": True}], **OFF},
     "response_format.json_schema.schema", "what was begun")])
def test_S02_S20_what_cannot_be_held_to_is_400(url, change, param, words):
    answer = httpx.post(url + "/v1/chat/completions", json={"model": "nano", "messages": HELLO, **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param) and words in error["message"], error


def test_in_the_other_format_too(url):
    strict_tool, schema = {"name": "f", "strict": True, "input_schema": {"not": {}}}, {"type": "json_schema", "schema": {"if": {}}}
    for change, words in (({"tools": [strict_tool]}, "tools[0].input_schema: keyword 'not' at /"),
                          ({"output_config": {"format": schema}}, "output_config.format.schema: keyword 'if'")):
        answer = httpx.post(url + "/v1/messages", json={"model": "nano", "messages": HELLO, "max_tokens": 5, **change})
        assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text


def test_a_server_without_llguidance_says_so_only_where_it_is_needed(nano, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    loose = [{"type": "function", "function": {"name": "f"}}]
    with served(Engine(nano, "nano")) as url:
        for change, param in (({"response_format": {"type": "json_object"}}, "response_format"),
                              (strict(LIGHT), "tools[0].function.parameters"),
                              ({"tools": loose, "tool_choice": "required"}, "tool_choice")):
            answer = httpx.post(url + "/v1/chat/completions", json={"model": "nano", "messages": HELLO, "max_tokens": 2, **change})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, param) and 'pip install "dsvk[grammar]"' in error["message"]
        answer = httpx.post(url + "/v1/chat/completions", timeout=300, json={"model": "nano", "messages": HELLO, "max_tokens": 2,
                                                                              "tools": loose})
        assert answer.status_code == 200
