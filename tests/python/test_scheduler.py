"""The scheduler: the same tokens and log-probabilities, bit for bit, whoever else is running; stop texts, choices, kept prefixes,
turns, cancelling in every phase, and memory that runs short. Most tests step the core's scheduler themselves, so that every run
is the same; the last ones use the thread."""
import asyncio
import gc
import shutil
import threading
import weakref

import numpy as np
import pytest

import dsvk
from checkpoint import TINY, tokens, write_checkpoint
from dsvk import _dsvk
from test_model import edit

CHUNK, CONTEXT, VOCAB = 128, 512, TINY["vocab_size"]
ROLLBACK = 8      # tokens that rings reach back besides what the model looks at (cache.h)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tiny"))
    write_checkpoint(TINY, folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def tiny(device, folder):
    with dsvk.Model(folder, device=device, max_chunk=CHUNK, page_tokens=128) as model:
        yield model


def prompt(seed, n):
    return tokens(seed, VOCAB, n).tolist()


class Run:
    """A core scheduler that is stepped here; what every request (and choice) has told so far."""

    def __init__(self, model, **options):
        self.core = _dsvk.Scheduler(model, **{"context": CONTEXT, "cache": False, **options})
        self.told = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.core.close()

    def submit(self, prompt, max_tokens, **options):
        return self.core.submit(prompt, max_tokens, **options)

    def step(self):
        unfinished = self.core.step()
        for event in self.core.events():
            choice = self.told.setdefault((event["request"], event["choice"]), {"ids": [], "text": "", "logprobs": [], "top": [],
                                                                                "pieces": [], "prompt": []})
            assert "finish" not in choice, "events after the last one"
            choice["ids"] += event["ids"]
            choice["text"] += event["text"]
            choice["pieces"].append(event["text"])
            choice["logprobs"] += event["logprobs"] or []
            choice["top"] += event["top"] or []
            choice["cached"] = event["cached_tokens"]
            if event["kind"] == "prompt":
                choice["prompt"].append(event["prompt_done"])
            if event["kind"] == "finish":
                choice.update({name: event[name] for name in ("finish", "stop_id", "stop_text", "status", "message",
                                                               "completion_tokens", "prompt_tokens")})
        return unfinished

    def finish(self):
        """Steps until nothing is left to do; the number of steps."""
        steps = 1
        while self.step() > 0:
            steps += 1
            assert steps < 5000
        return steps

    def alone(self, *args, **options):
        id = self.submit(*args, **options)
        self.finish()
        return self.told[id, 0]


def same(a, b):
    return a["ids"] == b["ids"] and a["logprobs"] == b["logprobs"] and a["top"] == b["top"] and a["text"] == b["text"]


# ---- the same whoever else is running ----

LENGTHS = [1, 2, 31, 33, 63, 64, 65, 127, 128, 129, 191, 192, 200, 256, 257, 300]


def request_of(i):
    return dict(prompt=prompt(50 + i, LENGTHS[i % len(LENGTHS)]), max_tokens=3 + i % 7, temperature=0.8 * (i % 3 > 0), top_p=0.95,
                seed=i, logprobs=1 + i % 4)


def test_the_same_alone_and_among_31_others(tiny):
    alone = []
    with Run(tiny) as run:
        for i in range(32):
            alone.append(run.alone(**request_of(i)))
    with Run(tiny) as run:
        ids = [run.submit(**request_of(i)) for i in range(32)]
        run.finish()
        for i, id in enumerate(ids):
            assert run.told[id, 0]["finish"] == "length" and len(run.told[id, 0]["ids"]) == 3 + i % 7
            assert same(run.told[id, 0], alone[i]), f"request {i}: a prompt of {LENGTHS[i % len(LENGTHS)]}"


def test_the_same_in_any_burst_and_any_company(tiny):
    """Bursts of several tokens, requests that come and go at other moments, fewer places than requests."""
    want = []
    with Run(tiny, burst=1) as run:
        for i in range(8):
            want.append(run.alone(**{**request_of(i), "logprobs": 0, "max_tokens": 20 + i}))
    with Run(tiny, burst=16, max_running=3) as run:
        ids = []
        for i in reversed(range(8)):
            ids.insert(0, run.submit(**{**request_of(i), "logprobs": 0, "max_tokens": 20 + i}))
            run.step()
        run.finish()
        assert all(same(run.told[id, 0], want[i]) for i, id in enumerate(ids))


def test_it_is_what_a_session_gives(tiny):
    """The same cuts, the same tokens; log-probabilities are those of the session's logits."""
    text = prompt(3, 200)
    with Run(tiny) as run:
        got = run.alone(text, 6, temperature=0.9, seed=11, logprobs=21)
    with tiny.session(context=CONTEXT) as s:
        s.sync(text)                      # the model's max_chunk is the scheduler's chunk
        for i, id in enumerate(got["ids"]):
            logits = np.asarray(s.logits(), dtype=np.float64)
            logprobs = logits - logits.max()
            logprobs -= np.log(np.exp(logprobs).sum())
            order = np.argsort(-logits, kind="stable")[:20]
            assert [pair[0] for pair in got["top"][i]] == order.tolist()
            assert np.allclose([pair[1] for pair in got["top"][i]], logprobs[order], rtol=0, atol=1e-6)
            assert abs(got["logprobs"][i] - logprobs[id]) < 1e-6
            assert s.decode(1, temperature=0.9, seed=11) == [id]


def test_log_probabilities_of_the_prompt(tiny):
    """Those of the logits at every position, by the first choice only, whoever else is running, and for a prompt that is kept."""
    for n in (1, 2, 33, 64, 200):
        text, beside = prompt(7, n), prompt(8, 40)
        with tiny.session(context=CONTEXT) as s:
            logits = np.asarray(s.evaluate(text), dtype=np.float64)
        wanted = logits - logits.max(axis=1, keepdims=True)
        wanted -= np.log(np.exp(wanted).sum(axis=1, keepdims=True))
        order = np.argsort(-logits, axis=1, kind="stable")[:, :3]
        with Run(tiny, cache=True) as run:
            answer = run.alone(text, 4, logprobs=4)
            id = run.submit(text, 4, choices=2, logprobs=4, prompt_logprobs=True)
            other = run.submit(beside, 5)
            run.finish()
            got, second = run.told[id, 0], run.told[id, 1]
            assert got["cached"] == 0 and len(run.told[other, 0]["ids"]) == 5
        assert got["ids"] == text + answer["ids"] and second["ids"] == answer["ids"]
        assert got["logprobs"][n:] == answer["logprobs"] and got["top"][n:] == answer["top"]
        assert got["logprobs"][0] is None and got["top"][0] == []
        for i in range(1, n):
            assert abs(got["logprobs"][i] - wanted[i - 1, text[i]]) < 1e-6
            assert [pair[0] for pair in got["top"][i]] == order[i - 1].tolist()
    with Run(tiny) as run, pytest.raises(dsvk.InvalidError, match="prompt_logprobs is 1, allowed are 0 and, with logprobs, 1"):
        run.submit(text, 4, prompt_logprobs=True)


def test_choices_are_the_requests_of_their_seeds(tiny):
    for cache in (False, True):
        with Run(tiny, cache=cache) as run:
            text = prompt(4, 150)
            id = run.submit(text, 9, temperature=1.0, seed=100, choices=5, logprobs=2)
            run.finish()
            together = [run.told[id, choice] for choice in range(5)]
            report = run.core.report
            assert report["prompt_tokens"] == 150          # run once
        with Run(tiny) as run:
            for choice in range(5):
                assert same(run.alone(text, 9, temperature=1.0, seed=100 + choice, logprobs=2), together[choice])
            assert len({tuple(one["ids"]) for one in together}) > 1


# ---- prefill in chunks between tokens ----

def test_prompts_are_cut_and_others_decode_between(tiny):
    with Run(tiny, burst=1) as run:
        first = run.submit(prompt(5, 10), 100)
        run.step()
        long = run.submit(prompt(6, 400), 2)
        have = len(run.told[first, 0]["ids"])
        for chunk in range(4):
            run.step()
            assert len(run.told[first, 0]["ids"]) == have + 1 + chunk      # one token for every chunk
        run.finish()
        assert run.told[long, 0]["prompt"] == [128, 256, 384, 400]


def test_short_prompts_share_a_step(tiny):
    """Twelve prompts of five tokens are one step of prefill, not twelve."""
    with Run(tiny) as run:
        ids = [run.submit(prompt(i, 5), 1) for i in range(12)]
        assert run.step() == 0
        assert all(run.told[id, 0]["finish"] == "length" for id in ids)


def test_long_prompts_take_turns(tiny):
    with Run(tiny) as run:
        a, b = run.submit(prompt(1, 384), 1), run.submit(prompt(2, 384), 1)
        for _ in range(4):
            run.step()
        assert run.told[a, 0]["prompt"] == [128, 256] and run.told[b, 0]["prompt"] == [128, 256]


# ---- who begins, who waits, who ends ----

def test_S06_the_queue_is_bounded(tiny):
    with Run(tiny, max_running=2, max_waiting=3, burst=1) as run:
        for i in range(5):
            run.submit(prompt(i, 4), 3)
        with pytest.raises(dsvk.BusyError, match="5 sequences run or wait, allowed are 5"):
            run.submit(prompt(9, 4), 3)
        assert run.core.report["waiting"] == 5
        run.step()
        assert run.core.report["running"] == 2
        run.finish()
        run.alone(prompt(9, 4), 3)


def test_priority_then_fewest_running_then_first(tiny):
    with Run(tiny, max_running=2, burst=1) as run:
        names = {}
        for name, owner, priority in [("a1", "a", 0), ("a2", "a", 0), ("a3", "a", 0), ("b1", "b", 0), ("c1", "c", 1), ("a4", "a", 0)]:
            names[run.submit(prompt(1, 3), 2, owner=owner, priority=priority)] = name
        run.finish()
        order = [names[id] for id, _ in sorted(run.told, key=lambda key: list(run.told).index(key))]
        assert order.index("c1") < 2                       # the highest priority
        assert set(order[:2]) == {"c1", "a1"}              # then the first
        assert order.index("b1") < order.index("a3")       # who has nothing running comes before the one who has
        assert order.index("a3") < order.index("a4")


@pytest.mark.parametrize("phase", ["waiting", "prefill", "decode"])
def test_S09_cancel_ends_within_one_step(tiny, device, phase):
    with Run(tiny, max_running=2, burst=1) as run:
        before = device.memory()["cache"]["used"]
        other = run.submit(prompt(1, 20), 30)
        run.step()
        if phase == "waiting":
            run.submit(prompt(2, 20), 30)
        id = run.submit(prompt(3, 400), 30)
        for _ in range({"waiting": 1, "prefill": 2, "decode": 6}[phase]):
            run.step()
        told = run.told.get((id, 0), {"ids": [], "prompt": []})
        assert {"waiting": told["prompt"] == [], "prefill": told["prompt"] and not told["ids"], "decode": told["ids"]}[phase]
        run.core.cancel(id)
        run.core.cancel(id)
        run.core.cancel(12345)
        run.step()
        assert run.told[id, 0]["finish"] == "cancelled"
        run.finish()
        assert run.told[other, 0]["finish"] == "length"
        assert device.memory()["cache"]["used"] == before


def test_the_context_ends_it(tiny):
    with Run(tiny, context=40) as run:
        assert run.alone(prompt(1, 30), 0)["finish"] == "context"
        assert len(run.alone(prompt(1, 30), 100)["ids"]) == 10
        assert run.alone(prompt(1, 30), 10)["finish"] == "length"
        with pytest.raises(dsvk.LimitError, match="40 tokens leaves no room.*context of 40"):
            run.submit(prompt(1, 40), 1)


def test_stop_ids_are_not_handed_out(tiny):
    with Run(tiny) as run:
        free = run.alone(prompt(1, 30), 12)
        stop = free["ids"][5]
        at = free["ids"].index(stop)
        unsaid = next(i for i in range(64) if i not in free["ids"])
        got = run.alone(prompt(1, 30), 12, stop=[unsaid, stop])
        assert got["ids"] == free["ids"][:at] and got["finish"] == "stop" and got["stop_id"] == stop
        assert got["completion_tokens"] == at


# ---- text ----

@pytest.fixture(scope="module")
def verse(nano):
    """(prompt, the 40 greedy tokens, their text)"""
    text = nano.prompt_tokens("ROMEO:\nO, ")
    with Run(nano) as run:
        got = run.alone(text, 40)
    return text, got["ids"], got["text"]


def test_text_is_the_tokens(nano, verse):
    assert nano.tokenizer.decode(verse[1]) == verse[2] and len(verse[2]) > 40


def test_stop_texts(nano, verse):
    """Every substring of some lengths: the text ends where it first comes, whatever tokens it spans, in bursts of any size."""
    text, ids, whole = verse
    stops = [whole[at:at + n] for at, n in [(0, 1), (0, 4), (3, 2), (7, 1), (9, 7), (20, 3), (30, 11), (len(whole) - 2, 2)]]
    for burst in (1, 8):
        with Run(nano, burst=burst) as run:
            ran = {stop: run.submit(text, 40, stop_texts=["never ever".encode(), stop.encode()], logprobs=1) for stop in stops}
            run.finish()
            for stop, id in ran.items():
                got, at = run.told[id, 0], whole.index(stop)
                assert got["text"] == whole[:at] and got["finish"] == "stop" and got["stop_text"] == 1, stop
                assert got["ids"] == ids[:len(got["ids"])] and len(got["logprobs"]) == len(got["ids"])
                kept = nano.tokenizer.decode(got["ids"])   # every token with a byte before the stop text, no other
                assert kept.startswith(whole[:at]) and len(nano.tokenizer.decode(got["ids"][:-1])) < max(at, 1)


def test_text_is_held_back_while_it_may_become_a_stop_text(nano, verse):
    text, ids, whole = verse
    begin = next(i for i in range(12, len(whole)) if whole.count(whole[i:i + 2]) == 1 and whole[i] not in (whole[i - 1], whole[i + 1]))
    near = whole[begin:begin + 6] + "\x00"                   # everything but its end comes; it does not begin with a double letter
    with Run(nano, burst=1) as run:
        got = run.alone(text, 40, stop_texts=[near.encode()])
        assert got["text"] == whole and got["ids"] == ids and got["finish"] == "length"
        held = "".join(got["pieces"][:1])
        for piece in got["pieces"][1:]:                     # never a beginning of it at the end of what is out
            assert not any(held.endswith(near[:n]) for n in range(1, len(near)) if len(held) < len(whole))
            held += piece


def test_of_two_stop_texts_the_one_that_ends_first(nano, verse):
    text, _, whole = verse
    with Run(nano) as run:
        got = run.alone(text, 40, stop_texts=[whole[5:15].encode(), whole[8:10].encode()])
        first = min(whole.index(whole[8:10]) + 2, whole.index(whole[5:15]) + 10)
        assert got["text"] == whole[:first - 2] and got["stop_text"] == 1


def test_stop_texts_only_in_a_part(nano, verse):
    text, ids, whole = verse
    pieces = [nano.tokenizer.decode(ids[:i]) for i in range(len(ids) + 1)]
    after = next(i for i in range(5, 30) if ids[i] not in ids[:i])
    common = next(c for c in whole[:len(pieces[after])] if c in whole[len(pieces[after + 1]):])
    with Run(nano) as run:
        got = run.alone(text, 40, stop_texts=[common.encode()], stop_after=ids[after])
        assert got["text"] == whole[:whole.index(common, len(pieces[after + 1]))]
        late = whole[len(pieces[after + 1]):][:3]
        if late not in whole[:len(pieces[after])]:
            got = run.alone(text, 40, stop_texts=[late.encode()], stop_before=ids[after])
            assert got["text"] == whole and got["finish"] == "length"


def test_a_model_without_tokenizer_has_no_text(tiny):
    with Run(tiny) as run:
        assert run.alone(prompt(1, 5), 3)["text"] == ""
        with pytest.raises(dsvk.UnsupportedError, match="no tokenizer.json"):
            run.submit(prompt(1, 5), 3, stop_texts=[b"x"])


# ---- kept prefixes ----

def test_an_extended_prompt_hits(tiny):
    """A+B, then A+B+C; then the answer's end as well."""
    text = prompt(7, 150)
    with Run(tiny, cache=True) as run:
        first = run.alone(text, 8)
        assert first["cached"] == 0
        assert run.alone(text + prompt(8, 30), 2)["cached"] == 150
        assert run.alone(text + first["ids"] + prompt(9, 10), 2)["cached"] == 158
        report = run.core.report
        assert report["cache"]["hits"] == 2 and report["cache"]["misses"] == 1 and report["cached_tokens"] == 308


def test_a_repeated_prompt_is_restored_bit_for_bit(tiny):
    for n in (1, 40, 64, 127, 128, 129, 300):
        with Run(tiny, cache=True) as run:
            first = run.alone(prompt(10, n), 10, logprobs=3, temperature=0.7, seed=5)
            again = run.alone(prompt(10, n), 10, logprobs=3, temperature=0.7, seed=5)
            assert again["cached"] == n and same(first, again) and first["cached"] == 0


def test_exact_requests_use_only_what_they_would_compute(tiny):
    text = prompt(11, 300)
    longer = text + prompt(12, 120)
    with Run(tiny) as run:
        cold = run.alone(longer, 8, logprobs=2)
    with Run(tiny, cache=True) as run:
        run.alone(longer[:384], 1)                 # whole chunks: exactly what `longer` computes
        run.alone(text, 1)                         # 300 is no cut of `longer`
        exact = run.alone(longer, 8, logprobs=2, exact=True)
        assert exact["cached"] == 384 and same(exact, cold)
    with Run(tiny, cache=True) as run:
        run.alone(text, 1)
        exact = run.alone(longer, 8, logprobs=2, exact=True)
        assert exact["cached"] == 0 and same(exact, cold)
        assert run.alone(longer, 8)["cached"] == 420


def test_a_common_beginning_is_kept(tiny):
    """Two prompts that differ after 300 tokens: the second leaves a prefix of whole chunks behind, the third finds it."""
    text = prompt(13, 300)
    with Run(tiny, cache=True) as run:
        assert run.alone(text + prompt(14, 50), 1)["cached"] == 0
        assert run.alone(text + prompt(15, 50), 1)["cached"] == 0
        third = run.alone(text + prompt(16, 50), 4, logprobs=1)
        assert third["cached"] == 256
    with Run(tiny) as run:
        assert same(run.alone(text + prompt(16, 50), 4, logprobs=1), third)


def test_long_prompts_are_kept_on_the_way(tiny):
    """Every eight chunks: of a prompt that was cancelled behind them that much is found."""
    text = prompt(17, 400)
    with Run(tiny, cache=True, chunk=32) as run:
        id = run.submit(text, 1)
        while run.told.get((id, 0), {"prompt": [0]})["prompt"][-1] < 320:
            run.step()
        run.core.cancel(id)
        run.finish()
        assert run.alone(text, 1)["cached"] == 256


def test_K09_prefixes_are_found_under_their_key_only(tiny):
    text = prompt(18, 100)
    with Run(tiny, cache=True) as run:
        run.alone(text, 1, cache_key="{\"user\": 1}")
        assert run.alone(text, 1)["cached"] == 0
        assert run.alone(text, 1, cache_key="{\"user\": 2}")["cached"] == 0
        assert run.alone(text, 1, cache_key="{\"user\": 1}")["cached"] == 100


def test_no_row_of_a_found_prompt_runs_again(tiny, device):
    """Passes through the model: one for the token; of a prompt of 300 that is not found, three more."""
    def passes(text):
        device.profile_begin()
        told = run.alone(text, 1)
        ops = device.profile_end()["ops"]
        return told["cached"], sum(op["calls"] for op in ops if op["name"] == "embed")
    with Run(tiny, cache=True) as run:
        assert passes(prompt(19, 300)) == (0, 4)
        assert passes(prompt(19, 300)) == (300, 1)


def test_the_tree_against_a_list(tiny):
    """Prompts that are beginnings of each other, or nearly, in any order, against the longest beginning there is. How far back a
    timeline serves depends on whether its own tokens were taken back before."""
    def common(a, b):
        return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    rng = np.random.default_rng(1)
    kept = []
    with Run(tiny, cache=True, chunk=32) as run:
        for _ in range(60):
            text = [int(i) for i in rng.integers(0, 2, rng.integers(1, 25))]
            got = run.alone(text, 1)
            whole = max((len(one) for one in kept if common(one, text) == len(one)), default=0)
            near = max((min(n, len(text) - 1) for one in kept if len(one) - (n := common(one, text)) <= ROLLBACK), default=0)
            assert whole <= got["cached"] <= max(whole, near), (text, kept)
            kept += [text, text + got["ids"]]


@pytest.mark.parametrize("n", [9, 129, 136])
def test_a_prompt_that_departs_near_the_end_of_another_hits(tiny, n):
    """The rings reach back a few tokens: what goes on from there is what a session that goes back computes, bit for bit, before, at and
    behind the ends of chunks, pages and rings. What was kept stays as it was."""
    text, other = prompt(30, n), prompt(31, 20)
    for back in (1, ROLLBACK, ROLLBACK + 1):
        if back >= n:
            continue
        changed = text[:-back] + other
        with tiny.session(context=CONTEXT) as session:
            session.sync(text)
            session.sync(changed)
            logits, ids = np.array(session.logits()), session.decode(4)
        with Run(tiny, cache=True) as run:
            run.alone(text, 1)
            kept = run.alone(text + other, 4, logprobs=2)
        with Run(tiny, cache=True) as run:
            run.alone(text, 1)
            got = run.alone(changed, 4, logprobs=2)
            assert got["cached"] == (n - back if back <= ROLLBACK and 8 * back <= n - back else 0)
            assert got["ids"] == ids and abs(got["logprobs"][0] - logits[ids[0]] + np.logaddexp.reduce(logits)) < 1e-5
            assert run.alone(changed[:-1] + other, 1)["cached"] == len(changed) - 1
            assert kept["cached"] == n and same(run.alone(text + other, 4, logprobs=2), kept)
            assert run.alone(text[:-1] + other, 1, exact=True)["cached"] in (0, CHUNK, 2 * CHUNK)


def test_what_was_taken_back_does_not_come_again(tiny):
    """Taken back twice, further than the rings reach together."""
    text = prompt(32, 60)
    with Run(tiny, cache=True) as run:
        run.alone(text, 1)
        assert run.alone(text[:54] + prompt(33, 1), 1)["cached"] == 54
        shorter = text[:50] + prompt(34, 30)          # of the first 10 back, of the second 5, whose rings have seen 60
        with Run(tiny) as other:
            cold = other.alone(shorter, 4, logprobs=2)
        got = run.alone(shorter, 4, logprobs=2)
        assert got["cached"] == 0 and same(got, cold)
        assert run.alone(text[:59], 1)["cached"] == 58      # its last token runs again, for its logits


def test_the_cache_stays_within_its_budget(tiny, device):
    with Run(tiny, cache=True) as run:
        run.alone(prompt(20, 100), 1)
        each = run.core.report["cache"]["bytes"]
    before = device.memory()["cache"]["used"]
    with Run(tiny, cache=True, cache_bytes=3 * each) as run:
        for i in range(8):
            run.alone(prompt(20 + i, 100), 1)
            assert run.core.report["cache"]["bytes"] <= 3 * each
        assert run.core.report["cache"]["evicted"] > 0
        assert run.alone(prompt(27, 100), 1)["cached"] == 100          # the youngest is there
        assert run.alone(prompt(20, 100), 1)["cached"] == 0            # the oldest is not
        used = run.core.report["cache"]["bytes"]
        assert device.memory()["cache"]["used"] - before >= used > 0   # it is memory that is really there
    assert device.memory()["cache"]["used"] == before
    with Run(tiny, cache=True, cache_bytes=1000) as run:               # too small for one: nothing is kept
        run.alone(prompt(20, 100), 1)
        assert run.alone(prompt(20, 100), 1)["cached"] == 0 and run.core.report["cache"]["bytes"] == 0


# ---- memory runs short, numbers turn bad ----

def test_D04_whoever_came_last_waits_for_memory(folder):
    """Room for all at their beginning and not at their end, when they need a second page: all finish, and give what they give
    alone. With less there is not even room for one."""
    JOBS = [dict(prompt=prompt(30 + i, 100 + i), max_tokens=40, seed=i, temperature=0.7) for i in range(4)]

    def run_with(budget, steps):
        """The requests one after the other, or together for some steps or to their end, with so much memory for caches."""
        with dsvk.Device(budgets={"cache": budget}) as device, \
                dsvk.Model(folder, device=device, max_chunk=CHUNK, page_tokens=128) as model:
            before = device.memory()["cache"]["used"]
            with Run(model, cache=steps is not None) as run:
                if steps is None:
                    return [run.alone(**job)["ids"] for job in JOBS], before
                ids = [run.submit(**job) for job in JOBS]
                for _ in range(steps):
                    if run.step() == 0:
                        break
                told = [run.told.get((id, 0)) for id in ids]
                return told, device.memory()["cache"]["used"] - before, run.core.report["preempted"]

    want, before = run_with(0, None)
    _, begun, _ = run_with(0, 4)
    preempted = 0
    for part in (4, 3, 2):
        told, _, times = run_with(before + begun * part // 4, 5000)
        assert [one["ids"] for one in told] == want, part
        preempted += times
    assert preempted > 0
    told, _, _ = run_with(before + begun // 16, 5000)
    assert all(one["finish"] == "error" and one["status"] == "DEVMEM" and "cache" in one["message"] for one in told)


def test_D17_one_without_finite_logits_ends_alone(folder, tmp_path, device):
    """Token 7's embedding is NaN: who reads it ends with NUMERIC, the others give what they give alone."""
    copy = str(tmp_path / "copy")
    shutil.copytree(folder, copy)

    def poison(tensors):
        dtype, shape, value = tensors["embed.weight"]
        row = 2 * shape[1]
        tensors["embed.weight"] = (dtype, shape, value[:7 * row] + b"\xc0\x7f" * shape[1] + value[8 * row:])
    edit(copy, poison)
    good, bad = [i for i in prompt(1, 30) if i != 7], [1, 2, 7]
    with dsvk.Model(copy, device=device, max_chunk=CHUNK) as model:
        with Run(model) as run:
            want = run.alone(good, 6, logprobs=1)
        for logprobs in (0, 1):
            with Run(model) as run:
                ids = [run.submit(text, 6, logprobs=logprobs) for text in (good, bad, good)]
                run.finish()
                assert run.told[ids[0], 0]["ids"] == run.told[ids[2], 0]["ids"] == want["ids"]
                told = run.told[ids[1], 0]
                assert told["finish"] == "error" and told["status"] == "NUMERIC" and told["ids"] == []


# ---- arguments ----

@pytest.mark.parametrize("options,error,message", [
    (dict(prompt=[]), ValueError, "the prompt is empty"),
    (dict(prompt=[1, 99999]), ValueError, "token 1 is 99999"),
    (dict(prompt=[-1]), ValueError, "token 0 is -1"),
    (dict(prompt="text"), TypeError, "expected token ids"),
    (dict(choices=129), ValueError, "choices is 129, allowed are 1 to 128"),
    (dict(logprobs=22), ValueError, "logprobs asks for the 21 likeliest tokens, allowed are 20"),
    (dict(temperature=-1.0), ValueError, "temperature is -1"),
    (dict(temperature=float("nan")), ValueError, "temperature is"),
    (dict(top_p=1.5), ValueError, "top_p is 1.5"),
    (dict(max_tokens=-1), ValueError, "max_tokens"),
    (dict(max_tokens=1 << 64), ValueError, "max_tokens"),
    (dict(stop_texts=["str"]), TypeError, "stop_texts\\[0\\]: expected bytes"),
    (dict(stop_texts=[b""]), ValueError, "stop text 0 has 0 bytes"),
    (dict(stop_texts=[b"a", b"b" * 4097]), ValueError, "stop text 1 has 4097 bytes"),
    (dict(stop_texts=[b"a"] * 65), ValueError, "65 stop texts; at most 64"),
    (dict(owner="a\0b"), ValueError, "null"),
])
def test_S02_arguments_out_of_range(nano, options, error, message):
    with Run(nano) as run:
        with pytest.raises(error, match=message):
            run.core.submit(**{"prompt": [1, 2], **options})
        assert run.core.step() == 0


@pytest.mark.parametrize("options,message", [
    (dict(context=1 << 40), "positions"), (dict(max_running=33), "max_running is 33"), (dict(chunk=CHUNK + 1), "max_chunk 128"),
    (dict(burst=65), "burst is 65"),
])
def test_options_out_of_range(tiny, options, message):
    with pytest.raises(dsvk.InvalidError, match=message):
        _dsvk.Scheduler(tiny, **options)


# ---- dsvk.Scheduler ----

def test_iterated_and_asynchronously(nano):
    with dsvk.Scheduler(nano) as scheduler:
        want = [nano.generate(text, 20, temperature=0.8, seed=4) for text in ("ROMEO:\n", "To be, or")]
        assert "".join(event.text for event in scheduler.submit("ROMEO:\n", 20, temperature=0.8, seed=4)) == want[0]

        async def read(text):
            async with scheduler.submit(text, 20, temperature=0.8, seed=4) as request:
                return "".join([event.text async for event in request])

        async def both():
            return await asyncio.gather(*(read(text) for text in ("ROMEO:\n", "To be, or")))
        assert asyncio.run(both()) == want
        assert scheduler.report["finished"] == 3


@pytest.mark.parametrize("options,error,message", [
    (dict(choices=0), dsvk.InvalidError, "choices is 0"), (dict(choices="a"), TypeError, "choices: expected an integer, got 'a'"),
    (dict(backlog=-1), dsvk.InvalidError, "backlog: .*got -1"), (dict(backlog=None), TypeError, "backlog: expected an integer"),
    (dict(logprobs=-1), dsvk.InvalidError, "logprobs: .*got -1"), (dict(logprobs=21), dsvk.InvalidError, "the 21 likeliest"),
])
def test_S02_a_refused_request_hurts_no_other(nano, options, error, message):
    with dsvk.Scheduler(nano) as scheduler:
        other = scheduler.submit("ROMEO:\n", 12, temperature=0)
        with pytest.raises(error, match=message):
            scheduler.submit("hi", 4, **options)
        assert "".join(event.text for event in other) == nano.generate("ROMEO:\n", 12, temperature=0)


def test_200_at_once_none_mixed_up(nano):
    texts = [f"{name}:\n" for name in ("ROMEO", "JULIET", "KING", "First Citizen", "A", "Nurse", "To be", "O")]
    want = {(text, seed): nano.generate(text, 4, temperature=1.0, seed=seed) for text in texts for seed in range(2)}

    async def read(scheduler, text, seed):
        return "".join([event.text async for event in scheduler.submit(text, 4, temperature=1.0, seed=seed, exact=True)])

    async def all_of_them(scheduler):
        asked = [(texts[i % 8], i // 8 % 2) for i in range(200)]
        told = await asyncio.gather(*(read(scheduler, *one) for one in asked))
        assert all(got == want[one] for one, got in zip(asked, told))
    with dsvk.Scheduler(nano) as scheduler:
        asyncio.run(all_of_them(scheduler))
        report = scheduler.report
        assert report["finished"] == 200 and report["waiting"] == report["running"] == 0


def test_A08_control_c_while_iterating(python):
    result = python("import dsvk, os, signal, threading\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
                    "with dsvk.Scheduler(dsvk.Model('nano')) as scheduler:\n"
                    "    request = scheduler.submit('A', 4000, temperature=0)\n    next(request)\n"
                    "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
                    "    try:\n        for event in request:\n            assert event.finish is None\n"
                    "    except KeyboardInterrupt:\n        print('stopped')\n")
    assert result.returncode == 0 and result.stdout == "stopped\n", result.stderr


def test_leaving_early_cancels(nano):
    with dsvk.Scheduler(nano) as scheduler:
        with scheduler.submit("A", 4000, temperature=0) as request:
            assert next(request).kind == "prompt"
        last = [event for event in request][-1]
        assert last.finish == "cancelled" and request.finished and last.completion_tokens < 4000


def test_errors_come_as_exceptions_would(nano):
    with dsvk.Scheduler(nano, max_running=1, max_waiting=1, context=64) as scheduler:
        with pytest.raises(dsvk.LimitError):
            scheduler.submit([1] * 64)
        requests = [scheduler.submit("A", 60, temperature=0)]
        with pytest.raises(dsvk.BusyError):
            for _ in range(100):
                requests.append(scheduler.submit("A", 60, temperature=0))
        assert all([event for event in request][-1].finish in ("length", "context") for request in requests)


def test_closing_ends_requests_and_the_thread(nano):
    scheduler = dsvk.Scheduler(nano)
    request = scheduler.submit("A", 4000, temperature=0)
    next(request)
    scheduler.close()
    scheduler.close()
    with pytest.raises(dsvk.CancelledError):
        for _ in request:
            pass
    with pytest.raises(dsvk.StateError):
        scheduler.submit("A", 1)
    assert scheduler.closed and repr(scheduler) == "<dsvk.Scheduler closed>"
    assert not any(thread.name == "dsvk scheduler" for thread in threading.enumerate())


def test_closing_during_a_step_is_told_as_closing(nano):
    """Requests that the closing itself cancels, in a step that was under way, have not ended: they raise."""
    scheduler = dsvk.Scheduler(nano)
    driver, core = scheduler._driver, scheduler._driver.core
    stepping, closing = threading.Event(), threading.Event()

    class Slow:
        def step(self):
            stepping.set()
            closing.wait(60)
            return core.step()

        def __getattr__(self, name):
            return getattr(core, name)

        def cancel(self, *ids):
            core.cancel(*ids)
            closing.set()

    driver.core = Slow()
    request = scheduler.submit("A", 4000, temperature=0)
    assert stepping.wait(60)
    scheduler.close()
    with pytest.raises(dsvk.CancelledError, match="closed"):
        list(request)


def test_a_forgotten_scheduler_ends_its_thread(nano):
    scheduler = dsvk.Scheduler(nano)
    list(scheduler.submit("A", 2))
    gone = weakref.ref(scheduler)
    del scheduler
    gc.collect()
    assert gone() is None and not any(thread.name == "dsvk scheduler" for thread in threading.enumerate())


def test_A02_A03_after_close(device):
    model = dsvk.Model("nano", device=device)
    core = _dsvk.Scheduler(model)
    core.submit([1, 2], 2)
    model.close()                            # the library keeps the weights
    while core.step() > 0:
        pass
    assert core.events()[-1]["finish"] == "length"
    core.close()
    core.close()
    for use in (core.step, core.events, core.cancel, lambda: core.submit([1], 1), lambda: core.report):
        with pytest.raises(dsvk.StateError, match="the scheduler is closed"):
            use()
    with pytest.raises(dsvk.StateError):
        _dsvk.Scheduler(model)


def test_A10_exit_with_a_running_request(python):
    result = python("import dsvk\nscheduler = dsvk.Scheduler(dsvk.Model('nano'))\nrequest = scheduler.submit('A', 4000)\n"
                    "next(request)\nimport sys; sys.keep = request\n")
    assert result.returncode == 0 and result.stderr == "", result.stderr
