"""The whole model against the float64 reference of reference.py, on two small random checkpoints that between them have every
kind of layer: logits at several chunk sizes, the MTP block, decoding alone and in a batch, going back, and every layout a
checkpoint may have.

Limits. d = |engine - reference| on the 32 largest logits of every position (logits have standard deviation about 2).
* f32 caches, no rounding anywhere: float32 arithmetic alone measured median 1.2e-6, 99th percentile 5e-6 on such models; the
  limits are ten times that, and every argmax must agree.
* native caches: an e4m3 step is 6 % of a value, so a difference of 1e-7 before quantising flips one code in some hundred
  thousand, and the rest of the run differs for real. Flips are rare: the median stays small while single rows move.
"""
import json
import os
import shutil
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest

import dsvk
from checkpoint import ODD, TINY, tokens, write_checkpoint
from reference import Model as Reference

N = 150           # one HCA entry (128), wrapped windows (64 and 37), index selection from position 36 on
LIMITS = {"f32": dict(median=1e-5, p99=5e-5, argmax=1.0), "native": dict(median=5e-3, p99=0.3, argmax=0.985)}
CONFIGS = {"tiny": TINY, "odd": ODD}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = {}
    for name, config in CONFIGS.items():
        out[name] = str(tmp_path_factory.mktemp(name))
        write_checkpoint(config, out[name], seed=1)
    return out


@pytest.fixture(scope="module")
def models(device, folders):
    opened = {}

    def get(name, cache):
        if (name, cache) not in opened:
            opened[name, cache] = dsvk.Model(folders[name], device=device, cache=cache, max_chunk=256)
        return opened[name, cache]
    yield get
    for model in opened.values():
        model.close()


@pytest.fixture(scope="module")
def expected(folders):
    """(tokens, logits [N, V], MTP logits [N, V] or None) of the reference."""
    known = {}

    def get(name, cache):
        if (name, cache) not in known:
            ids = tokens(1, CONFIGS[name]["vocab_size"], N)
            known[name, cache] = (ids,) + tuple(Reference(folders[name], cache_quant=cache == "native").evaluate(ids))
        return known[name, cache]
    return get


def distance(logits, want):
    best = np.argsort(-want, 1, kind="stable")[:, :32]
    return np.abs(np.take_along_axis(logits, best, 1) - np.take_along_axis(want, best, 1))


def check(logits, want, cache):
    d, limit = distance(logits, want), LIMITS[cache]
    same = (logits.argmax(1) == want.argmax(1)).mean()
    measured = f"median {np.median(d):.1e}, 99 % {np.quantile(d, 0.99):.1e}, largest {d.max():.1e}, same argmax {same:.4f}"
    print(measured)
    assert np.median(d) <= limit["median"] and np.quantile(d, 0.99) <= limit["p99"] and same >= limit["argmax"], measured


@pytest.mark.parametrize("chunk", [1, 7, 64, 150])
@pytest.mark.parametrize("cache", ["f32", "native"])
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_logits(models, expected, name, cache, chunk):
    ids, want, want_mtp = expected(name, cache)
    model = models(name, cache)
    with model.session(context=256, mtp=model.has_mtp) as s:
        if model.has_mtp:
            logits, mtp = (np.asarray(a) for a in s.evaluate(ids.tolist(), chunk=chunk, mtp=True))
            assert np.isnan(mtp[0]).all()      # the first token has no streams before it
            check(mtp[1:], want_mtp[1:], cache)
            assert np.array_equal(np.asarray(s.mtp_logits()).reshape(-1), mtp[-1])
        else:
            logits = np.asarray(s.evaluate(ids.tolist(), chunk=chunk))
        assert s.position == N
        check(logits, want, cache)
        assert np.array_equal(np.asarray(s.logits()).reshape(-1), logits[-1])


@pytest.mark.parametrize("cache", ["f32", "native"])
def test_chunk_invariance(models, cache):
    """Every op but attention works row by row with the same order of additions; attention's partial sums are cut differently in
    steps of 64 rows and more. So steps below 64 rows agree to the bit, larger ones to float32 rounding."""
    model, ids = models("tiny", cache), tokens(2, TINY["vocab_size"], 140).tolist()
    runs = {}
    for chunk in (1, 3, 50, 140):
        with model.session(context=256) as s:
            runs[chunk] = np.asarray(s.evaluate(ids, chunk=chunk)).copy()
    assert np.array_equal(runs[1], runs[3]) and np.array_equal(runs[1], runs[50])
    d = np.abs(runs[140] - runs[1])
    assert d.max() <= 1e-4 if cache == "f32" else np.median(d) <= LIMITS["native"]["median"]


def test_greedy(models, expected, folders):
    """64 tokens by argmax: each must be the reference's choice on the same prefix wherever its lead is 0.01 or more."""
    ids, _, _ = expected("tiny", "f32")
    model, prompt = models("tiny", "f32"), ids[:20].tolist()
    with model.session(context=256) as s:
        s.sync(prompt)
        out = s.decode(64, temperature=0)
        assert s.position == 84 and list(s.tokens) == prompt + out
    want, _ = Reference(folders["tiny"]).evaluate(np.array(prompt + out))
    for step, choice in enumerate(out):
        row = want[19 + step]
        assert choice == row.argmax() or row.max() - row[choice] < 0.01, f"step {step}"


@pytest.mark.parametrize("cache", ["f32", "native"])
def test_batch_invariance(models, cache):
    """Sessions decoded in one batch give bit for bit what each gives alone: tokens and logits."""
    model, V = models("tiny", cache), TINY["vocab_size"]
    prompts = [tokens(10 + i, V, n).tolist() for i, n in enumerate((1, 5, 33, 64, 129))]
    alone, together = [], [model.session(context=256) for _ in prompts]
    for prompt in prompts:
        with model.session(context=256) as s:
            s.sync(prompt)
            alone.append((s.decode(12, temperature=0.8, top_p=0.9, seed=7), np.asarray(s.logits()).copy()))
    for s, prompt in zip(together, prompts):
        s.sync(prompt)
    out = model.decode(together, 12, temperature=0.8, top_p=0.9, seed=7)
    for (ids, logits), got, s in zip(alone, out, together):
        assert got == ids
        assert np.array_equal(np.asarray(s.logits()), logits)
        s.close()


def test_stop_ids_in_a_batch(models):
    """A sequence that meets its stop ends there, the others go on."""
    model, V = models("tiny", "native"), TINY["vocab_size"]
    prompts = [tokens(30 + i, V, 8).tolist() for i in range(3)]

    def run(stop):
        sessions = [model.session(context=64) for _ in prompts]
        for s, prompt in zip(sessions, prompts):
            s.sync(prompt)
        return model.decode(sessions, 10, temperature=0, stop=stop), [s.position for s in sessions]
    free, _ = run([])
    stopped, positions = run([free[1][3]])
    for ids, got, position in zip(free, stopped, positions):
        want = ids[:ids.index(free[1][3]) + 1] if free[1][3] in ids else ids
        assert got == want and position == 8 + len(want)


@pytest.mark.parametrize("back", [1, 3, 8, 9, 60, 100])
def test_sync_goes_back(models, back):
    """Rolling back (up to 8 tokens by the rings' slack, beyond by rebuilding) and going another way equals, to the bit, a fresh session
    fed in the same cuts: what was kept and what is new when the rings are used, all at once when the cache is rebuilt."""
    model, V = models("tiny", "native"), TINY["vocab_size"]
    first, other = tokens(3, V, 135).tolist(), tokens(4, V, 20).tolist()
    with model.session(context=256, mtp=True) as s, model.session(context=256, mtp=True) as fresh:
        s.sync(first)
        s.sync(first[:len(first) - back] + other)
        if back <= 8:
            fresh.sync(first[:len(first) - back])
        fresh.sync(first[:len(first) - back] + other)
        assert list(s.tokens) == list(fresh.tokens)
        assert np.array_equal(np.asarray(s.logits()), np.asarray(fresh.logits()))
        assert np.array_equal(np.asarray(s.mtp_logits()), np.asarray(fresh.mtp_logits()))


def test_sync_to_where_it_is_or_was(models):
    model, ids = models("tiny", "f32"), tokens(5, TINY["vocab_size"], 40).tolist()
    with model.session(context=64) as s:
        s.sync(ids)
        whole = np.asarray(s.logits()).copy()
        s.sync(ids)
        assert np.array_equal(np.asarray(s.logits()), whole)
        s.sync(ids[:36])
        assert s.position == 36
        s.sync(ids)
        assert np.abs(np.asarray(s.logits()) - whole).max() <= 1e-4
        s.sync([])
        assert s.position == 0
        with pytest.raises(dsvk.Error) as e:
            s.logits()
        assert e.value.status == "STATE"


class Stop(Exception):
    pass


@pytest.mark.parametrize("rows", [5, 100])
def test_stopped_in_the_middle_of_a_step(models, rows):
    """A callback that raises between two submits of one chunk: the session still stands at its last whole chunk, whether the
    rings can take the lost rows back (5) or the timeline has to run again (100)."""
    model, ids, calls = models("tiny", "native"), tokens(11, TINY["vocab_size"], 150).tolist(), []

    def progress(stage, done, total):
        calls.append(done)
        if armed and done == 0:
            raise Stop
    armed = False
    with model.session(context=256, mtp=True, progress=progress) as s:
        s.sync(ids[:50])
        whole, mtp = np.asarray(s.logits()).copy(), np.asarray(s.mtp_logits()).copy()
        with model.session(context=256) as other:
            other.sync(list(range(250)))      # a long step: the next ones are cut into several submits
        calls.clear()
        armed = True
        try:
            s.evaluate(ids[50:50 + rows])
            pytest.skip("this device runs the whole step in one submit")
        except Stop:
            armed = False
        assert s.position == 50 and calls == [0]
        assert np.array_equal(np.asarray(s.logits()), whole) and np.array_equal(np.asarray(s.mtp_logits()), mtp)
        logits = np.asarray(s.evaluate(ids[50:])).copy()
    with model.session(context=256) as s:
        s.sync(ids[:50])
        assert np.array_equal(np.asarray(s.evaluate(ids[50:])), logits)


def test_pages_do_not_show(folders, device, models):
    """The same logits from pages of 128 tokens and of 512."""
    ids = tokens(6, ODD["vocab_size"], 280).tolist()
    with dsvk.Model(folders["odd"], device=device, page_tokens=128, max_chunk=256) as small:
        with small.session(context=1024) as a, models("odd", "native").session(context=1024) as b:
            assert np.array_equal(np.asarray(a.evaluate(ids, chunk=40)), np.asarray(b.evaluate(ids, chunk=40)))
            assert a.memory["pages"] > 0


@pytest.mark.parametrize("layout", [dict(unaligned=True), dict(shards=3), dict(hf_names=True)],
                         ids=lambda layout: next(iter(layout)))
def test_layouts_of_a_checkpoint(tmp_path, device, models, layout):
    """Odd offsets, shards with an index, the other spelling of names: the same values, so the same logits."""
    write_checkpoint(TINY, str(tmp_path), seed=1, **layout)
    ids = tokens(7, TINY["vocab_size"], 20).tolist()
    with dsvk.Model(str(tmp_path), device=device, max_chunk=256) as model:
        with model.session(context=64) as a, models("tiny", "native").session(context=64) as b:
            assert np.array_equal(np.asarray(a.evaluate(ids)), np.asarray(b.evaluate(ids)))


def test_f32_scales(tmp_path, device):
    """Base models scale FP8 blocks by float32 numbers that are no powers of two (2.5)."""
    write_checkpoint(TINY, str(tmp_path), seed=1, fp8_scale_dtype="F32")
    ids = tokens(7, TINY["vocab_size"], 40)
    want, _ = Reference(str(tmp_path)).evaluate(ids)
    with dsvk.Model(str(tmp_path), device=device, max_chunk=256, cache="f32") as model, model.session(context=64) as s:
        check(np.asarray(s.evaluate(ids.tolist())), want, "f32")


def test_million_positions_open(tmp_path, device):
    """A config that says 1M context costs what is used, not what is possible."""
    config = {**TINY, "max_position_embeddings": 1048576}
    write_checkpoint(config, str(tmp_path), seed=1)
    with dsvk.Model(str(tmp_path), device=device, max_chunk=64) as model, model.session() as s:
        assert s.context == 1048576
        s.sync(tokens(8, 512, 10).tolist())
        memory = s.memory
        plan = dsvk.plan(str(tmp_path), context=1048576)
        assert memory["pages"] == plan["page_bytes"]     # one page of 2,048


def test_ways_to_multiply_agree(folders):
    """A chunk gives the same logits with every way that this device has, to float32 rounding; of matrix units one shape. So do the
    steps behind it where weights have another layout."""
    ids, logits, after = tokens(13, TINY["vocab_size"], 150).tolist(), {}, {}
    with dsvk.Device() as own:
        ways = own.info["matmul_variants"]
        assert own.info["matmul"] in ways and ways[0] == "few"
    for way in ways[:5]:
        with dsvk.Device(matmul=way) as own, dsvk.Model(folders["tiny"], device=own, cache="f32") as model, \
                model.session(context=256) as s:
            assert own.info["matmul"] == way
            s.sync(ids)
            logits[way] = np.asarray(s.logits()).copy()
            if way in ("few", "columns"):
                after[way] = s.decode(2, temperature=0), np.asarray(s.logits()).copy()
    for way in ways[1:5]:
        assert np.abs(logits[way] - logits["few"]).max() < 2e-5, way
    for way in after:
        assert after[way][0] == after["few"][0] and np.abs(after[way][1] - after["few"][1]).max() < 2e-5, way
    with pytest.raises(dsvk.InvalidError, match="no such way.*few, "):
        dsvk.Device(matmul="no such way")


def test_index_scores_of_floats_and_of_bytes_are_the_same_bits():
    """In chunks and in single steps, behind more entries than are chosen."""
    found = {}
    for way in ("floats", "bytes"):
        with dsvk.Device(indexer=way) as own, dsvk.Model("nano", device=own) as model, model.session() as s:
            assert own.info["indexer"] == way
            s.sync(tokens(21, 2000, 300).tolist())
            chunk = np.asarray(s.logits()).copy()
            found[way] = chunk.tobytes(), s.decode(3, temperature=0), np.asarray(s.logits()).tobytes()
            found[way] += (bytes(model.trace(tokens(21, 2000, 200).tolist())["layers.4.indexer.scores"]),)
    assert found["floats"] == found["bytes"]
    with pytest.raises(dsvk.InvalidError, match='indexer "ints" is not among auto, floats, bytes'):
        dsvk.Device(indexer="ints")


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_matrix_units(folders, expected, name):
    """A chunk on cooperative matrices, products, index scores and attention over native rows, against the reference."""
    with dsvk.Device() as own:
        if not any(way.startswith("coopmat") for way in own.info["matmul_variants"]):
            pytest.skip("this device has no cooperative matrices")
    ids, want, _ = expected(name, "native")
    with dsvk.Device(matmul="coopmat", indexer="bytes") as own, dsvk.Model(folders[name], device=own, cache="native", max_chunk=256) as model, \
            model.session(context=256) as s:
        check(np.asarray(s.evaluate(ids.tolist(), chunk=N)), want, "native")


def test_plan_is_what_is_allocated(folders, device, models):
    model = models("tiny", "native")
    plan = dsvk.plan(folders["tiny"], context=256)
    used = model.report["device_bytes"]
    assert plan["purposes"]["weights"] == used
    assert [row["kind"] for row in plan["layers"]] == ["SWA", "CSA", "HCA", "CSA", "MTP"]
    with model.session(context=256) as s:
        s.sync(tokens(9, 512, 200).tolist())
        memory = s.memory
        assert memory["state"] == plan["session_state"] and memory["pages"] == plan["page_bytes"]


def test_plan_counts_scratch_as_it_grows(folders):
    """Scratch grows in powers of two: a chunk of 48 rows takes that of 64."""
    plan = dsvk.plan(folders["tiny"], context=96, max_chunk=48)
    with dsvk.Device() as own, dsvk.Model(folders["tiny"], device=own, max_chunk=48) as model, model.session(context=96) as s:
        s.sync(tokens(9, 512, 96).tolist())
        assert own.memory()["scratch"]["used"] == plan["purposes"]["scratch"]


@pytest.mark.parametrize("prompts", [(10,), (100,), (1030,), (10, 100, 50)], ids=["all unseen", "scored", "next class", "batch"])
def test_dispatches_of_a_token(models, device, prompts):
    """How many dispatches and submits decoded tokens take, once the model's recording is replayed: by the kind of layer, and
    sampling, moving on, embedding, the first site and the head. The indexer's are always there, and do nothing while every
    entry is visible; several sequences and later positions have no more of them."""
    per_layer = {"SWA": 8, "HCA": 8, "CSA": 10}
    model, n = models("tiny", "native"), 8
    kinds = Counter(row["kind"] for row in dsvk.plan(model.report["path"])["layers"] if row["kind"] != "MTP")
    with ExitStack() as stack:
        sessions = [stack.enter_context(model.session(context=1280)) for _ in prompts]
        for run in range(20):            # the first makes the recording; how many tokens a submit takes follows from measured time
            for s, prompt in zip(sessions, prompts):
                s.sync(tokens(12, 512, prompt).tolist())
            with device.profile() as profile:
                model.decode(sessions, n, temperature=0)
            if run > 0 and profile["submits"] < n:
                break
    assert profile["submits"] < n
    calls = {kind: sum(op["calls"] for op in profile["ops"] if op["part"] == kind) for kind in kinds}
    assert calls == {kind: n * count * per_layer[kind] for kind, count in kinds.items()}
    assert profile["dispatches"] == n * (sum(count * per_layer[kind] for kind, count in kinds.items()) + 1 + 1 + 3 + 2)
    assert sum(op["calls"] for op in profile["ops"] if op["name"] == "advance") == n


# ---- bad input that only the engine sees (spec/faults rows) ----

def edit(folder, change):
    """Rewrites a single-file checkpoint after change(header, data) -> data."""
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as f:
        raw = f.read()
    n = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:8 + n]), bytearray(raw[8 + n:])
    order = sorted((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"][0])
    tensors = {k: (header[k]["dtype"], header[k]["shape"], bytes(data[slice(*header[k]["data_offsets"])])) for k in order}
    change(tensors)
    at, out, body = 0, {}, b""
    for name, (dtype, shape, value) in tensors.items():
        out[name] = dict(dtype=dtype, shape=shape, data_offsets=[at, at + len(value)])
        body, at = body + value, at + len(value)
    text = json.dumps(out).encode()
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + body)


@pytest.fixture
def copy(folders, tmp_path):
    folder = str(tmp_path / "copy")
    shutil.copytree(folders["tiny"], folder)
    return folder


def refused(folder, device, status, *words, **options):
    """Opening fails with this status and a sentence that has these words; a good model still opens afterwards."""
    with pytest.raises(dsvk.Error) as e:
        dsvk.Model(folder, device=device, **options)
    assert e.value.status == status, str(e.value)
    for word in words:
        assert word in str(e.value), str(e.value)


def test_M10_missing_tensors(copy, device):
    def drop(tensors):
        for name in ("layers.1.attn.wkv.weight", "layers.2.ffn.gate.bias", "layers.0.ffn.experts.3.w2.scale", "norm.weight"):
            del tensors[name]
    edit(copy, drop)
    refused(copy, device, "FORMAT", "4 tensors are missing", "norm.weight", "...")


def test_M11_wrong_shape(copy, device):
    def reshape(tensors):
        dtype, shape, value = tensors["layers.1.attn.wo_b.weight"]
        tensors["layers.1.attn.wo_b.weight"] = (dtype, [shape[0] // 2, shape[1]], value[:len(value) // 2])
    edit(copy, reshape)
    refused(copy, device, "FORMAT", "layers.1.attn.wo_b.weight", "[128, 128]", "[64, 128]")


def test_M11_wrong_type(copy, device):
    def retype(tensors):
        dtype, shape, value = tensors["layers.1.attn.attn_sink"]
        tensors["layers.1.attn.attn_sink"] = ("F64", shape, value * 2)
    edit(copy, retype)
    refused(copy, device, "UNSUPPORTED", "layers.1.attn.attn_sink", "F64", "BF16 or F32")


def test_M12_extra_tensors(copy, device):
    def add(tensors):
        tensors["something.else"] = ("F32", [2], bytes(8))
    edit(copy, add)
    with dsvk.Model(copy, device=device) as model:
        assert model.report["ignored"] == 1
    refused(copy, device, "FORMAT", "something.else", strict=True)


@pytest.mark.parametrize("name,byte,at", [("layers.1.attn.wq_b.weight", 0x7F, 1000), ("layers.0.ffn.experts.0.w1.scale", 0xFF, 5),
                                          ("layers.2.attn_norm.weight", None, 3)])
def test_M15_non_finite_weights(copy, device, name, byte, at):
    def poison(tensors):
        dtype, shape, value = tensors[name]
        value = bytearray(value)
        if byte is None:
            value[2 * at:2 * at + 2] = b"\x80\x7f"          # BF16 infinity
        else:
            value[at] = byte
        tensors[name] = (dtype, shape, bytes(value))
    edit(copy, poison)
    with dsvk.Model(copy, device=device) as model, model.session(context=64) as s:    # D17: it loads, and says so when it runs
        s.sync(list(range(40)))
        with pytest.raises(dsvk.Error) as e:
            s.decode(1, temperature=0)
        assert e.value.status == "NUMERIC"
    refused(copy, device, "FORMAT", name, str(at), verify=True)
    with pytest.raises(dsvk.Error) as e:
        dsvk.verify(copy)
    assert name in str(e.value) and str(at) in str(e.value)


def test_parts_of_different_types(tmp_path, device):
    """w1 packed FP4 beside w3 in F32: both become F32, w1 with all of its scales (512 rows are read at once), and the model
    computes what it did."""
    def unpack(tensors):
        for name in [n for n in tensors if ".experts." in n and n.endswith("w3.weight")]:
            dtype, (rows, columns), value = tensors[name]
            codes, scales = np.frombuffer(value, "u1").reshape(rows, columns), tensors.pop(name[:-6] + "scale")[2]
            codes = np.stack([codes & 15, codes >> 4], -1).reshape(rows, 2 * columns)
            magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], "<f4")[codes & 7] * np.where(codes & 8, -1, 1)
            powers = np.exp2(np.frombuffer(scales, "u1").astype("<f4") - 127).reshape(rows, -1)
            weights = magnitudes * np.repeat(powers, 32, axis=1)
            tensors[name] = ("F32", [rows, 2 * columns], weights.astype("<f4").tobytes())
    ids, logits = tokens(13, 512, 40).tolist(), []
    write_checkpoint({**TINY, "moe_intermediate_size": 512}, str(tmp_path), seed=1)
    for change in (lambda tensors: None, unpack):
        edit(tmp_path, change)
        with dsvk.Model(tmp_path, device=device, cache="f32", max_chunk=64) as model, model.session(context=64) as s:
            logits.append(np.asarray(s.evaluate(ids)))
    assert np.abs(logits[0] - logits[1]).max() < 1e-3


def test_M20_rewritten_while_loading(copy, device):
    path = os.path.join(copy, "model.safetensors")

    def touch(stage, done, total):
        os.utime(path, (1, 1))
    refused(copy, device, "IO", "changed while loading", progress=touch)


def test_C08_config_against_tensors(copy, device):
    path = os.path.join(copy, "config.json")
    with open(path) as f:
        config = json.load(f)
    with open(path, "w") as f:
        json.dump({**config, "vocab_size": 640}, f)
    refused(copy, device, "FORMAT", "embed.weight", "[640, 128] by config.json", "[512, 128]")


def test_C10_does_not_fit(folders, device):
    with dsvk.Device(budgets={"weights": 100000}) as small:
        refused(folders["tiny"], small, "DEVMEM", "100000")
    with dsvk.Device(budgets={"cache": 3 << 20}) as small, dsvk.Model(folders["tiny"], device=small) as model:
        with pytest.raises(dsvk.Error) as e:
            sessions = [model.session(context=4096) for _ in range(64)]
            assert sessions
        assert e.value.status == "DEVMEM"


def test_hash_table_out_of_range(copy, device):
    def point_outside(tensors):
        dtype, shape, value = tensors["layers.0.ffn.gate.tid2eid"]
        tensors["layers.0.ffn.gate.tid2eid"] = (dtype, shape, (99).to_bytes(8, "little") + value[8:])
    edit(copy, point_outside)
    refused(copy, device, "FORMAT", "tid2eid", "99", "0 to 7")


def test_D17_non_finite_logits(copy, device):
    def poison(tensors):
        dtype, shape, value = tensors["norm.weight"]
        tensors["norm.weight"] = (dtype, shape, b"\xc0\x7f" * (len(value) // 2))
    edit(copy, poison)
    with dsvk.Model(copy, device=device) as model, model.session(context=64) as s:
        s.sync([1, 2, 3])
        with pytest.raises(dsvk.Error) as e:
            s.decode(1, temperature=0)
        assert e.value.status == "NUMERIC"


def test_T10_templates_code_and_pickles_are_never_opened_and_said_once(copy, device):
    names = ["chat_template.jinja", "tokenizer_config.json", "modeling_x.py", "pytorch_model.bin", "consolidated.pt", "a\nb.py"]
    for name in names:
        os.mkfifo(os.path.join(copy, name))      # who opens one waits
    with dsvk.Model(copy, device=device) as model:
        note, = [note for note in model.report["notes"] if "never opened" in note]
        assert all(name.replace("\n", "\\x0a") in note for name in names) and "README" not in note
    for i in range(100):
        open(os.path.join(copy, f"part_{i}.bin"), "w").close()
    with dsvk.Model(copy, device=device) as model:
        note, = [note for note in model.report["notes"] if "never opened" in note]
        assert len(note) < 400 and note.count(", ") + int(note.split()[-2]) == len(names) + 100 and note.endswith(" more")


def test_T11_more_tokens_than_context(models):
    with models("tiny", "native").session(context=16) as s:
        with pytest.raises(dsvk.Error) as e:
            s.sync(list(range(17)))
        assert e.value.status == "LIMIT" and "17" in str(e.value) and "16" in str(e.value)
        assert s.position == 0
