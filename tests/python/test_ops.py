"""Ops without a model, against formulas of the paper in numpy; tensors in and out; what wrong arguments say."""
import gc
import inspect
import re
import threading

import numpy as np
import pytest
from reference import E2M1, E4M3, E8M0, fq4, fq8, bf16, hadamard, sigmoid, softmax, top_k

import dsvk
from dsvk import Tensor, ops

HEADS, DH, DR, DI = 4, 128, 64, 32       # attention heads, their width, the rotated part, width of index heads


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def near(tensor, expected, tolerance=2e-6):
    """Every number within `tolerance` of the largest one: float32 sums of some hundred terms, in another order."""
    got = np.asarray(tensor, np.float64)
    assert got.shape == expected.shape and np.isfinite(got).all()
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def rms(x, eps=1e-6):
    return x / np.sqrt(np.mean(np.square(x, dtype=np.float64), -1, keepdims=True) + eps)


def turn(x, angle, direction=1):
    """RoPE on the last 2 * pairs values of [n, ..., d], pairs (2i, 2i + 1)."""
    dr, y = 2 * angle.shape[1], np.array(x, np.float64)
    angle = angle.reshape(angle.shape[0], *[1] * (x.ndim - 2), -1)
    cos, sin = np.cos(angle), direction * np.sin(angle)
    a, b = y[..., -dr::2].copy(), y[..., -dr + 1::2].copy()
    y[..., -dr::2], y[..., -dr + 1::2] = a * cos - b * sin, a * sin + b * cos
    return y


def angles(first, n, dim=DR, base=10000.0):
    f = np.float32(1) / (base ** (np.arange(0, dim, 2) / dim)).astype(np.float32)
    return (np.arange(first, first + n, dtype=np.float32)[:, None] * f).astype(np.float64)


@pytest.fixture(scope="module")
def table(device):
    return ops.rope_table(device, 600, DR)


# ---- weights ----

def fp8(rows, cols, seed=1):
    """Codes [rows, cols], ue8m0 scales per 128x128, and what they stand for."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 0x7e, (rows, cols), np.uint8) | rng.integers(0, 2, (rows, cols), np.uint8) << 7
    scales = rng.integers(118, 122, (-(-rows // 128), -(-cols // 128)), np.uint8)
    return codes, scales, E4M3[codes] * E8M0[scales].repeat(128, 0).repeat(128, 1)[:rows, :cols]


def fp4(rows, cols, seed=2):
    rng = np.random.default_rng(seed)
    codes, scales = rng.integers(0, 256, (rows, cols // 2), np.uint8), rng.integers(124, 128, (rows, cols // 32), np.uint8)
    return codes, scales, np.stack([E2M1[codes & 15], E2M1[codes >> 4]], -1).reshape(rows, cols) * E8M0[scales].repeat(32, 1)


def matrices(device, rows, cols):
    """name: the tensor and what it stands for, of every type weights can have."""
    plain = numbers(rows, cols)
    halves = (plain.view(np.uint32) >> 16).astype(np.uint16)
    f8, f4 = fp8(rows, cols), fp4(rows, cols)
    float_scales = f8[1].astype(np.float32) / 7
    return {
        "F32": (Tensor(plain, device, "matrix"), plain),
        "BF16": (Tensor(halves, device, "matrix", "BF16"), (halves.astype(np.uint32) << 16).view(np.float32)),
        "F8_E4M3": (Tensor(f8[0], device, "matrix", "F8_E4M3", f8[1]), f8[2]),
        "F8_E4M3 with F32": (Tensor(f8[0], device, "matrix", "F8_E4M3", float_scales),
                             E4M3[f8[0]] * float_scales.repeat(128, 0).repeat(128, 1)[:rows, :cols]),
        "F4": (Tensor(f4[0], device, "matrix", "F4", f4[1]), f4[2]),
    }


@pytest.mark.parametrize("n", [1, 70])
def test_matmul_of_every_type(device, n):
    x = numbers(n, 160)
    for name, (w, values) in matrices(device, 200, 160).items():
        assert w.dtype == name.split()[0] and w.shape == (200, 160)
        if n == 1:
            np.testing.assert_allclose(np.asarray(w), values, rtol=1e-7)     # reading weights decodes them
        near(ops.matmul(x, w), x.astype(np.float64) @ values.T, 2e-6 if n == 1 else 2e-3)   # many rows: perhaps in halves


def test_matmul_in_groups(device):
    x, w = numbers(3, 2 * 64), numbers(96 * 2 // 3 * 2, 64)
    out = np.concatenate([x[:, :64] @ w[:64].T, x[:, 64:] @ w[64:].T], 1)
    near(ops.matmul(x, Tensor(w, device, "matrix"), groups=2), out)


# ---- the small ones ----

def test_rms_norm(device):
    x, weight = numbers(3, 64), numbers(64)
    near(ops.rms_norm(Tensor(x, device), weight), weight * rms(x))


def test_rope_table_and_yarn(device, table):
    near(table, np.stack([np.cos(angles(0, 600)), np.sin(angles(0, 600))], -1), 1e-7)
    yarn = np.asarray(ops.rope_table(device, 1001, 64, base=160000, factor=16))
    np.testing.assert_allclose(yarn[1000, [1, 15]], [[-0.9384351, 0.3454556], [-0.8804689, -0.4741038]], atol=2e-7)


def test_rope(device, table):
    q = numbers(3, HEADS, DH)
    near(ops.rope(q, table, start=7), turn(rms(q), angles(7, 3)))


def cache_row(row):
    return np.concatenate([fq8(row[:, :-DR]), bf16(row[:, -DR:])], 1)


def test_quant_row(device, table):
    kv, weight = numbers(5, DH), numbers(DH)
    expected = turn(weight * rms(kv), angles(2, 5))
    near(ops.quant_row(kv, weight, table, start=2), expected)
    native = ops.quant_row(kv, weight, table, start=2, native=True)
    assert (native.form, native.dtype, native.shape) == ("rows", "F8_E4M3", (5, DH)) and native.nbytes < 5 * DH * 2
    flipped = np.abs(np.asarray(native) - cache_row(expected)) > 1e-6       # a value that fell on the other side of a rounding
    assert flipped.mean() < 0.01


def test_quant_index(device, table):
    iq = numbers(4, 2, 64)
    expected = hadamard(turn(iq, angles(3, 4)))
    near(ops.quant_index(iq, table, start=3), expected)
    assert (np.abs(np.asarray(ops.quant_index(iq, table, start=3, native=True)) - fq4(expected)) > 1e-6).mean() < 0.01


# ---- compressing and choosing ----

def compressed(ks, ape, norm, index=False):
    """4.6 in float64: the pooled entries, normalised and turned."""
    ratio, width, w = len(ape), len(norm), ape.shape[1]
    rows = []
    for j in range(len(ks) // ratio):
        k, s = ks[j * ratio:(j + 1) * ratio, :w], ks[j * ratio:(j + 1) * ratio, w:] + ape
        k, s = k[:, -width:], s[:, -width:]
        if ratio == 4 and j > 0:
            before = ks[(j - 1) * ratio:j * ratio]
            k, s = np.concatenate([before[:, :width], k]), np.concatenate([before[:, w:w + width] + ape[:, :width], s])
        rows.append((softmax(s.astype(np.float64), 0) * k).sum(0))
    turned = turn(norm * rms(np.array(rows)), angles(0, len(rows) * ratio)[::ratio])
    return hadamard(turned) if index else turned


@pytest.mark.parametrize("ratio", [4, 128])
def test_kv_compress(device, table, ratio):
    w = 2 * DH if ratio == 4 else DH
    ks, ape, norm = numbers(2 * ratio + 3, 2 * w), numbers(ratio, w), numbers(DH)
    expected = compressed(ks, ape, norm)
    near(ops.kv_compress(ks, ape, norm, table), expected)
    native = ops.kv_compress(ks, ape, norm, table, native=True)
    assert native.form == "rows" and native.shape == expected.shape
    assert (np.abs(np.asarray(native) - cache_row(expected)) > 1e-6).mean() < 0.02


def test_index_keys(device, table):
    ks, ape, norm = numbers(40, 4 * 64), numbers(4, 2 * 64), numbers(64)
    expected = compressed(ks, ape, norm, index=True)
    near(ops.kv_compress(ks, ape, norm, table, index=True), expected)
    native = ops.kv_compress(ks, ape, norm, table, index=True, native=True)
    assert (native.form, native.dtype) == ("keys", "F4")
    assert (np.abs(np.asarray(native) - fq4(expected)) > 1e-6).mean() < 0.02


@pytest.mark.parametrize("m", [10, 12])
def test_indexer_and_topk(device, m):
    n, start, k = 6, 4 * m - 6, 3
    iq, weights, keys = numbers(n, 2, DI), numbers(n, 2), numbers(m, DI)
    scores = ops.indexer(iq, weights, Tensor(keys, device), start=start)
    expected = np.einsum("nh,nhm->nm", weights.astype(np.float64), np.maximum(np.einsum("nhd,md->nhm", iq, keys), 0)) * (2 * DI) ** -0.5
    visible = np.arange(m) < (start + np.arange(n)[:, None] + 1) // 4
    got = np.asarray(scores)
    assert (np.isneginf(got) == ~visible).all()
    near(np.where(visible, got, 0), np.where(visible, expected, 0))
    chosen = [top_k(np.where(v, row, -np.inf), k) for v, row in zip(visible, got.astype(np.float64))]
    assert np.asarray(ops.topk(scores, k, start=start)).tolist() == np.array(chosen).tolist()


def test_topk_is_exact(device):
    """Of scores from anywhere: ties go to the lower index, NaN comes last, missing ones are -1."""
    scores = np.array([[1, 3, 3, np.nan, -2, 3, 0], [np.nan] * 6 + [-1e30], [5, 5, 5, 5, 5, 5, 5]], np.float32)
    idx = ops.topk(Tensor(scores, device), 2)
    assert idx.dtype == "I32" and np.asarray(idx).tolist() == [[1, 2], [0, 6], [0, 1]]
    assert np.asarray(ops.topk(Tensor(scores, device), 9))[0].tolist() == [0, 1, 2, 3, 4, 5, 6, -1, -1]
    long = numbers(2, 9001)
    assert np.asarray(ops.topk(Tensor(long, device), 700)).tolist() == [top_k(row.astype(np.float64), 700).tolist() for row in long]


def attention(q, kv, sink, first, window, rows_of):
    o = np.zeros(q.shape)
    for t in range(len(q)):
        pos = first + t
        rows = np.concatenate([kv[max(0, pos - window + 1):pos + 1], rows_of(t, pos)]).astype(np.float64)
        z = np.concatenate([q[t] @ rows.T * DH ** -0.5, sink[:, None]], 1)
        o[t] = softmax(z, 1)[:, :-1] @ rows
    return turn(o, angles(first, len(q)), -1)


@pytest.mark.parametrize("ratio", [0, 4, 7, 128])
def test_sparse_attention(device, table, ratio):
    m, n = 264, 5
    q, kv, sink, entries = numbers(n, HEADS, DH), numbers(m, DH), numbers(HEADS), numbers(m // (ratio or 1), DH)
    idx = np.array([[0, 5, 9], [1, 2, 3], [7, 8, 60], [0, 64, -1], [3, 4, -1]], np.int32) if ratio == 4 else None

    def rows_of(t, pos):
        if ratio == 4:
            return entries[[j for j in idx[t] if j >= 0]]
        return entries[:(pos + 1) // ratio if ratio else 0]
    expected = attention(q, kv, sink, m - n, 128, rows_of)
    extra = {"compressed": entries, "idx": idx, "ratio": ratio} if ratio else {}
    near(ops.sparse_attention(q, Tensor(kv, device), sink, table, **extra), expected)
    near(ops.sparse_attention(q, kv, sink, table, window=1, start=0), attention(q, kv, sink, 0, 1, lambda t, pos: entries[:0]))


def test_what_attention_makes_of_idx(device, table):
    """At positions 8 to 10 two entries are visible, and two numbers of idx are looked at."""
    q, kv, sink, entries = numbers(3, HEADS, DH), numbers(11, DH), numbers(HEADS), numbers(8, DH)
    idx, looked_at = np.array([[1, 1, 0], [2, -7, 0], [700, 0, 1]], np.int32), [[1, 1], [], [0]]
    o = ops.sparse_attention(q, Tensor(kv, device), sink, table, compressed=entries, idx=idx, ratio=4)
    near(o, attention(q, kv, sink, 8, 128, lambda t, pos: entries[looked_at[t]]))


def test_attention_over_native_rows(device, table):
    kv, q, sink = ops.quant_row(numbers(70, DH), np.ones(DH, np.float32), table, native=True), numbers(3, HEADS, DH), numbers(HEADS)
    near(ops.sparse_attention(q, kv, sink, table), attention(q, np.asarray(kv), sink, 67, 128, lambda t, pos: np.zeros((0, DH))))


# ---- more than one submit ----

def calls(report, name):
    return sum(op["calls"] for op in report["ops"] if op["name"] == name)


def test_D10_large_ops_run_in_slices(device):
    """Each of these would be guessed to take longer than a submit may; each kernel is one that looks at its workgroups differently."""
    w, x = numbers(512, 512), numbers(600, 512)
    with device.profile() as report:
        near(ops.matmul(x, Tensor(w, device, "matrix")), x.astype(np.float64) @ w.T.astype(np.float64), 2e-3)
    assert calls(report, "matmul") > 1
    n = 600
    q, kv, sink, longer = numbers(n, HEADS, DH), numbers(n, DH), numbers(HEADS), ops.rope_table(device, n, DR)
    with device.profile() as report:
        o = ops.sparse_attention(q, Tensor(kv, device), sink, longer)
    near(o, attention(q, kv, sink, 0, 128, lambda t, pos: kv[:0]))
    assert calls(report, "sparse_attn") > 1
    far = numbers(60000, DH)        # two rows with little in their window and much behind it
    with device.profile() as report:
        o = ops.sparse_attention(q[:2], Tensor(far, device), sink, ops.rope_table(device, len(far), DR), compressed=far, ratio=1, window=4)
    assert np.isfinite(np.asarray(o)).all() and calls(report, "sparse_attn") == 2
    X, norm, scale = numbers(1100, 4, 512), numbers(512), np.array([1, .5, 2], np.float32)
    fn, base = numbers(24, 2048) * np.float32(0.02), numbers(24) * np.float32(0.1)
    with device.profile() as report:
        out, _, post, comb = ops.hyper_connection(Tensor(X, device), fn, base, scale, norm)
    expected = site(X, fn, base, scale, norm)
    near(out, expected[0], 1e-5)
    near(post, expected[1], 1e-5)
    near(comb, expected[2], 2e-5)
    assert calls(report, "hyper_conn_mix") > 1


# ---- hyper-connections and experts ----

def site(X, fn, base, scale, norm):
    """4.3 and the norm behind it."""
    mix = rms(X.reshape(len(X), -1)) @ fn.T.astype(np.float64)
    pre = sigmoid(mix[:, :4] * scale[0] + base[:4]) + 1e-6
    out = norm * rms((pre[:, :, None] * X).sum(1))
    if len(base) == 4:
        return out, None, None
    comb = softmax((mix[:, 8:] * scale[2] + base[8:]).reshape(-1, 4, 4), 2) + 1e-6
    comb /= comb.sum(1, keepdims=True) + 1e-6
    for _ in range(19):
        comb /= comb.sum(2, keepdims=True) + 1e-6
        comb /= comb.sum(1, keepdims=True) + 1e-6
    return out, 2 * sigmoid(mix[:, 4:8] * scale[1] + base[4:8]), comb


@pytest.mark.parametrize("mixes", [24, 4])
def test_hyper_connection(device, mixes):
    X, norm, scale = numbers(3, 4, 64), numbers(64), np.array([1, .5, 2][:3 if mixes == 24 else 1], np.float32)
    fn, base = numbers(mixes, 256) * np.float32(0.1), numbers(mixes) * np.float32(0.1)
    out, none, post, comb = ops.hyper_connection(Tensor(X, device), fn, base, scale, norm)
    expected = site(X, fn, base, scale, norm)
    near(out, expected[0])
    assert none is None
    if mixes == 4:
        assert post is None and comb is None
        return
    near(post, expected[1])
    near(comb, expected[2], 1e-5)
    y = numbers(3, 2, 64)
    after = expected[1][:, :, None] * y.sum(1)[:, None] + np.einsum("njk,njd->nkd", expected[2], X)
    out, streams, _, _ = ops.hyper_connection(X, fn, base, scale, norm, y, post, comb)
    near(streams, after, 1e-5)
    near(out, site(after, fn, base, scale, norm)[0], 1e-5)


def network(x, w1, w3, w2, limit):
    a, b = x @ w1.T, x @ w3.T
    a, b = np.minimum(a, limit), np.clip(b, -limit, limit)
    return (a * sigmoid(a) * b) @ w2.T


@pytest.mark.parametrize("n, dtype", [(1, "F4"), (5, "F32"), (70, "F32")])
def test_moe(device, n, dtype):
    E, D, H, k, limit = 6, 64, 96, 3, 0.5
    x, gate, bias = numbers(n, D), numbers(E, D), numbers(E)
    if dtype == "F4":
        parts = [[fp4(*shape, seed=10 * e + i) for e in range(E)] for i, shape in enumerate([(H, D), (H, D), (D, H)])]
        codes, scales, (w1, w3, w2) = ([np.stack([one[what] for one in part]) for part in parts] for what in range(3))
        experts = Tensor(codes[0], device, "experts", "F4", scales[0], w3=codes[1], w3_scales=scales[1], w2=codes[2], w2_scales=scales[2])
    else:
        w1, w3, w2 = numbers(E, H, D, seed=1), numbers(E, H, D, seed=2), numbers(E, D, H, seed=3)
        experts = Tensor(w1, device, "experts", w3=w3, w2=w2)
    shared = [numbers(1, H, D, seed=4), numbers(1, H, D, seed=5), numbers(1, D, H, seed=6)]
    out, idx, weights = ops.moe(x, Tensor(gate, device, "matrix"), experts, bias, k=k, route_scale=1.5, limit=limit,
                                shared=Tensor(shared[0], device, "experts", w3=shared[1], w2=shared[2]))
    score = np.sqrt(np.logaddexp(0, x.astype(np.float64) @ gate.T))
    chosen = np.array([top_k(row, k) for row in score + bias])
    assert np.asarray(idx).tolist() == chosen.tolist()
    weight = np.take_along_axis(score, chosen, 1)
    weight *= 1.5 / weight.sum(1, keepdims=True)
    near(weights, weight)
    y = network(x.astype(np.float64), *(w[0] for w in shared), limit)
    for t in range(n):
        for e, factor in zip(chosen[t], weight[t]):
            y[t] += factor * network(x[t].astype(np.float64), w1[e], w3[e], w2[e], limit)
    near(out, y, 1e-5 if n < 64 else 2e-3)


def test_moe_by_tokens(device):
    w = [numbers(4, 32, 32), numbers(4, 32, 32, seed=1), numbers(4, 32, 32, seed=2)]
    experts, gate = Tensor(w[0], device, "experts", w3=w[1], w2=w[2]), Tensor(numbers(4, 32), device, "matrix")
    hashed, tokens = np.array([[0, 1], [2, 3], [3, 1]], np.int32), np.array([2, 0, 1], np.int32)
    _, idx, weights = ops.moe(numbers(3, 32), gate, experts, table=hashed, tokens=tokens)
    assert np.asarray(idx).tolist() == [[1, 3], [0, 1], [2, 3]]
    np.testing.assert_allclose(np.asarray(weights).sum(1), 1, rtol=1e-6)
    with pytest.raises(dsvk.InvalidError, match=r"tokens: number 1 is 3, the table has ids 0 to 2"):
        ops.moe(numbers(3, 32), gate, experts, table=hashed, tokens=np.array([0, 3, 0], np.int32))


# ---- tensors in and out ----

def test_sample_is_the_sampler_of_decoding(device):
    options = dict(temperature=1.2, top_k=40, top_p=0.95, min_p=0.01, seed=2**53 - 1)
    with dsvk.Model("nano", device=device) as model, model.session() as session:
        prompt = model.tokenizer.encode("ROMEO:")
        session.sync(prompt)
        for n in range(len(prompt), len(prompt) + 8):
            logits = Tensor(np.array([session.logits()]), device)
            chosen, = np.asarray(ops.sample(logits, start=n, **options))
            assert np.asarray(ops.sample(logits)) == [np.argmax(logits)]
            assert session.decode(1, **options) == [chosen]


def test_sample_draws_from_what_is_left(device):
    rows = 65535
    p = np.array([0.4, 0.1, 0.3, 0.2])
    logits = Tensor(np.tile(np.log(p).astype("f4"), (rows, 1)), device)

    def shares(**options):
        return np.bincount(np.asarray(ops.sample(logits, temperature=1, **options)), minlength=4) / rows

    def near(got, want):      # six standard deviations of a share
        assert (abs(got - want) <= 6 * np.sqrt(np.multiply(want, 1 - np.array(want)) / rows)).all(), got

    near(shares(seed=3), p)
    near(shares(top_k=2), [4 / 7, 0, 3 / 7, 0])
    near(shares(top_p=0.8), [4 / 9, 0, 3 / 9, 2 / 9])
    near(shares(min_p=0.6), [4 / 7, 0, 3 / 7, 0])
    draws = np.asarray(ops.sample(logits, temperature=1, seed=5))
    assert (np.asarray(ops.sample(Tensor(np.asarray(logits)[:9], device), temperature=1, seed=5, start=100)) == draws[100:109]).all()
    none = np.asarray(ops.sample(Tensor(np.array([[1, np.nan], [2, 1], [np.inf, 0]], "f4"), device)))
    assert none.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", "c8"])
def test_values_come_back(device, dtype):
    values = (np.arange(24).reshape(2, 3, 4) % 2 if dtype == "?" else np.arange(24).reshape(2, 3, 4)).astype(dtype)
    tensor = Tensor(values, device)
    back = np.asarray(tensor)
    assert back.dtype == values.dtype and (back == values).all() and tensor.shape == (2, 3, 4)
    array = tensor.read()
    assert (array.shape, len(array), array.tolist()) == ((2, 3, 4), 2, values.tolist())
    assert array[1][2].tolist() == values[1, 2].tolist()
    assert (np.from_dlpack(array) == values).all() and (np.from_dlpack(tensor) == values).all()


def test_no_copy_where_the_host_sees_the_memory(device):
    tensor = Tensor(numbers(5, 7), device)
    a, b = np.asarray(tensor), np.asarray(tensor.read())
    if device.info["type"] == "cpu":
        assert a.ctypes.data == b.ctypes.data == np.from_dlpack(tensor).ctypes.data
    assert not a.flags.writeable and not b.flags.writeable
    with pytest.raises(dsvk.BusyError, match="in use by an array"):
        tensor.close()
    del a, b
    gc.collect()
    tensor.close()
    with pytest.raises(dsvk.StateError, match="the tensor is closed"):
        tensor.read()


@pytest.mark.parametrize("of", [np.asarray, np.from_dlpack, memoryview, lambda row: np.from_dlpack(row[0])])
def test_rows_are_as_immutable_as_their_tensor(device, of):
    tensor = Tensor(np.arange(12, dtype="f4").reshape(1, 3, 4), device)
    with pytest.raises((ValueError, TypeError), match="read-only|readonly"):
        of(tensor.read()[0])[1, ...] = 99
    assert tensor.read().tolist() == np.arange(12).reshape(1, 3, 4).tolist()


def test_dlpack_copies_when_asked(device):
    values = numbers(3, 4)
    tensor, matrix = Tensor(values, device), Tensor(numbers(2, 32), device, "matrix")
    copy = np.from_dlpack(tensor, copy=True)
    copy[0] = 99
    assert copy[0, 0] == 99 and (np.from_dlpack(tensor.read(), copy=False) == values).all()
    if device.info["type"] == "cpu":
        assert (np.from_dlpack(tensor, copy=False) == values).all()
    with pytest.raises(BufferError, match="reading copies them"):
        np.from_dlpack(matrix, copy=False)
    assert np.from_dlpack(matrix, copy=True).tolist() == np.asarray(matrix).tolist()
    for wrong in ({"max_version": 3}, {"max_version": (1,)}, {"dl_device": "cpu"}):
        name, value = next(iter(wrong.items()))
        with pytest.raises(TypeError, match=re.escape(f"{name}: expected None or a tuple of two integers, got {value!r}")):
            tensor.__dlpack__(**wrong)


def test_the_other_small_float(device):
    """E5M2 is its bits in the buffer protocol, and itself by DLPack."""
    tensor = Tensor(np.array([0x3c, 0xc0], "u1"), device, dtype="F8_E5M2")       # 1 and -2
    assert np.asarray(tensor).dtype == np.uint8 and tensor.read().tolist() == [0x3c, 0xc0]
    with pytest.raises((BufferError, RuntimeError, TypeError, ValueError)):      # numpy has no such type, and says so
        np.from_dlpack(tensor)

    class Shared:
        def __dlpack__(self):
            return tensor.__dlpack__()
    assert Tensor(Shared(), device).dtype == "F8_E5M2"
    torch = pytest.importorskip("torch")
    assert torch.from_dlpack(tensor).float().tolist() == [1, -2]


def test_torch(device):
    torch = pytest.importorskip("torch")
    values = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    assert (np.asarray(Tensor(values, device)) == values.numpy()).all()
    assert torch.equal(torch.from_dlpack(Tensor(values, device)), values)
    halves = Tensor(torch.tensor([[0.5, -2.0] * 16]).bfloat16(), device, "matrix")
    assert halves.dtype == "BF16" and np.asarray(halves)[0, :2].tolist() == [0.5, -2.0]
    back = torch.from_dlpack(Tensor(torch.tensor([1.5, 2.0]).bfloat16(), device))
    assert back.dtype == torch.bfloat16 and back.tolist() == [1.5, 2.0]
    with pytest.raises(ValueError, match="contiguous"):
        Tensor(values.T, device)


def test_results_outlive_what_they_came_from(device):
    array = ops.rms_norm(Tensor(numbers(3, 32), device), np.ones(32, np.float32)).read()
    gc.collect()
    near(array, rms(numbers(3, 32)))


def test_ops_from_many_threads(device):
    w, x = Tensor(numbers(64, 64), device, "matrix"), numbers(4, 64)
    first, wrong = np.asarray(ops.matmul(x, w)).copy(), []

    def work():
        for _ in range(5):
            if not np.array_equal(np.asarray(ops.matmul(x, w)), first):
                wrong.append(1)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_left_behind(device):
    def use():
        w = Tensor(numbers(64, 64), device, "matrix")
        np.asarray(ops.matmul(numbers(2, 64), w))
        with pytest.raises(dsvk.InvalidError):
            ops.topk(numbers(2, 8), w)
        with pytest.raises(dsvk.InvalidError):
            ops.matmul(numbers(2, 32), w)
    use()
    before = {purpose: entry["used"] for purpose, entry in device.memory().items() if "used" in entry}
    use()
    assert {purpose: entry["used"] for purpose, entry in device.memory().items() if "used" in entry} == before


# ---- what is wrong is said ----

def networks(device):
    w = numbers(6, 32, 64)
    return Tensor(w, device, "experts", w3=w, w2=numbers(6, 64, 32))


WRONG = {
    "x: expected F32 values [n, width], got I32 values [2, 64]": lambda w, t: ops.matmul(numbers(2, 64).astype("i4"), w),
    "x: expected [n, 64] for 1 group of w's n_in = 64, got [2, 32]": lambda w, t: ops.matmul(numbers(2, 32), w),
    "x: expected [n, 128] for 2 groups of w's n_in = 64, got [2, 64]": lambda w, t: ops.matmul(numbers(2, 64), w, 2),
    "groups: n_out = 96 is to be a multiple of 32 for each of them": lambda w, t: ops.matmul(numbers(2, 128), w, 2),
    "w: expected a matrix [n_out, n_in], got F32 values [96, 64]": lambda w, t: ops.matmul(t, t),
    "groups: expected a whole number from 1 to 65536, got 1.5": lambda w, t: ops.matmul(numbers(2, 64), w, 1.5),
    "weight: expected F32 values [dim = 64], as in x, got F32 values [63]": lambda w, t: ops.rms_norm(t, numbers(63)),
    "x: expected F32 values [n, dim], got nothing": lambda w, t: ops.rms_norm(None, t),
    "x: expected F32 values [n, width], got F32 values [1, 1, 64]": lambda w, t: ops.matmul(numbers(1, 1, 64), w),
    "x: expected F32 values [n, width], got F32 values [64]": lambda w, t: ops.matmul(numbers(64), w),
    "table: it has the angles of 600 positions, 601 are needed":
        lambda w, t: ops.rope(numbers(1, 1, DH), t, start=600),
    'there is no op "nonsense"; there are matmul, ': lambda w, t: dsvk._dsvk.op(w.device, "nonsense", {}),
    'matmul: it has no argument "y"; it has x, w, groups': lambda w, t: dsvk._dsvk.op(w.device, "matmul", {"y": 1}),
    "groups: expected a number, got a tensor": lambda w, t: dsvk._dsvk.op(w.device, "matmul", {"groups": t}),
    "table: number 0 of row 1 is 7, there are experts 0 to 5":
        lambda w, t: ops.moe(numbers(2, 64), Tensor(numbers(6, 64), w.device, "matrix"), networks(w.device), k=2,
                             table=np.array([[0, 1], [7, 8]], np.int32), tokens=np.zeros(2, np.int32)),
    "table: number 1 of row 0 is -1, there are experts 0 to 5":
        lambda w, t: ops.moe(numbers(2, 64), Tensor(numbers(6, 64), w.device, "matrix"), networks(w.device), k=2,
                             table=np.array([[0, -1]], np.int32), tokens=np.zeros(2, np.int32)),
    "ratio: compressed entries need it, got 0":
        lambda w, t: ops.sparse_attention(numbers(8, 2, 64), Tensor(numbers(8, 64), w.device), numbers(2), numbers(8, 8, 2),
                                          compressed=numbers(1, 64)),
    "logits: expected at most 65535 rows of 16777216, got 65536 of 1":
        lambda w, t: ops.sample(Tensor(np.zeros((65536, 1), "f4"), w.device)),
    f"groups: expected a number that a double holds exactly, got {10**400}": lambda w, t: ops.matmul(numbers(2, 64), w, 10**400),
    "seed: expected a number that a double holds exactly, got 9007199254740993":
        lambda w, t: ops.sample(Tensor(numbers(1, 8), w.device), seed=2**53 + 1),
    "at least one argument has to be a dsvk.Tensor": lambda w, t: ops.topk(numbers(1, 4), 1),
    "compressed: the last row sees 2 entries at ratio 4, there are 1":
        lambda w, t: ops.sparse_attention(numbers(8, 2, 64), Tensor(numbers(8, 64), w.device), numbers(2), numbers(8, 8, 2),
                                          compressed=numbers(1, 64), idx=np.zeros((8, 1), np.int32), ratio=4),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_of_ops(device, table, message):
    w, t = Tensor(numbers(96, 64), device, "matrix"), Tensor(numbers(96, 64), device)
    with pytest.raises(dsvk.InvalidError, match=re.escape(message)):
        WRONG[message](w, table if "angles" in message else t)


@pytest.mark.parametrize("use, message", [
    (lambda w: ops.rope_table(None), "device: expected a dsvk.Device, got None"),
    (lambda w: ops.rope_table(5), "device: expected a dsvk.Device, got 5"),
    (lambda w: ops.matmul(numbers(2, 64), w, "x"), "groups: expected a tensor or a number, got 'x'"),
])
def test_wrong_types_of_ops(device, use, message):
    with pytest.raises(TypeError) as caught:
        use(Tensor(numbers(96, 64), device, "matrix"))
    assert str(caught.value) == message


def test_seeds_as_large_as_a_double_holds_them(device):
    assert 0 <= np.asarray(ops.sample(Tensor(numbers(1, 8), device), temperature=1.0, seed=2**53))[0] < 8


EXPERTS = dict(data=numbers(2, 64, 32), form="experts", w3=numbers(2, 64, 32), w2=numbers(2, 32, 64))
FP4_EXPERTS = dict(form="experts", dtype="F4", **{name: np.zeros(shape, "u1") for name, shape in {
    "data": (2, 64, 16), "scales": (2, 64, 1), "w3": (2, 64, 16), "w3_scales": (2, 64, 1), "w2": (2, 32, 32),
    "w2_scales": (2, 32, 2)}.items()})


@pytest.mark.parametrize("arguments, error, message", [
    (dict(data=numbers(3, 33), form="matrix"), ValueError, "n_in is a multiple of 32"),
    (dict(data=numbers(32), form="matrix"), ValueError, r"a matrix is \[n_out, n_in\], got 1 dimensions"),
    (dict(data=np.zeros((2, 32), "i4"), form="matrix"), ValueError, "weights are F32, BF16, F8_E4M3 or F4, got I32"),
    (dict(data=np.zeros((2, 32), "u1"), form="matrix", dtype="F8_E4M3"), ValueError, "a tensor of F8_E4M3 needs its scales"),
    (dict(data=np.zeros((256, 384), "u1"), form="matrix", dtype="F8_E4M3", scales=np.zeros((3, 2), "u1")), ValueError,
     r"scales: expected U8 \[2, 3\] to go with data \[256, 384\], got U8 \[3, 2\]"),
    (dict(data=np.zeros((256, 384), "u1"), form="matrix", dtype="F8_E4M3", scales=np.zeros(6, "f4")), ValueError,
     r"scales: expected F32 \[2, 3\] to go with data \[256, 384\], got F32 \[6\]"),
    (dict(data=np.zeros((2, 32), "u1"), form="matrix", dtype="F4", scales=np.zeros((2, 1), "u1")), ValueError,
     r"scales: expected U8 \[2, 2\] to go with data \[2, 32\], got U8 \[2, 1\]"),
    (dict(data=np.zeros((2, 16), "u1"), form="matrix", dtype="F4", scales=np.zeros((2, 1), "f4")), ValueError,
     "scales of F4 are F8_E8M0, got F32"),
    (dict(data=np.zeros((2, 32), "u1"), form="matrix", dtype="F8_E4M3", scales=np.zeros((1, 1), "i1")), ValueError,
     "scales of F8_E4M3 are F8_E8M0 or F32, got I8"),
    (dict(data=numbers(2, 32), form="matrix", scales=np.zeros((1, 1), "f4")), ValueError, "a tensor of F32 has no scales"),
    (dict(data=numbers(2, 32), scales=np.zeros((1, 1), "f4")), ValueError, "scales: values have none, got F32 with scales"),
    (dict(data=numbers(2, 32, 32), form="experts"), ValueError, r"data \(w1\), w3 and w2 must not be NULL"),
    (EXPERTS | dict(w3=numbers(1, 64, 32)), ValueError,
     r"w3: expected F32 \[2, 64, 32\] to go with data \[2, 64, 32\], got F32 \[1, 64, 32\]"),
    (EXPERTS | dict(w3=np.zeros((2, 64, 32), "i4")), ValueError, r"w3: expected F32 \[2, 64, 32\] .*, got I32 \[2, 64, 32\]"),
    (EXPERTS | dict(w3=np.zeros((2, 64, 16))), ValueError, r"w3: expected F32 \[2, 64, 32\] .*, got F64 \[2, 64, 16\]"),
    (EXPERTS | dict(w2=numbers(2, 64, 32)), ValueError,
     r"w2: expected F32 \[2, 32, 64\] to go with data \[2, 64, 32\], got F32 \[2, 64, 32\]"),
    (EXPERTS | dict(w2=numbers(64, 64)), ValueError, r"w2: expected F32 \[2, 32, 64\] .*, got F32 \[64, 64\]"),
    (FP4_EXPERTS | dict(w2=np.zeros((2, 64, 16), "u1")), ValueError, r"w2: expected U8 \[2, 32, 32\] .*, got U8 \[2, 64, 16\]"),
    (FP4_EXPERTS | dict(w2_scales=np.zeros((2, 64, 1), "u1")), ValueError, r"w2_scales: expected U8 \[2, 32, 2\] .*, got U8 \[2, 64, 1\]"),
    (FP4_EXPERTS | dict(w3_scales=np.zeros((2, 64, 1), "f4")), ValueError, r"w3_scales: expected U8 \[2, 64, 1\] .*, got F32 \[2, 64, 1\]"),
    (dict(data=numbers(2, 2), form="cube"), ValueError, "expected 'values', 'matrix' or 'experts', got 'cube'"),
    (dict(data=numbers(2, 2), dtype="F16"), ValueError, "F16 has 16 bits, the items of data have 32"),
    (dict(data=numbers(2, 2), dtype="I32"), ValueError, "the items of data are F32, which are no I32"),
    (dict(data=np.zeros((2, 2), "i4"), dtype="F32"), ValueError, "the items of data are I32, which are no F32"),
    (dict(data=np.zeros((2, 2), "f2"), dtype="BF16"), ValueError, "the items of data are F16, which are no BF16"),
    (dict(data=numbers(2, 2), dtype="F5"), ValueError, "expected a name such as 'F32'"),
    (dict(data=numbers(4, 4)[:, ::2]), ValueError, "data: expected contiguous rows, got a strided array"),
    (dict(data=numbers(1, 1, 1, 1, 1)), ValueError, "data: expected 1 to 4 dimensions, got 5"),
    (dict(data=np.zeros(3, "c16")), TypeError, "data: no dtype for items of 16 bytes with format 'Zd'"),
    (dict(data=3), TypeError, r"data: expected an array \(buffer protocol or DLPack\), got <class 'int'>"),
    (dict(data=None), TypeError, "data: expected an array that is not empty"),
    (dict(data=np.zeros((0, 3), "f4")), ValueError, "dimension 0 is 0"),
])
def test_A07_wrong_tensors(device, arguments, error, message):
    with pytest.raises(error, match=message):
        Tensor(device=device, **arguments)


@pytest.mark.parametrize("arguments", [EXPERTS, FP4_EXPERTS])
def test_what_the_wrong_ones_were_made_from_is_right(device, arguments):
    assert Tensor(device=device, **arguments).shape == (2, 64, 32)


def test_experts_cannot_be_read(device):
    w = numbers(1, 32, 32)
    with pytest.raises(BufferError, match="experts cannot be read"):
        Tensor(w, device, "experts", w3=w, w2=w).read()


def test_documentation_of_ops():
    assert "positions 1 to 16777216;" in ops.rope_table.__doc__ and "Arguments:" not in ops.rope_table.__doc__
    assert "device: the dsvk.Device" in ops.rope_table.__doc__ and "Either bias, or table with the tokens" in ops.moe.__doc__
    for function in (getattr(ops, op["name"]) for op in dsvk._dsvk.ops()):
        assert not re.search(r"e\+\d|: \.|; \.", function.__doc__), function.__doc__


def test_functions_are_those_of_the_engine():
    """Names, arguments and defaults of dsvk.ops are those of the table in the core."""
    table = {op["name"]: op for op in dsvk._dsvk.ops()}
    functions = {name: value for name, value in vars(ops).items() if inspect.isfunction(value) and name in table}
    assert functions.keys() == table.keys()
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters
        assert set(parameters) - {"device"} == {argument["name"] for argument in table[name]["arguments"]}
        for argument in table[name]["arguments"]:
            default = parameters[argument["name"]].default
            if "default" in argument and default is not inspect.Parameter.empty:
                assert float(default) == argument["default"], (name, argument["name"])
        assert table[name]["does"][:30] in " ".join(function.__doc__.split())
