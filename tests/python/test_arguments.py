"""What Python adds to the library's checks: what ends a generation, numbers of tokens, seeds, progress; and text with a NUL, which C
would cut there."""
import io

import pytest

import dsvk
from dsvk import progress
from dsvk.generation import stops_of

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
