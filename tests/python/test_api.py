"""The Python module: what its objects do, and what misuse leads to. Ids such as A07 are rows of the fault table: what bad
input and misuse must lead to.

Every test runs on the model that comes with the package, so that a software driver compiles one set of shaders.
"""
import array
import ast
import asyncio
import gc
import os
import random
import shutil
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

import dsvk

np = pytest.importorskip("numpy", reason="compares arrays")

PROMPT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak,"


def random_tokens(nano, n, seed):
    rng = random.Random(f"test_api {seed}")
    return [rng.randrange(nano.vocab_size) for _ in range(n)]


# ---- module, device, model ----

def test_version_comes_from_the_header():
    assert dsvk.__version__.count(".") == 2


@pytest.mark.parametrize("environment", [{"VK_DRIVER_FILES": "/nonexistent.json", "VK_ICD_FILENAMES": "/nonexistent.json"}])
def test_D01_import_and_survey_without_a_driver(python, environment):
    result = python("import dsvk\nprint(dsvk.devices())\ntry:\n    dsvk.Device()\n"
                    "except dsvk.NoDeviceError as e:\n    print(e.status, e)", **environment)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "[]" and lines[1].startswith("NODEVICE ")


def test_devices_and_info(device):
    found = dsvk.devices()
    assert [d["index"] for d in found] == list(range(len(found)))
    assert sum(d["chosen"] for d in found) == 1
    assert device.info["name"] in [d["name"] for d in found]
    memory = device.memory()
    for purpose in ("weights", "cache", "scratch", "staging", "readback"):
        assert {"used", "peak", "budget", "blocks"} <= memory[purpose].keys()


def test_D03_unknown_device_names_those_there_are(device):
    with pytest.raises(dsvk.InvalidError, match="no such device|" + device.info["name"].split()[0]):
        dsvk.Device("no such device")


def test_budgets_are_kept(device):
    with pytest.raises(dsvk.DeviceMemoryError, match="weights"):
        dsvk.Model("nano", budgets={"weights": 1 << 20})
    with pytest.raises(ValueError, match="expected weights, cache, .* got 'wieghts'"):
        dsvk.Device(budgets={"wieghts": 1})
    with pytest.raises(ValueError, match="budgets belong to the device"):
        dsvk.Model("nano", device=device, budgets={"weights": 1})


def test_model_describes_itself(nano):
    config = nano.config
    assert config["vocab_size"] == nano.vocab_size == nano.tokenizer.vocab_size
    assert nano.has_mtp and nano.report["mtp"]
    assert nano.report["bytes"] > 1e6
    for thing in (nano, nano.device):
        assert "dsvk." in repr(thing) and thing._repr_html_().startswith("<table")


def test_progress_while_loading(device):
    seen = []
    with dsvk.Model("nano", device=device, progress=lambda stage, done, total: seen.append((done, total))):
        pass
    assert seen and seen[-1][0] == seen[-1][1] and all(a[0] <= b[0] for a, b in zip(seen, seen[1:]))


def test_plan_needs_only_the_configuration(tmp_path):
    shutil.copy(dsvk.locate("nano") / "config.json", tmp_path)
    report = dsvk.plan(tmp_path, context=1000)
    assert report["context_tokens"] == 1000 and report["purposes"]["weights"] > 1e6
    assert report == dsvk.plan(tmp_path / "config.json", context=1000)


def test_verify_reads_all_and_names_what_is_wrong(tmp_path):
    seen = []
    assert dsvk.verify("nano", progress=lambda *now: seen.append(now))["tensors"] > 100
    assert seen
    for name in ("config.json", "model.safetensors"):
        shutil.copy(dsvk.locate("nano") / name, tmp_path)
    os.truncate(tmp_path / "model.safetensors", 100_000)
    with pytest.raises(dsvk.FormatError, match="model.safetensors"):
        dsvk.verify(tmp_path)


def test_failures_are_the_builtin_one_would_expect(tmp_path):
    with pytest.raises(OSError) as caught:
        dsvk.Model(tmp_path / "not there")
    assert isinstance(caught.value, dsvk.FileError) and caught.value.status == "IO"
    assert "not there" in str(caught.value)
    assert issubclass(dsvk.FormatError, ValueError) and issubclass(dsvk.DeviceMemoryError, MemoryError)
    classes = [c for c in vars(dsvk).values() if isinstance(c, type) and issubclass(c, dsvk.Error) and c is not dsvk.Error]
    assert len({c.status for c in classes}) == len(classes) == 13


def test_profile(nano):
    with nano.session() as session, nano.device.profile() as report:
        session.sync([1, 2, 3])
    assert 0 < report["dispatches"] <= sum(op["calls"] for op in report["ops"])   # copies are timed too
    assert "matmul" in str(report) and "<table" in report._repr_html_()


def test_a_profile_inside_another_loses_nothing(nano):
    with nano.session() as session, nano.device.profile() as report:
        session.sync([1, 2, 3])
        with pytest.raises(dsvk.StateError, match="running already"), nano.device.profile():
            raise AssertionError("begun twice")
        session.decode(1)
    assert report["submits"] > 1
    with pytest.raises(dsvk.StateError, match="no profile"):
        nano.device.profile_end()


# ---- session ----

def test_evaluate_sync_and_logits_agree(nano):
    tokens = random_tokens(nano, 40, 1)
    with nano.session() as a, nano.session(context=64) as b:
        rows = np.asarray(a.evaluate(tokens, chunk=7))
        b.sync(np.array(tokens[:20], np.int64))
        b.sync(array.array("i", tokens))
        assert rows.shape == (40, nano.vocab_size) and rows.dtype == np.float32 and np.isfinite(rows).all()
        assert a.position == b.position == 40 and a.tokens == b.tokens == tokens
        last = np.asarray(b.logits())
        # Another chunking adds in another order: float32 sums of some hundred terms.
        np.testing.assert_allclose(last, rows[-1], rtol=0, atol=1e-3 * np.abs(rows).max())
        b.sync(tokens[:30])
        assert b.position == 30 and b.context == 64
        assert np.asarray(b.logits()).argmax() == rows[29].argmax()


def test_mtp_logits(nano):
    tokens = random_tokens(nano, 6, 2)
    with nano.session(mtp=True) as session:
        rows, mtp_rows = map(np.asarray, session.evaluate(tokens, mtp=True))
        assert rows.shape == mtp_rows.shape and np.isnan(mtp_rows[0]).all() and np.isfinite(mtp_rows[1:]).all()
        np.testing.assert_array_equal(np.asarray(session.mtp_logits()), mtp_rows[-1])
    with nano.session() as session:
        session.sync(tokens)
        with pytest.raises(ValueError, match="mtp"):
            session.mtp_logits()


def test_array_is_the_memory_itself(session):
    rows = session.evaluate([1, 2, 3])
    view = memoryview(rows)
    assert view.format == "f" and view.shape == rows.shape == (3, 2048) and view.c_contiguous
    row = rows[-1]
    np.asarray(rows)[2, 5] = 123.0
    assert row[5] == 123.0 and row.tolist()[5] == 123.0 and len(rows.tolist()) == len(rows) == 3
    del rows, view
    gc.collect()
    assert row[5] == 123.0                       # a row keeps the memory it is part of
    with pytest.raises(IndexError, match="2048 of 2048"):
        row[2048]
    with pytest.raises(TypeError):
        dsvk.Array()


def test_logits_into_the_callers_array(session, nano):
    session.sync([5, 6])
    out = np.full(nano.vocab_size, np.nan, np.float32)
    assert session.logits(out=out) is out
    np.testing.assert_array_equal(out, np.asarray(session.logits()))


def test_decode_is_reproducible_and_can_be_cut(nano):
    tokens = nano.tokenizer.encode(PROMPT)
    runs = []
    for cuts in ([24], [1, 5, 18], [24]):
        with nano.session() as session:
            session.sync(tokens)
            runs.append([id for n in cuts for id in session.decode(n, temperature=1.0, seed=7)])
            assert session.tokens == tokens + runs[-1]
    assert runs[0] == runs[1] == runs[2]
    with nano.session() as session:
        session.sync(tokens)
        assert session.decode(24, temperature=1.0, seed=8) != runs[0]


def test_poll_decodes_in_slices(nano):
    tokens, options = nano.tokenizer.encode(PROMPT), {"temperature": 1.0, "seed": 7}
    with nano.session() as session:
        session.evaluate(tokens, chunk=1)
        want = session.decode(6, **options)
        session.sync([5])
        session.begin(tokens, 6, **options)
        ids, polls, finished = [], 0, False
        while not finished:
            before = session.position
            new, finished = session.poll(0)
            ids += new
            polls += 1
            assert polls == 1 or session.position <= before + 1
        assert ids == want and session.tokens == tokens + want and polls > len(tokens) + 6
        assert session.poll(1000) == ([], True)
        session.begin(tokens, 6, stop=[want[2]], **options)
        while not session.poll(100000)[1]:
            pass
        assert session.tokens == tokens + want[:want.index(want[2]) + 1]
    with nano.session(context=50) as session:
        with pytest.raises(dsvk.StateError, match="goal"):
            session.poll(0)
        with pytest.raises(dsvk.LimitError, match="51"):
            session.begin([5], 50)
        with pytest.raises(dsvk.InvalidError, match="9999"):
            session.begin([9999], 5)
        with pytest.raises(TypeError):
            session.begin("text", 5)
        with pytest.raises(ValueError, match="microseconds"):
            session.poll(-1)


def test_greedy_decode_is_the_argmax(session):
    session.sync([10, 20, 30])
    expected = int(np.asarray(session.logits()).argmax())
    assert session.decode(1) == [expected]


def test_stop_ids_end_decoding(session):
    session.sync([10, 20, 30])
    free = session.decode(12, temperature=1.0, seed=3)
    stop = free[7]
    session.sync([10, 20, 30])
    assert session.decode(12, temperature=1.0, seed=3, stop=[stop]) == free[:free.index(stop) + 1]


def test_batch_decodes_as_alone(nano):
    prompts = [nano.tokenizer.encode(text) for text in ("ROMEO:\n", "What is", "O ")]
    alone = []
    for i, prompt in enumerate(prompts):
        with nano.session() as session:
            session.sync(prompt)
            alone.append(session.decode(10, temperature=1.0, seed=i))
    sessions = [nano.session() for _ in prompts]
    for session, prompt in zip(sessions, prompts):
        session.sync(prompt)
    stop = alone[1][4]
    together = nano.decode(sessions, 10, temperature=1.0, seed=range(3), stop=[stop])
    assert together == [row[:row.index(stop) + 1] if stop in row else row for row in alone]
    with pytest.raises(ValueError, match="one per session, 3, got 1"):
        nano.decode(sessions, 1, seed=[1])


def test_T11_more_tokens_than_the_context(nano):
    with nano.session(context=128) as session:
        with pytest.raises(dsvk.LimitError, match="129.*128"):
            session.sync([1] * 129)
        session.sync([1] * 120)
        with pytest.raises(dsvk.LimitError, match="129.*128"):
            session.evaluate([1] * 9)
        with pytest.raises(dsvk.LimitError, match="129.*128"):
            session.decode(9)
        assert session.position == 120
        assert len(session.decode(8)) == 8
    most = nano.config["max_positions"]
    with pytest.raises(dsvk.LimitError, match=f"{most + 1} .*{most}"):
        nano.generate([1] * (most + 1))


def test_token_out_of_the_vocabulary(session, nano):
    for bad in (-1, nano.vocab_size):
        with pytest.raises(dsvk.InvalidError, match=rf"{bad}\b.*{nano.vocab_size - 1}"):
            session.sync([1, bad])
    assert session.position == 0


# ---- A02, A03: closed handles ----

def test_A02_use_after_close(device):
    model = dsvk.Model("nano", device=device)
    session, tokenizer = model.session(), model.tokenizer
    decoder = tokenizer.decoder()
    assert not tokenizer.closed and not decoder.closed and "closed" not in repr(tokenizer) + repr(decoder)
    session.close()
    session.close()
    for use in (lambda: session.position, lambda: session.sync([1]), session.logits, lambda: session.decode(1),
                session.cancel, lambda: session.memory, lambda: model.decode([session], 1)):
        with pytest.raises(dsvk.StateError, match="closed"):
            use()
    model.close()
    model.close()
    for use in (lambda: model.config, lambda: model.vocab_size, model.session, lambda: model.tokenizer,
                lambda: tokenizer.encode("a"), lambda: decoder.push(5), decoder.finish):
        with pytest.raises(dsvk.StateError, match="closed"):
            use()
    assert "closed" in repr(session) and "closed" in repr(model) and "closed" in repr(tokenizer) and "closed" in repr(decoder)
    assert tokenizer.closed and decoder.closed
    with pytest.raises(dsvk.StateError, match="the model was already opened"):
        model.__init__("nano", device=device)
    unopened = dsvk._dsvk.Session.__new__(dsvk._dsvk.Session)
    with pytest.raises(dsvk.StateError, match="closed"):
        unopened.position


def test_A02_another_models_session(device, nano):
    with dsvk.Model("nano", device=device) as stranger, stranger.session(context=64) as other, nano.session(context=64) as own:
        other.sync([5])
        own.sync([5])
        for sessions, i in ([other], 0), ([own, other], 1):
            with pytest.raises(dsvk.InvalidError, match=rf"sessions\[{i}\] belongs to another model"):
                nano.decode(sessions, 1)
        assert own.position == other.position == 1


def test_A03_sessions_keep_their_model():
    model = dsvk.Model("nano")
    session = model.session()
    session.sync([1, 2, 3])
    expected = session.decode(3)
    session.sync([1, 2, 3])
    model.close()
    assert session.decode(3) == expected
    session.close()


def test_nothing_is_leaked(device):
    """Objects go without the cycle collector, and the device memory with them."""
    before = {name: entry["used"] for name, entry in device.memory().items() if "used" in entry}
    model = dsvk.Model("nano", device=device)
    session = model.session()
    session.sync([1, 2])
    tokenizer = model.tokenizer
    references = [weakref.ref(model), weakref.ref(session)]
    gc.disable()
    try:
        del model, session, tokenizer
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()
    assert {name: entry["used"] for name, entry in device.memory().items() if "used" in entry} == before


# ---- A04, A05, A09: calls at once, closing during one, exceptions in callbacks ----

class Held:
    """A session whose evaluate stops in its progress callback until released: after its first token, between two steps, where
    it keeps nobody from the model."""

    def __init__(self, model):
        self.inside, self.go_on, self.error = threading.Event(), threading.Event(), None
        self.session = model.session(progress=self.progress)
        self.thread = threading.Thread(target=self.run)

    def progress(self, stage, done, total):
        if done > 0:
            self.inside.set()
            assert self.go_on.wait(30)

    def run(self):
        try:
            self.session.evaluate([1, 2, 3], chunk=1)
        except Exception as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        assert self.inside.wait(30)
        return self

    def __exit__(self, *exception):
        self.go_on.set()
        self.thread.join(30)
        self.session.close()


def test_A04_second_call_is_turned_away(nano):
    with Held(nano) as held:
        for use in (lambda: held.session.sync([1]), held.session.logits, lambda: held.session.decode(1),
                    lambda: held.session.tokens):
            with pytest.raises(dsvk.BusyError, match="another call is running"):
                use()
        with nano.session() as other:            # other sessions run freely
            other.sync([4, 5])
        held.go_on.set()
        held.thread.join(30)
        assert held.error is None and held.session.position == 3


def test_A04_call_from_inside_its_own_callback(nano):
    errors = []

    def progress(stage, done, total):
        for use in (lambda: session.sync([1]), session.close):
            try:
                use()
            except dsvk.BusyError as error:
                errors.append(error)
    session = nano.session(progress=progress)
    session.sync([1, 2])
    assert len(errors) >= 2
    assert str(errors[1]) == "the session is in use, and a callback cannot wait until it is not: close it after the call"
    session.close()


def test_A05_close_stops_a_running_call(nano):
    """The callback lets go only when the close is waiting; the call then ends with CANCELLED."""
    with Held(nano) as held:
        threading.Timer(0.2, held.go_on.set).start()
        held.session.close()
        held.thread.join(30)
        assert held.session.closed
        assert isinstance(held.error, dsvk.CancelledError) and held.error.status == "CANCELLED"


def test_A09_exception_in_a_callback(nano, device):
    def fail(stage, done, total):
        raise KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        dsvk.Model("nano", device=device, progress=fail)
    with pytest.raises(KeyError, match="mine"):
        dsvk.verify("nano", progress=fail)
    failing = [True]
    with nano.session(progress=lambda *now: fail(*now) if failing[0] else None) as session:
        for use in (lambda: session.sync([1, 2, 3]), lambda: session.evaluate([4, 5])):
            with pytest.raises(KeyError, match="mine"):
                use()
        failing[0] = False
        session.sync([1, 2, 3])
        assert len(session.decode(4)) == 4
        assert session.position == 7


def test_cancel_from_another_thread(nano):
    session = nano.session(progress=lambda *now: session.cancel())
    with pytest.raises(dsvk.CancelledError):
        for _ in range(2):                       # asked for during the first, seen at the latest in the second
            session.evaluate([1, 2, 3, 4], chunk=1)
    session.sync([1, 2])
    session.close()


# ---- A07: wrong arrays ----

WRONG_TOKENS = {
    "float": (lambda: np.zeros(3, np.float32), TypeError, "expected int32 or int64, got items of 4 bytes with format 'f'"),
    "int16": (lambda: np.zeros(3, np.int16), TypeError, "expected int32 or int64, got items of 2 bytes with format 'h'"),
    "unsigned": (lambda: np.zeros(3, np.uint32), TypeError, "expected int32 or int64, got .* format 'I'"),
    "big endian": (lambda: np.zeros(3, ">i4"), TypeError, "expected int32 or int64, got .* format '>i'"),
    "bytes": (lambda: b"abc", TypeError, "expected int32 or int64, got items of 1 bytes with format 'B'"),
    "two dimensions": (lambda: np.zeros((2, 2), np.int32), ValueError, "expected 1 dimension, got 2"),
    "scalar": (lambda: np.array(3, np.int32), ValueError, "expected 1 dimension, got 0"),
    "strided": (lambda: np.zeros(8, np.int32)[::2], ValueError, "expected contiguous items, 4 bytes apart, got 8"),
    "reversed": (lambda: np.zeros(8, np.int64)[::-1], ValueError, "expected contiguous items, 8 bytes apart, got -8"),
    "too large": (lambda: np.array([1, 2**31]), ValueError, r"tokens\[1\]: 2147483648 is no token id"),
    "too large in a list": (lambda: [1, -2**70], ValueError, r"tokens\[1\]: .* is no token id"),
    "text": (lambda: "abc", TypeError, "expected token ids, got str"),
    "text in a list": (lambda: [1, "b"], TypeError, r"tokens\[1\]: expected an integer, got 'b'"),
    "float in a list": (lambda: [1.0], TypeError, r"tokens\[0\]: expected an integer, got 1.0"),
    "a number": (lambda: 5, TypeError, "expected a sequence of ids or a buffer of int32 or int64, got <class 'int'>"),
}


@pytest.mark.parametrize("case", WRONG_TOKENS)
def test_A07_wrong_tokens(session, case):
    make, error, message = WRONG_TOKENS[case]
    with pytest.raises(error, match=message):
        session.sync(make())
    assert session.position == 0


def read_only():
    out = np.zeros(2048, np.float32)
    out.flags.writeable = False
    return out


WRONG_OUTPUTS = {
    "float64": (lambda: np.zeros(2048), TypeError, "expected float32, got items of 8 bytes with format 'd'"),
    "list": (lambda: [0.0] * 2048, TypeError, "expected a float32 array, got <class 'list'>"),
    "short": (lambda: np.zeros(2047, np.float32), ValueError, r"expected shape \[2048\], got \[2047\]"),
    "two dimensions": (lambda: np.zeros((1, 2048), np.float32), ValueError, r"expected shape \[2048\], got \[1, 2048\]"),
    "strided": (lambda: np.zeros(4096, np.float32)[::2], BufferError, "expected contiguous rows"),
    "read-only": (read_only, BufferError, "expected a writable array, got a read-only one"),
}


@pytest.mark.parametrize("case", WRONG_OUTPUTS)
def test_A07_wrong_output(session, case):
    make, error, message = WRONG_OUTPUTS[case]
    session.sync([1])
    with pytest.raises(error, match=message):
        session.logits(out=make())


def test_A07_objects_resized_during_a_call(nano):
    """Tokens are copied before the lock is released: what their owner does meanwhile changes nothing."""
    for tokens in ([1, 2, 3, 4], array.array("i", [1, 2, 3, 4])):
        with nano.session(progress=lambda *now: tokens.extend([9] * 1000)) as session:
            session.sync(tokens)
            assert session.tokens == [1, 2, 3, 4] and len(tokens) > 1000


@pytest.mark.parametrize("use, message", [
    (lambda s: s.decode(4, seed=-1), "seed: expected 0 .. 18446744073709551615, got -1"),
    (lambda s: s.decode(4, top_k=-1), "top_k: expected 0 .. 4294967295, got -1"),
    (lambda s: s.decode(4, temperature=-1.0), "temperature is -1"),
    (lambda s: s.decode(4, temperature=float("nan")), "temperature is nan"),
    (lambda s: s.decode(4, top_p=1.5), "top_p is 1.5"),
    (lambda s: s.decode(4, min_p=-0.5), "min_p is -0.5"),
    (lambda s: s.evaluate([1], chunk=-1), "chunk: expected 0 .. 18446744073709551615, got -1"),
    (lambda s: s.evaluate([1], chunk=1 << 20), "chunk of 1048576"),
    (lambda s: s.model.session(context=1 << 40), "1099511627776"),
    (lambda s: dsvk.Model("nano", cache="f16"), "cache: expected 'native' or 'f32', got 'f16'"),
    (lambda s: dsvk.Model("nano", max_chunk=1 << 32), "max_chunk: expected 0 .. 4294967295, got 4294967296"),
    (lambda s: dsvk.Model("nano", page_tokens=100), "page_tokens"),
])
def test_A01_arguments_out_of_range(session, use, message):
    session.sync([1])
    with pytest.raises(ValueError, match=message):
        use(session)
    assert session.position == 1


# ---- A08: Ctrl-C ----

INTERRUPTED = """
import os, signal, threading, time
import dsvk
model = dsvk.Model("nano", max_chunk=128)
session = model.session()
session.sync(list(range(300))); session.sync([1, 2, 3]); session.decode(2)   # first uses compile on a software driver
sent = []
def send():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
timer = threading.Timer(0.5, send)
timer.start()
try:
    {call}
    print("nothing happened")
except KeyboardInterrupt:
    print("stopped after", time.monotonic() - sent[0])
    timer.join()
    n = session.position
    assert session.tokens[:3] == [1, 2, 3] or n == 0, session.tokens
    session.sync([7, 8, 9])
    assert len(session.decode(3)) == 3
    print("usable after", n)
"""

CALLS = {
    "prefill": "session.sync([1, 2, 3] + list(range(900)) * 4)",
    "evaluate": "session.evaluate(list(range(900)) * 4, chunk=8)",
    "decode": "session.decode(4000)",
    "batch": "model.decode([session], 4000)",
    "generate": "model.generate('Romeo', max_tokens=4000, temperature=0)",
    "stream": "[None for piece in model.generate('Romeo', max_tokens=4000, stream=True, temperature=0)]",
    "op": "import numpy as np; w = np.zeros((8192, 1024), 'f4'); dsvk.ops.matmul(w, dsvk.Tensor(w, model.device, 'matrix'))",
    "read": "import numpy as np; dsvk.Tensor(np.zeros((8192, 4096), 'f4'), model.device, 'matrix').read()",
    "load": "[dsvk.Model('nano', device=model.device).close() for _ in range(1000)]",
    "verify": "[dsvk.verify('nano') for _ in range(1000)]",
    "tokenize": "[model.tokenizer.encode('a b c ' * 10000) for _ in range(10000)]",
}


@pytest.mark.parametrize("call", CALLS)
def test_A08_control_c(python, call):
    if "numpy" in CALLS[call]:
        pytest.importorskip("numpy")
    for _ in range(4):          # other programs may keep a machine busy for a while
        result = python(INTERRUPTED.format(call=CALLS[call]))
        assert result.returncode == 0 and "stopped after" in result.stdout, result.stdout + result.stderr
        assert "usable after" in result.stdout
        if float(result.stdout.split()[2]) < 1.0:
            return
    raise AssertionError(result.stdout)


def test_A08_control_c_while_loading(nano, device):
    """The signal arrives inside the load, whatever its length."""
    with pytest.raises(KeyboardInterrupt):
        dsvk.Model("nano", device=device, progress=lambda *now: signal.raise_signal(signal.SIGINT))
    assert nano.generate("A", max_tokens=2, temperature=0) is not None


# ---- A10: the end of the interpreter ----

@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "import os; os._exit(3)"])
def test_A10_exit_with_open_handles(python, ending):
    code = ("import dsvk, threading\nmodel = dsvk.Model('nano')\nsession = model.session()\nsession.sync([1])\n"
            "stream = model.generate('A', stream=True, max_tokens=50)\nnext(stream)\nimport sys; sys.keep = session, stream\n"
            "other = model.session()\n"
            "threading.Thread(target=lambda: [other.sync([i % 9, 2]) for i in range(10**9)], daemon=True).start()\n")
    result = python(code + ending)
    assert result.returncode == (3 if ending else 0), result.stderr
    assert result.stderr == ""


SECOND = """
import dsvk
try:
    import _interpreters as interpreters        # from 3.13 on
    def create():
        return interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    def create():
        return interpreters.create(isolated=False)
with dsvk.Model("nano") as model, model.session() as session:
    expected = model.generate("ROMEO:", max_tokens=8, temperature=0)
    code = f'''import dsvk
class Lent:
    def __init__(self, array):
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__
with dsvk.Model("nano") as model, model.session() as session:
    assert model.generate("ROMEO:", max_tokens=8, temperature=0) == {expected!r}
    session.sync([1, 2])
    dsvk.Tensor(Lent(session.logits()), model.device)      # takes the array and gives it back: which asks for no lock of the other's
try:
    dsvk.Model("nowhere at all")
except dsvk.FileError:
    pass
else:
    raise SystemExit("the other interpreter has its own errors")
'''
    other = create()
    assert not interpreters.run_string(other, code)
    interpreters.destroy(other)
    assert model.generate("ROMEO:", max_tokens=8, temperature=0) == expected
print("both")
"""


def test_two_interpreters(python):
    """The extension keeps its state with its module: another interpreter of the process has types and errors of its own."""
    result = python(SECOND)
    assert (result.stdout, result.returncode) == ("both\n", 0), result.stderr


FORKED = """
import os
import threading
import time
import numpy
import dsvk
model = dsvk.Model("nano")
session, tensor = model.session(), dsvk.Tensor(numpy.ones((2, 32), "f4"), model.device)
session.sync([1, 2])
scheduler = dsvk.Scheduler(model)
held, go_on = threading.Event(), threading.Event()
def hold(stage, done, total):
    held.set()
    go_on.wait()
running = model.session(progress=hold)
thread = threading.Thread(target=lambda: running.sync([1, 2, 3]))
thread.start()
held.wait()
child = os.fork()
if child == 0:
    refused = 0
    for use in (lambda: session.sync([1, 2, 3]), lambda: session.decode(1), lambda: model.session(), lambda: model.trace([1]),
                lambda: dsvk.Tensor(numpy.ones(4, "f4"), model.device), lambda: dsvk.ops.rms_norm(tensor, tensor),
                lambda: model.device.measure(), lambda: session.begin([1], 1), lambda: session.tokens, lambda: session.memory,
                lambda: running.sync([1]), lambda: running.tokens, lambda: scheduler.submit([1]), lambda: scheduler.report):
        try:
            use()
        except dsvk.StateError as error:
            refused += "child" in str(error)
    repr(model.device), repr(model), repr(session), repr(scheduler), model._repr_html_(), session._repr_html_()
    began = time.monotonic()
    scheduler.close(), running.close(), session.close(), tensor.close(), model.close()
    os._exit(refused if time.monotonic() - began < 2 else 100)
go_on.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(session.decode(3)))
"""


def test_A11_fork(python):
    """Every call in the child says so, closing there is harmless, the parent goes on."""
    result = python(FORKED)
    assert result.stdout == "14 3\n", result.stdout + result.stderr


# ---- text ----

def test_T06_surrogates_and_bytes(nano):
    tokenizer = nano.tokenizer
    for use in (tokenizer.encode, tokenizer.id, nano.generate):
        with pytest.raises(UnicodeEncodeError):
            use("a\ud800b")
    broken = b"\xff\x00a\xc3"
    assert tokenizer.decode_bytes(tokenizer.encode(broken)) == broken
    assert tokenizer.decode(tokenizer.encode(broken)) == broken.decode("utf-8", "replace")
    assert tokenizer.encode(bytearray(b"abc")) == tokenizer.encode(memoryview(b"abc")) == tokenizer.encode("abc")
    with pytest.raises(TypeError, match="expected str or bytes, got <class 'int'>"):
        tokenizer.encode(5)


def test_T07_special_text_stays_text(nano):
    tokenizer = nano.tokenizer
    begin = tokenizer.decode([nano.config["bos_token_id"]])
    assert tokenizer.is_special(nano.config["bos_token_id"]) and tokenizer.id(begin) == nano.config["bos_token_id"]
    assert not any(map(tokenizer.is_special, tokenizer.encode(begin)))
    think = tokenizer.id("<think>")
    assert tokenizer.is_added(think) and not tokenizer.is_special(think) and not tokenizer.is_added(10 ** 12)
    assert not any(map(tokenizer.is_added, tokenizer.encode(begin)))
    assert tokenizer.encode(begin, special=True) == [nano.config["bos_token_id"]]
    assert tokenizer.id("no token has this text") is None


def test_T08_T09_decoder_gives_whole_characters(nano):
    tokenizer, text = nano.tokenizer, "a\0é€😀 z"
    ids = tokenizer.encode(text)
    decoder = tokenizer.decoder()
    pieces = [decoder.push(id) for id in ids]
    assert "".join(pieces) + decoder.finish() == text and "\ufffd" not in "".join(pieces)
    decoder = tokenizer.decoder()
    assert decoder.push(tokenizer.encode(b"\xe2")[0]) == "" and decoder.finish() == "\ufffd"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    for use in (lambda: tokenizer.decode([nano.vocab_size]), lambda: decoder.push(-1)):
        with pytest.raises(dsvk.InvalidError, match=str(nano.vocab_size)):
            use()


# ---- generate ----

def test_nano_writes_readable_text(nano):
    """Letters, spaces and common words: what a trained model writes and a random one does not."""
    text = nano.generate(PROMPT, max_tokens=120, temperature=0.7, seed=1)
    words = [word.strip(".,;:!?'").lower() for word in text.split()]
    common = set("the and to i of you my a that in is not with me it for be your his this but he have as thou him so will".split())
    assert sum(c.isalpha() or c in " \n.,;:!?'-" for c in text) > 0.95 * len(text), text
    assert len(words) > 20 and sum(word in common for word in words) > 0.2 * len(words), text


def test_streaming_equals_not_streaming(nano):
    whole = nano.generate(PROMPT, max_tokens=40, seed=5)
    stream = nano.generate(PROMPT, max_tokens=40, seed=5, stream=True)
    pieces = list(stream)
    assert "".join(pieces) == whole and len(pieces) > 1
    assert stream.finish == "length" and len(stream.tokens) == 40
    assert stream.prefill_seconds > 0 and stream.decode_seconds > 0 and stream.session.closed
    assert nano.generate(nano.prompt_tokens(PROMPT), max_tokens=40, seed=5) == whole
    assert nano.generate(PROMPT, max_tokens=40, seed=6) != whole


def test_stop_texts(nano):
    whole = nano.generate(PROMPT, max_tokens=60, seed=5)
    at = len(whole) // 2
    for stop in (whole[at:at + 3], whole[at:at + 9]):
        expected = whole[:whole.index(stop)]
        stream = nano.generate(PROMPT, max_tokens=60, seed=5, stop=["never in it", stop], stream=True)
        assert "".join(stream) == expected and stream.finish == "stop"


def test_stopping_ids_and_early_close(nano):
    stream = nano.generate(PROMPT, max_tokens=60, seed=5, stream=True)
    next(stream)
    stream.close()
    assert stream.session.closed and list(stream) == []
    free = nano.generate(PROMPT, max_tokens=20, seed=5, stream=True)
    list(free)
    stop = free.tokens[10]
    text = nano.tokenizer.decode(free.tokens[:free.tokens.index(stop)])
    assert nano.generate(PROMPT, max_tokens=20, seed=5, stop=stop) == text


def test_generate_without_a_tokenizer_says_so(tmp_path, device):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(dsvk.locate("nano") / name, tmp_path)
    with dsvk.Model(tmp_path, device=device) as model:
        assert model.tokenizer is None
        with pytest.raises(dsvk.UnsupportedError, match="tokenizer.json"):
            model.generate("text")
        with model.session() as session:
            session.sync([1, 2])
            assert len(session.decode(3)) == 3


def test_threads_and_one_model(nano):
    """Sessions on four threads give what each gives alone."""
    prompts = [random_tokens(nano, 5 + i, 100 + i) for i in range(4)]

    def run(i, results):
        with nano.session() as session:
            session.sync(prompts[i])
            results[i] = session.decode(12, temperature=1.0, seed=i)
    alone, together = {}, {}
    for i in range(4):
        run(i, alone)
    threads = [threading.Thread(target=run, args=(i, together)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert alone == together


def test_stubs_are_true():
    """_dsvk.pyi names what the extension has: every class with every member, every function, and nothing else."""
    tree = ast.parse((Path(dsvk.__file__).parent / "_dsvk.pyi").read_text(encoding="utf-8"))
    stubs = {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    real = {name: value for name, value in vars(dsvk._dsvk).items() if not name.startswith("_")}
    assert stubs.keys() == real.keys()
    for name, node in stubs.items():
        if isinstance(node, ast.ClassDef) and not issubclass(real[name], BaseException):
            members = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            public = {member for member in vars(real[name]) if not member.startswith("_")}
            assert {member for member in members if not member.startswith("_")} == public, name


def test_public_names_are_documented():
    for name in dsvk.__all__:
        thing = getattr(dsvk, name)
        assert getattr(thing, "__doc__", None), name
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and not isinstance(value, (str, type(None))):
                inherited = [getattr(base, member, None) for base in thing.__mro__]
                assert any(getattr(one, "__doc__", None) for one in inherited), f"{name}.{member}"
    assert sys.version_info >= (3, 11)


# ---- asyncio ----

def test_astream_equals_generate(nano):
    expected = nano.generate("ROMEO:\n", max_tokens=30, temperature=0.8, seed=5)

    async def main():
        ticks, pieces = 0, []

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)
        ticking = asyncio.create_task(tick())
        async for piece in nano.astream("ROMEO:\n", max_tokens=30, temperature=0.8, seed=5):
            pieces.append(piece)
        ticking.cancel()
        return pieces, ticks
    pieces, ticks = asyncio.run(main())
    assert "".join(pieces) == expected and len(pieces) > 1
    assert ticks > 10                                     # the loop ran on


def test_astream_left_early_frees_its_session(nano):
    nano.generate("A", max_tokens=1)
    before = nano.device.memory()["cache"]["used"]

    async def leave():
        stream = nano.astream("ROMEO:\n", max_tokens=3000, temperature=0)
        assert await anext(stream)
        await stream.aclose()

    async def cancelled():
        async def read():
            async for _ in nano.astream("ROMEO:\n", max_tokens=3000, temperature=0):
                pass
        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def wrong():
        with pytest.raises(dsvk.LimitError, match="more than the context"):
            async for _ in nano.astream([1] * 70000):
                pass
    for case in (leave, cancelled, wrong):
        asyncio.run(case())
    gc.collect()
    assert nano.device.memory()["cache"]["used"] == before
