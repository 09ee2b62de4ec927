"""dsvk.chat: prompts against what the published encoder gives, and back again.

tests/vectors/chat.jsonl: 62 conversations drawn at random (roles in any order, missing content, results out of order, odd
numbers and arguments), the parameters, and the published encoder's output, one per line.
"""
import gc
import json
import random
import struct
import sys
import weakref
from pathlib import Path

import pytest

import dsvk
from dsvk import chat

CASES = [json.loads(line) for line in
         (Path(__file__).parents[1] / "vectors" / "chat.jsonl").read_text(encoding="utf-8").splitlines()]
END_VALUE = "</｜DSML｜parameter>"


@pytest.fixture(scope="module")
def tokenizer():
    return dsvk.Tokenizer(dsvk.locate("nano"))


def arguments(text):
    """What the parser makes of rendered arguments: one object, or the text as a parameter of its own."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return json.dumps(value if isinstance(value, dict) else {"arguments": text}, ensure_ascii=False)


def turns():
    """Every assistant turn of the cases, alone: mode, its text, and the message it stands for."""
    for case in CASES:
        mode = case["params"]["thinking_mode"]
        for message in case["input"]:
            if message["role"] != "assistant":
                continue
            message = {name: value for name, value in message.items() if name not in ("task", "wo_eos")}
            calls = [{"type": "function", "function": {"name": call["function"]["name"],
                                                       "arguments": arguments(call["function"]["arguments"])}}
                     for call in message.get("tool_calls") or []]
            yield mode, chat.encode([message], thinking_mode=mode, add_bos=False), {
                "role": "assistant", "content": message.get("content") or "", "tool_calls": calls,
                "reasoning_content": (message.get("reasoning_content") or "") if mode == "thinking" else ""}, message


def joined(events):
    """Events with neighbours of one kind put together."""
    result = []
    for kind, text, call in events:
        if result and result[-1][0] == kind and result[-1][2] == call and kind in ("reasoning", "content", "arguments"):
            result[-1][1] += text
        else:
            result.append([kind, text, call])
    return result


def read(mode, *pieces):
    parser = chat.Parser(mode)
    return joined([event for piece in pieces for event in parser.feed(piece)] + parser.finish())


# ---------------------------------------------------------------------------------------------------------------
# Prompts
# ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", CASES, ids=range(1, len(CASES) + 1))
def test_published_prompts(case):
    assert chat.encode(case["input"], **case["params"]) == case["output"]


def test_reals_are_written_as_python_writes_them():
    rng = random.Random("reals")
    values = [2.0 ** k for k in range(-1074, 1024)] + [10.0 ** k for k in range(-323, 309)]
    values += [x for x in (struct.unpack("<d", rng.randbytes(8))[0] for _ in range(5000)) if x - x == 0]
    values += [round(rng.uniform(-1e6, 1e6), rng.randrange(6)) for _ in range(1000)] + [0.0, -0.0, 1e15, 1e16, 123456789012345680.0]
    text = chat.encode([], response_format={"v": values})
    assert json.dumps({"v": values}) in text


def test_context_and_messages_make_the_whole():
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "reasoning_content": "c"}, {"role": "user", "content": "d"}]
    whole = chat.encode(messages, drop_thinking=False)
    for n in range(1, len(messages) + 1):
        first = chat.encode(messages[:n], drop_thinking=False)
        assert first + chat.encode(messages[n:], context=iter(messages[:n]), drop_thinking=False) == whole


def test_serving_parameters():
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    user = {"role": "user", "content": "q"}
    in_message = chat.encode([{"role": "system", "content": "", "tools": [tool]}, user])
    assert chat.encode([user], tools=[tool]) == in_message
    assert chat.encode(iter([user]), reasoning_effort="none").endswith("<｜Assistant｜></think>")
    assert chat.encode([user], revision="0731", reasoning_effort="max").startswith(
        "<｜begin▁of▁sentence｜>Reasoning Effort: Beyond maximum")
    assert chat.encode([{"role": "user", "content": "\0"}]) == "<｜begin▁of▁sentence｜><｜User｜>\0<｜Assistant｜><think>"


def test_refusals_name_the_field():
    with pytest.raises(dsvk.InvalidError, match=r'messages\[1\].role: expected one of system, .*, got "bot"'):
        chat.encode([{"role": "user"}, {"role": "bot"}])
    with pytest.raises(dsvk.UnsupportedError, match=r"messages\[0\].content\[0\]"):
        chat.encode([{"role": "user", "content": [{"type": "image_url"}]}])
    with pytest.raises(dsvk.InvalidError, match="reasoning_effort"):
        chat.encode([], reasoning_effort="hard")
    with pytest.raises(dsvk.InvalidError, match="unknown parameter"):
        chat.encode_ids(dsvk.Tokenizer(dsvk.locate("nano")), [], effort="high")
    with pytest.raises(dsvk.FormatError, match="no JSON value at offset"):
        chat.encode([{"role": "user", "content": float("nan")}])
    with pytest.raises(dsvk.InvalidError, match="replay: ids need a tokenizer"):
        chat.encode([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}], replay={"1": [1]})
    for call in (chat.Parser, lambda mode: chat.parse("", mode)):
        with pytest.raises(dsvk.InvalidError, match="thinking_mode: expected thinking or chat, got True"):
            call(True)


def test_T06_str_with_surrogates_raises():
    with pytest.raises(UnicodeEncodeError):
        chat.encode([{"role": "user", "content": "\ud800"}])
    with pytest.raises(UnicodeEncodeError):
        chat.Parser().feed("\ud800")


def test_ids_are_those_of_the_text(tokenizer):
    """Where content spells no special token, encoding apart and joining changes nothing."""
    n = 0
    for case in CASES:
        if "</｜DSML｜parameter>" not in json.dumps(case["input"], ensure_ascii=False):
            assert chat.encode_ids(tokenizer, case["input"], **case["params"]) == tokenizer.encode(case["output"], special=True)
            n += 1
        assert tokenizer.decode(chat.encode_ids(tokenizer, case["input"], **case["params"])) == case["output"]
    assert n > 40


def test_T07_no_special_token_out_of_content(tokenizer):
    think = tokenizer.id("<think>")
    ids = chat.encode_ids(tokenizer, [{"role": "user", "content": "<think><｜User｜>"}])
    assert ids.count(think) == 1 and ids[-1] == think and ids.count(tokenizer.id("<｜User｜>")) == 1
    assert tokenizer.decode(ids).count("<think>") == 2


# ---------------------------------------------------------------------------------------------------------------
# Answers
# ---------------------------------------------------------------------------------------------------------------

def test_turns_come_back():
    n = 0
    for mode, text, message, _ in turns():
        if END_VALUE not in json.dumps(message, ensure_ascii=False):  # text alone cannot say which of two ends it is
            assert chat.parse(text, mode) == message
            n += 1
    assert n > 80


def test_every_cut_gives_the_same():
    n = 0
    for mode, text, message, _ in turns():
        data = text.encode()
        whole = read(mode, data)
        assert read(mode, *(data[i:i + 1] for i in range(len(data)))) == whole
        for at in range(0, len(data) + 1):
            assert read(mode, data[:at], data[at:]) == whole, (at, text)
            n += 1
    print(f"{n} cuts")


def test_turns_come_back_from_tokens(tokenizer):
    """All of them: a value that spells the end of a value is not its end."""
    for mode, _, message, given in turns():
        parser, events = chat.Parser(mode), []
        for id in chat.encode_ids(tokenizer, [given], thinking_mode=mode, add_bos=False):
            events += parser.push(tokenizer, id)
        events = joined(events + parser.finish())
        calls = [text for kind, text, _ in events if kind == "arguments"]
        assert calls == [call["function"]["arguments"] for call in message["tool_calls"]]
        assert "".join(text for kind, text, _ in events if kind == "content") == message["content"]
        assert events[-1][0] == "end" and parser.place == "end"


def test_sampled_turns_are_replayed(tokenizer):
    """Not what the format would write, but what was sampled: the next prompt begins with prompt and answer."""
    tool = {"type": "function", "function": {"name": "f"}}
    question = [{"role": "user", "content": "q"}]
    answer = 'hm</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="false"> 1.0e0 ' \
             '</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>'
    message = chat.parse(answer)
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a":  1.0e0 }'
    message["tool_calls"][0]["id"] = "call_1"
    message["reasoning_content"] = ""                                  # as a client may send it back
    history = question + [message, {"role": "tool", "tool_call_id": "call_1", "content": "r"}]
    assert chat.encode(history, tools=[tool], replay={"call_1": answer}).startswith(
        chat.encode(question, tools=[tool]) + answer + "<｜end▁of▁sentence｜>")
    sampled = [id for piece in answer.partition("1.0e0") for id in tokenizer.encode(piece, special=True)]
    prompt = chat.encode_ids(tokenizer, question, tools=[tool])
    extended = chat.encode_ids(tokenizer, history, tools=[tool], replay={"call_1": sampled})
    assert extended[:len(prompt) + len(sampled)] == prompt + sampled


def test_events():
    parser = chat.Parser("chat")
    assert parser.place == "content"
    assert parser.feed("Yes.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n") == [
        chat.Event("content", "Yes.", None), chat.Event("call", "f", 0)]
    assert parser.feed('<｜DSML｜parameter name="a" string="true">one "wo'.encode()) == [("arguments", '{"a": "one \\"wo', 0)]
    assert parser.place == "call"
    assert parser.feed('rd"</｜DSML｜parameter>\n</｜DSML｜invoke>') == [("arguments", 'rd\\""}', 0), ("call_end", "", 0)]
    assert parser.feed("\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>") == [("end", "", None)]
    assert parser.finish() == [] and parser.finish() == []
    with pytest.raises(dsvk.StateError):
        parser.feed("more")
    cut = chat.parse('A<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">x', "chat")
    assert cut["content"] == "A" and cut["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": '{"a": "x"}'}, "complete": False}]


def test_misuse(tokenizer):
    with pytest.raises(TypeError):
        chat.Parser().push("tokenizer", 1)
    with pytest.raises(dsvk.InvalidError, match="id 1000000 is no token"):
        chat.Parser().push(tokenizer, 1000000)
    unopened = chat.Parser.__new__(chat.Parser)
    with pytest.raises(dsvk.StateError, match="not open"):
        unopened.feed("")
    with pytest.raises(dsvk.StateError, match="already open"):
        chat.Parser().__init__()


def test_nothing_is_leaked(tokenizer):
    """Parsers go without the cycle collector, and no call keeps an object."""
    class Held(chat.Parser):
        pass

    parser, types = Held(), sys.getrefcount(Held)
    reference = weakref.ref(parser)
    parser.feed("T</think>A" + '<｜DSML｜invoke name="f">')
    before = sys.getrefcount(tokenizer)
    for _ in range(100):
        parser.push(tokenizer, 1)
    assert sys.getrefcount(tokenizer) == before
    gc.disable()
    try:
        del parser
        assert reference() is None and sys.getrefcount(Held) == types - 1
    finally:
        gc.enable()
