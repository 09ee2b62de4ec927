"""What Python adds to the library's checks: what ends a generation, numbers of tokens, seeds, progress; which exceptions wrong
arguments raise, and that these name them; and text with a NUL, which C would cut there."""
import array
import inspect
import io

import pytest

import dsvk
from dsvk import progress
from dsvk.generation import GenerateOptions, stops_of
from dsvk.session import Options

np = pytest.importorskip("numpy", reason="integers that are no int")


@pytest.mark.parametrize("stop, ids, texts", [
    (5, [5], []), (np.uint16(5), [5], []), (np.array(5), [5], []), (np.array([5, 6]), [5, 6], []), ([np.int64(5)], [5], []),
    ("ab", [], ["ab"]), (["ab", 5], [5], ["ab"]), ((item for item in (5, "ab", "c", 6)), [5, 6], ["ab", "c"]), ((), [], []),
])
def test_stops_of_every_kind(stop, ids, texts):
    assert stops_of(stop, 7) == (ids, texts)


def test_a_stop_id_of_numpys_stops(nano):
    generation = nano.generate("ROMEO:", max_tokens=8, seed=5, stream=True)
    list(generation)
    stop = np.int64(generation.tokens[4])
    text = nano.tokenizer.decode(generation.tokens[:generation.tokens.index(stop)])
    assert nano.generate("ROMEO:", max_tokens=8, seed=5, stop=[stop]) == text
    with dsvk.Scheduler(nano, context=64, cache=False) as scheduler:
        assert list(scheduler.submit("ROMEO:", max_tokens=8, seed=5, stop=np.array([stop])))[-1].stop_id == stop


@pytest.mark.parametrize("stop, error, message", [
    ([3.5], TypeError, "stop: expected texts or token ids, got 3.5"),
    ([1, None], TypeError, "stop: expected texts or token ids, got None"),
    (None, TypeError, "stop: expected texts or token ids, got None"),
    (b"a", TypeError, "stop: expected texts or token ids, got b'a'"),
    (bytearray(b"a"), TypeError, "stop: expected texts or token ids, got bytearray"),
    (["a", b"b"], TypeError, "stop: expected texts or token ids, got b'b'"),
    ([["a"]], TypeError, r"stop: expected texts or token ids, got \['a'\]"),
    (-3, dsvk.InvalidError, "stop: id -3 is outside the vocabulary, 0 .. 2047"),
    (["a", np.int64(2048)], dsvk.InvalidError, "stop: id 2048 is outside the vocabulary, 0 .. 2047"),
])
def test_what_stops_nothing_is_an_error(nano, stop, error, message):
    with pytest.raises(error, match=message):
        nano.generate("A", max_tokens=1, stop=stop)
    with dsvk.Scheduler(nano, context=64, cache=False) as scheduler, pytest.raises(error, match=message):
        scheduler.submit("A", max_tokens=1, stop=stop)


def test_type_checkers_know_every_option():
    def keywords(function):
        return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert GenerateOptions.__annotations__.keys() == keywords(dsvk.Model.generate) | keywords(Options)


def test_seeds(nano, session):
    def sampled(seed):
        session.sync([10, 20, 30])
        return session.decode(4, temperature=3.0, seed=seed)
    assert sampled(np.int64(3)) == sampled(3) == sampled([3]) == sampled(np.array([3])) != sampled(4)
    assert nano.generate("A", max_tokens=4, seed=np.uint8(3)) == nano.generate("A", max_tokens=4, seed=3)
    for seed, message in ((1.5, "seed: expected an integer, or one per session, got 1.5"), (None, ".*got None"),
                          (["x"], "seed: expected an integer, got 'x'")):
        with pytest.raises(TypeError, match=message):
            session.decode(1, seed=seed)


@pytest.mark.parametrize("n, error, message", [
    (1.5, TypeError, "expected an integer, got 1.5"),
    ("3", TypeError, "expected an integer, got '3'"),
    (None, TypeError, "expected an integer, got None"),
    (-1, dsvk.InvalidError, "expected 0 or more tokens, got -1"),
])
def test_numbers_of_tokens(nano, session, n, error, message):
    session.sync([1, 2])
    for name, use in (("n", session.decode), ("n", lambda n: next(session.stream(n))), ("n", lambda n: nano.decode([session], n)),
                      ("max_tokens", lambda n: nano.generate("A", max_tokens=n))):
        with pytest.raises(error, match=f"{name}: {message}"):
            use(n)
    assert session.position == 2
    assert session.decode(0) == [] and len(session.decode(np.int64(2))) == len(nano.decode([session], np.uint8(2))[0]) == 2
    assert nano.generate("A", max_tokens=0) == "" and nano.generate("A", max_tokens=np.int32(1), stop=nano.vocab_size - 1) is not None


@pytest.mark.parametrize("wrong", [True, False, 3, "x"])
def test_progress_of_a_session_is_called(nano, wrong):
    with pytest.raises(TypeError, match=rf"progress: expected a callable \(stage, done, total\) or None, got {wrong!r}"):
        nano.session(progress=wrong)


class Shown(io.StringIO):
    def isatty(self):
        return True


def test_progress_says_of_what(nano, monkeypatch):
    """Bytes while loading, tokens while tracing; with tqdm and without it."""
    def written(use):
        monkeypatch.setattr("sys.stderr", Shown())
        use()
        return progress.sys.stderr.getvalue()
    uses = {"tokens": lambda: nano.trace([1, 2, 3, 4], progress=True), "verify": lambda: dsvk.verify("nano", progress=True)}
    monkeypatch.setitem(progress.sys.modules, "tqdm.auto", None)
    assert "\rtokens 100 % of 4 tokens" in written(uses["tokens"]) and "MiB" in written(uses["verify"])
    monkeypatch.undo()
    pytest.importorskip("tqdm")
    text = written(uses["tokens"])
    assert "/4 [" in text and "tokens/s" in text and "B/s" not in text
    assert "B/s" in written(uses["verify"])


class Thing:
    """A constraint as far as its attributes go."""

    def __init__(self, **attributes):
        self.__dict__.update({"after": 0, "mask": lambda choice, ids: None, **attributes})


HUGE = "1" + "0" * 400
VALUES = {
    "seed: expected 0 .. 18446744073709551615, got -1": lambda m, s: s.decode(1, seed=-1),
    "top_k: expected 0 .. 4294967295, got -1": lambda m, s: m.decode([s], 1, top_k=-1),
    "temperature: expected a number that a double holds exactly, got " + HUGE: lambda m, s: s.decode(1, temperature=int(HUGE)),
    "context: expected 0 .. 18446744073709551615, got -1": lambda m, s: m.session(context=-1),
    "context: expected 0 .. 18446744073709551615, got -2": lambda m, s: dsvk.plan("nano", context=-2),
    "chunk: expected 0 .. 18446744073709551615, got -1": lambda m, s: s.evaluate([1], chunk=-1),
    "microseconds: expected 0 .. 18446744073709551615, got -1": lambda m, s: s.poll(-1),
    "cache: expected 'native' or 'f32', got 'zz'": lambda m, s: dsvk.Model("nano", m.device, cache="zz"),
    "threads: expected 0 .. 4294967295, got -1": lambda m, s: dsvk.verify("nano", threads=-1),
    "max_running: expected 0 .. 4294967295, got -1": lambda m, s: dsvk.Scheduler(m, max_running=-1),
    "budgets: expected weights, cache, scratch, staging or readback, got 'foo'": lambda m, s: dsvk.Device(budgets={"foo": 1}),
    "weights: expected 0 .. 18446744073709551615, got -1": lambda m, s: dsvk.Device(budgets={"weights": -1}),
    "tokens[1]: 2147483648 is no token id (32 bits)": lambda m, s: s.sync([1, 2**31]),
    "tokens[1]: 1180591620717411303424 is no token id (32 bits)": lambda m, s: s.sync([1, 2**70]),
    "tokens[0]: -2147483649 is no token id (32 bits)": lambda m, s: s.evaluate(array.array("q", [-2**31 - 1])),
    "tokens: expected 1 dimension, got 2": lambda m, s: s.sync(np.zeros((2, 2), np.int32)),
    "out: expected shape [2048], got [5]": lambda m, s: s.logits(out=np.zeros(5, np.float32)),
    "id: expected -2147483648 .. 2147483647, got 1180591620717411303424": lambda m, s: m.tokenizer.decoder().push(2**70),
    "id: expected -2147483648 .. 2147483647, got 2147483648": lambda m, s: dsvk.chat.Parser().push(m.tokenizer, 2**31),
    "logit_bias: expected an id and a number, got -1: 1": lambda m, s: s.decode(1, logit_bias={-1: 1}),
    "constraint.after: expected 0 .. 2047, got -1": lambda m, s: s.decode(1, constraint=Thing(after=-1)),
    "constraint.after: expected 0 .. 2047, got 2048": lambda m, s: s.begin([1], 1, constraint=Thing(after=2048)),
    "constraint.after: expected 0 .. 2047, got 1099511627776": lambda m, s: submit(m, constraint=Thing(after=2**40)),
    "mask() returned 3 bytes, a bit for each token is 256": lambda m, s: s.decode(1, constraint=Thing(mask=lambda *_: b"abc")),
    "priority: expected -2147483648 .. 2147483647, got 1099511627776": lambda m, s: submit(m, priority=2**40),
    "stop_after: expected -2147483648 .. 2147483647, got -1099511627776": lambda m, s: submit(m, stop_after=-2**40),
    "max_tokens: expected 0 .. 18446744073709551615, got -1": lambda m, s: submit(m, max_tokens=-1),
    "logprobs: expected 0 or more tokens, got -1": lambda m, s: submit(m, logprobs=-1),
    "backlog: expected 0 or more events, got -1": lambda m, s: submit(m, backlog=-1),
}
TYPES = {
    "constraint: expected an object with after and mask, got 5": lambda m, s: s.decode(1, constraint=5),
    "constraint: expected an object with after and mask, got 0": lambda m, s: m.decode([s], 1, constraint=0),
    "constraint: expected an object with after and mask, got 6": lambda m, s: m.generate("A", constraint=6, stream=True),
    "constraint: expected an object with after and mask, got 7": lambda m, s: s.begin([1], 1, constraint=7),
    "constraint: expected an object with after and mask, got 8": lambda m, s: submit(m, constraint=8),
    "constraint.after: expected an integer, got 'x'": lambda m, s: s.decode(1, constraint=Thing(after="x")),
    "decoding has no option foo": lambda m, s: s.decode(1, foo=1),
    "decoding has no option bar": lambda m, s: m.generate("A", bar=1, stream=True),
    "decoding has no option foo, bar": lambda m, s: m.decode([s], 1, foo=1, bar=2),
    "stop: expected token ids, got 5": lambda m, s: s.decode(1, stop=5),
    "stop[0]: expected an integer, got 'a'": lambda m, s: s.decode(1, stop="ab"),
    "temperature: expected a number, got 'x'": lambda m, s: s.decode(1, temperature="x"),
    "top_p: expected a number, got None": lambda m, s: s.begin([1], 1, top_p=None),
    "min_p: expected a number, got 'x'": lambda m, s: submit(m, min_p="x"),
    "frequency_penalty: expected a number, got [1]": lambda m, s: m.decode([s], 1, frequency_penalty=[1]),
    "top_k: expected an integer, got 1.5": lambda m, s: m.generate("A", top_k=1.5),
    "prompt: expected text or token ids, got None": lambda m, s: m.generate(None),
    "prompt: expected text or token ids, got 5": lambda m, s: m.trace(5),
    "messages: expected a list of messages, got None": lambda m, s: dsvk.chat.encode(None),
    "context: expected a list of messages, got 5": lambda m, s: dsvk.chat.encode([], context=5),
    "messages: expected a list of messages, got 5": lambda m, s: dsvk.chat.encode_ids(m.tokenizer, 5),
    "sessions: expected sessions of this model, got None": lambda m, s: m.decode(None, 1),
    "sessions[1]: expected a dsvk.Session, got 5": lambda m, s: m.decode([s, 5], 1),
    "path: expected a folder or the name of a model, got 5": lambda m, s: dsvk.Model(5, m.device),
    "matmul: expected str, got 5": lambda m, s: dsvk.Device(matmul=5),
    "owner: expected str, got 5": lambda m, s: submit(m, owner=5),
    "logit_bias: expected a dict of ids and numbers, got <class 'int'>": lambda m, s: submit(m, logit_bias=5),
    "priority: expected an integer, got 'x'": lambda m, s: submit(m, priority="x"),
    "logprobs: expected an integer, got 'x'": lambda m, s: submit(m, logprobs="x"),
    "backlog: expected an integer, got 'x'": lambda m, s: submit(m, backlog="x"),
    "id: expected an integer, got 'x'": lambda m, s: m.tokenizer.decoder().push("x"),
    "name: expected the name of a repository, as in org/name, got 5": lambda m, s: dsvk.hub.pull(5),
}


def submit(nano, **options):
    with dsvk.Scheduler(nano, context=64, cache=False) as scheduler:
        scheduler.submit("A", **options)


@pytest.mark.parametrize("message", VALUES)
def test_A01_a_wrong_value_is_an_error_of_ours(nano, session, message):
    session.sync([1])
    with pytest.raises(dsvk.InvalidError) as caught:
        VALUES[message](nano, session)
    assert str(caught.value) == message and caught.value.status == "INVALID" and session.position == 1


@pytest.mark.parametrize("message", TYPES)
def test_A07_a_wrong_type_names_the_argument(nano, session, message):
    session.sync([1])
    with pytest.raises(TypeError) as caught:
        TYPES[message](nano, session)
    assert str(caught.value) == message and session.position == 1


def test_numbers_of_every_kind(session):
    def sampled(temperature):
        session.sync([10, 20, 30])
        return session.decode(4, temperature=temperature, seed=3)
    assert sampled(3) == sampled(3.0) == sampled(np.float32(3)) == sampled(np.int64(3)) == sampled(np.array(3.0))


NUL = "cut\0here"


@pytest.mark.parametrize("use", [
    lambda nano: dsvk.Device("0\0"), lambda nano: dsvk.Device(cache_dir=NUL), lambda nano: dsvk.Device(matmul=NUL),
    lambda nano: dsvk.Model(NUL, device=nano.device), lambda nano: dsvk.plan(NUL), lambda nano: dsvk.verify(NUL),
    lambda nano: dsvk.Tokenizer(NUL), lambda nano: dsvk._dsvk.op(nano.device, "matmul\0", {}),
    lambda nano: dsvk._dsvk.op(nano.device, "rope_table", {"dim\0": 64}),
    lambda nano: dsvk.Scheduler(nano, cache=False).submit([1], owner=NUL),
])
def test_text_with_a_NUL_is_not_cut(nano, use):
    with pytest.raises(ValueError, match="embedded null"):
        use(nano)
