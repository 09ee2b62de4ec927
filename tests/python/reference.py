"""The forward pass in float64 numpy: what the engine's logits are compared with.

    model = Model(directory)                        # exact arithmetic, no rounding anywhere ("smooth")
    model = Model(directory, cache_quant=True)      # rows and index keys as the native caches hold them, and index queries
    logits, drafts = model.evaluate(ids)            # [n, V] each; drafts[i]: MTP block, from the streams of i-1 and id i
    state = model.start(); model.forward(ids[:7], state); model.forward(ids[7:], state)     # in chunks, decode is a chunk of one

Written for reading, from the model's specification, whose section numbers are in brackets: every matrix is decoded exactly,
each token's attention is a loop over its own list of rows. Shapes use n = rows of the chunk, D hidden, H heads, dh head
size, 4 streams.
"""
import json
import math
import os

import numpy as np

# ---- number formats (3) ----

E4M3 = np.array([(-1) ** (c >> 7) * (c % 8 * 2.0 ** -9 if c >> 3 & 15 == 0 else (1 + c % 8 / 8) * 2.0 ** ((c >> 3 & 15) - 7))
                 for c in range(256)])
E4M3[[0x7F, 0xFF]] = math.nan
E8M0 = np.array([2.0 ** (b - 127) for b in range(255)] + [math.nan])
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
NUMPY = {"BF16": "<u2", "F32": "<f4", "F8_E4M3": "u1", "F8_E8M0": "u1", "I8": "u1", "I64": "<i8"}


def round_to(x, mantissa_bits, min_exponent, largest):
    """Nearest value of a small float format, ties to even."""
    x = np.clip(x, -largest, largest)
    step = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 1, min_exponent) - mantissa_bits)
    return np.rint(x / step) * step


def fake_quant(x, block, mantissa_bits, min_exponent, largest, floor):
    """Each block of the last dimension through a small float with a power-of-two scale (3.5, 3.6)."""
    y = x.reshape(x.shape[:-1] + (-1, block))
    z = np.maximum(np.abs(y).max(-1, keepdims=True), floor).astype(np.float32) * np.float32(1 / largest)
    mantissa, exponent = np.frexp(z)
    scale = np.ldexp(1.0, exponent - (mantissa == 0.5))           # 2^ceil(log2 z)
    return (round_to(y / scale, mantissa_bits, min_exponent, largest) * scale).reshape(x.shape)


def fq8(x):
    return fake_quant(x, 64, 3, -6, 448.0, 1e-4)


def fq4(x):
    return fake_quant(x, 32, 1, 0, 6.0, 6 * 2.0 ** -126)


def bf16(x):
    """Nearest BF16 value, ties to even (3.1)."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32).astype(x.dtype)


def hadamard(x):
    """Walsh-Hadamard transform of the last dimension, natural order, normalised (3.7)."""
    n, stride = x.shape[-1], 1
    y = x
    while stride < n:
        y = y.reshape(x.shape[:-1] + (-1, 2, stride))
        y = np.stack([y[..., 0, :] + y[..., 1, :], y[..., 0, :] - y[..., 1, :]], -2)
        stride *= 2
    return y.reshape(x.shape) * n ** -0.5


# ---- checkpoint (2) ----

class Weights:
    """Decoded tensors of a directory with native names, one shard or many; kept after first use."""

    def __init__(self, directory):
        index = os.path.join(directory, "model.safetensors.index.json")
        files = ["model.safetensors"]
        if os.path.exists(index):
            with open(index, encoding="utf-8") as f:
                files = sorted(set(json.load(f)["weight_map"].values()))
        self.stored, self.values = {}, {}
        for file in files:
            with open(os.path.join(directory, file), "rb") as f:
                data = f.read()
            start = 8 + int.from_bytes(data[:8], "little")
            for name, t in json.loads(data[8:start]).items():
                if name != "__metadata__":
                    begin, end = t["data_offsets"]
                    array = np.frombuffer(data[start + begin:start + end], NUMPY[t["dtype"]])
                    self.stored[name] = t["dtype"], array.reshape(t["shape"])

    def __call__(self, name):
        if name not in self.values:
            self.values[name] = self.decode(name)
        return self.values[name]

    def decode(self, name):
        dtype, values = self.stored[name]
        scale = name.removesuffix("weight") + "scale"
        if dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if dtype == "F8_E8M0":
            return E8M0[values]
        if dtype == "F8_E4M3":                                    # one scale per 128x128 block
            spread = self(scale).repeat(128, 0).repeat(128, 1)
            return E4M3[values] * spread[:values.shape[0], :values.shape[1]]
        if dtype == "I8":                                         # low nibble first, one scale per row and 32 inputs
            return np.stack([E2M1[values & 15], E2M1[values >> 4]], -1).reshape(len(values), -1) * self(scale).repeat(32, 1)
        return values if dtype == "I64" else values.astype(np.float64)


# ---- small functions ----

def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def top_k(scores, k):
    """The k largest, ties to the lower index, ascending."""
    return np.sort(np.argsort(-scores, kind="stable")[:k])


def rope_frequencies(c, ratio):
    """float32 [dr / 2] (4.4): layers that compress use the long base and YaRN."""
    dr, f32 = c["qk_rope_head_dim"], np.float32
    base, yarn = c["compress_rope_theta" if ratio else "rope_theta"], c.get("rope_scaling")
    f = f32(1) / (float(base) ** (np.arange(0, dr, 2) / dr)).astype(f32)
    if not ratio or not yarn:
        return f
    turns = [dr * math.log(yarn["original_max_position_embeddings"] / (beta * 2 * math.pi)) / (2 * math.log(base))
             for beta in (yarn["beta_fast"], yarn["beta_slow"])]
    low, high = max(math.floor(turns[0]), 0), min(math.ceil(turns[1]), dr - 1)
    keep = 1 - np.clip((np.arange(dr // 2, dtype=f32) - f32(low)) / f32(high - low or 0.001), f32(0), f32(1))
    return f / f32(yarn["factor"]) * (1 - keep) + f * keep


# ---- what a sequence keeps (4.12) ----

class Layer:
    """kv rows, K and S of every token, compressed rows and index keys. Nothing is thrown away: memory is no concern here."""

    def __init__(self):
        self.kv, self.rows, self.keys, self.pooling = [], [], [], {}


class State:
    def __init__(self, n_layers):
        self.position, self.draft_position = 0, 0
        self.layers, self.mtp = [Layer() for _ in range(n_layers)], Layer()
        self.streams = None                                       # of the last chunk, [n, 4, D]


# ---- the model (4) ----

class Model:
    def __init__(self, directory, cache_quant=False):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            self.c = json.load(f)
        self.w, self.cache_quant, self.eps = Weights(directory), cache_quant, self.c["rms_norm_eps"]
        self.frequencies = {ratio: rope_frequencies(self.c, ratio) for ratio in (0, 4, 128)}

    def start(self):
        return State(self.c["num_hidden_layers"])

    def linear(self, x, name):
        return x @ self.w(name + ".weight").T

    def rms(self, x):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.eps)

    def norm(self, x, name):
        """4.2"""
        return self.w(name + ".weight") * self.rms(x)

    def rope(self, x, pos, ratio, direction=1):
        """4.4 on the last dr values of [n, d] or [n, heads, d], pairs (2i, 2i+1); the angle is a float32 product."""
        dr = self.c["qk_rope_head_dim"]
        angle = (np.asarray(pos, np.float32)[:, None] * self.frequencies[ratio]).astype(np.float64)
        cos, sin = (f(angle).astype(np.float32).astype(np.float64) for f in (np.cos, np.sin))
        sin = direction * sin
        if x.ndim == 3:
            cos, sin = cos[:, None], sin[:, None]
        y, a, b = x.copy(), x[..., -dr::2], x[..., -dr + 1::2]
        y[..., -dr::2], y[..., -dr + 1::2] = a * cos - b * sin, a * sin + b * cos
        return y

    # hyper-connections (4.3)

    def mix(self, X, name):
        flat = X.reshape(len(X), -1)
        return self.rms(flat) @ self.w(name + "_fn").T

    def sinkhorn(self, comb):
        """[n, source, destination]; ends with a normalisation over sources."""
        eps = self.c["hc_eps"]
        comb = softmax(comb, 2) + eps
        comb /= comb.sum(1, keepdims=True) + eps
        for _ in range(self.c["hc_sinkhorn_iters"] - 1):
            comb /= comb.sum(2, keepdims=True) + eps
            comb /= comb.sum(1, keepdims=True) + eps
        return comb

    def site(self, X, prefix, name, sublayer):
        """HC-pre, the norm, the sublayer, HC-post."""
        hc = f"{prefix}hc_{name}"
        mix, scale, base = self.mix(X, hc), self.w(hc + "_scale"), self.w(hc + "_base")
        pre = sigmoid(mix[:, :4] * scale[0] + base[:4]) + self.c["hc_eps"]
        post = 2 * sigmoid(mix[:, 4:8] * scale[1] + base[4:8])
        comb = self.sinkhorn((mix[:, 8:] * scale[2] + base[8:]).reshape(-1, 4, 4))
        y = sublayer(self.norm((pre[:, :, None] * X).sum(1), f"{prefix}{name}_norm"))
        return post[:, :, None] * y[:, None] + np.einsum("njk,njd->nkd", comb, X)

    def head(self, X, prefix):
        """HC-head, norm, lm_head (4.11) -> [n, V]"""
        hc = prefix + "hc_head"
        pre = sigmoid(self.mix(X, hc) * self.w(hc + "_scale") + self.w(hc + "_base")) + self.c["hc_eps"]
        return self.linear(self.norm((pre[:, :, None] * X).sum(1), prefix + "norm"), "head")

    # compressor and indexer (4.6, 4.7)

    def compress(self, x, pos, prefix, pooling, ratio):
        """The entries that these rows complete, [m, d], and their positions. `pooling`: K and S of all tokens so far."""
        K, S = pooling.setdefault(prefix, ([], []))
        K.extend(self.linear(x, prefix + "wkv"))
        S.extend(self.linear(x, prefix + "wgate") + self.w(prefix + "ape")[pos % ratio])
        d, entries = len(self.w(prefix + "norm.weight")), np.arange(pos[0] // ratio, (pos[-1] + 1) // ratio)
        pooled = np.zeros((len(entries), d))
        for i, j in enumerate(entries):
            now, before = slice(j * ratio, (j + 1) * ratio), slice((j - 1) * ratio, j * ratio)
            k, s = (np.array(rows[now])[:, -d:] for rows in (K, S))
            if ratio == 4 and j > 0:                              # the window before, its first half of the channels
                k, s = (np.concatenate([np.array(rows[before])[:, :d], r]) for rows, r in ((K, k), (S, s)))
            pooled[i] = (softmax(s, 0) * k).sum(0)
        return self.rope(self.norm(pooled, prefix + "norm"), entries * ratio, ratio) if len(entries) else pooled

    def cache_row(self, row):
        """FQ8, and BF16 for the RoPE tail: the native format (1.7)."""
        dn = row.shape[1] - self.c["qk_rope_head_dim"]
        return np.concatenate([fq8(row[:, :dn]), bf16(row[:, dn:])], 1) if self.cache_quant and len(row) else row

    def index_values(self, v):
        return fq4(hadamard(v)) if self.cache_quant and len(v) else hadamard(v)

    def select(self, x, qr, pos, prefix, layer):
        """For every row the compressed entries its attention sees."""
        heads, d = self.c["index_n_heads"], self.c["index_head_dim"]
        layer.keys.extend(self.index_values(self.compress(x, pos, prefix + "compressor.", layer.pooling, 4)))
        q = self.linear(qr, prefix + "wq_b").reshape(len(x), heads, d)
        q = self.index_values(self.rope(q, pos, 4))
        weight = self.linear(x, prefix + "weights_proj") * (d * heads) ** -0.5
        chosen = []
        for t in range(len(x)):
            keys = np.array(layer.keys[:(pos[t] + 1) // 4]).reshape(-1, d)
            chosen.append(top_k((np.maximum(q[t] @ keys.T, 0) * weight[t][:, None]).sum(0), self.c["index_topk"]))
        return chosen

    # attention (4.5, 4.8, 4.9)

    def attention(self, x, pos, prefix, ratio, layer):
        c, p = self.c, prefix + "attn."
        H, dh, G = c["num_attention_heads"], c["head_dim"], c["o_groups"]
        qr = self.norm(self.linear(x, p + "wq_a"), p + "q_norm")
        q = self.rope(self.rms(self.linear(qr, p + "wq_b").reshape(len(x), H, dh)), pos, ratio)
        layer.kv.extend(self.cache_row(self.rope(self.norm(self.linear(x, p + "wkv"), p + "kv_norm"), pos, ratio)))
        if ratio:
            layer.rows.extend(self.cache_row(self.compress(x, pos, p + "compressor.", layer.pooling, ratio)))
        chosen = self.select(x, qr, pos, p + "indexer.", layer) if ratio == 4 else None
        o, sink = np.zeros_like(q), self.w(p + "attn_sink")
        for t, position in enumerate(pos):
            rows = layer.kv[max(0, position + 1 - c["sliding_window"]):position + 1]
            if ratio:
                entries = chosen[t] if ratio == 4 else range((position + 1) // ratio)
                rows = rows + [layer.rows[j] for j in entries]
            rows = np.array(rows)
            z = np.concatenate([q[t] @ rows.T * dh ** -0.5, sink[:, None]], 1)
            o[t] = softmax(z, 1)[:, :-1] @ rows                   # the sink's value is zero; K = V
        o = self.rope(o, pos, ratio, -1).reshape(len(x), G, -1)
        wo_a = self.w(p + "wo_a.weight").reshape(G, -1, o.shape[2])
        return self.linear(np.einsum("ngi,goi->ngo", o, wo_a).reshape(len(x), -1), p + "wo_b")

    # mixture of experts (4.10)

    def expert(self, x, name, weight):
        a, b, limit = self.linear(x, name + "w1"), self.linear(x, name + "w3"), self.c.get("swiglu_limit") or np.inf
        a, b = np.minimum(a, limit), np.clip(b, -limit, limit)
        return self.linear(weight * a * sigmoid(a) * b, name + "w2")

    def moe(self, x, ids, prefix, hashed):
        p, k = prefix + "ffn.", self.c["num_experts_per_tok"]
        score = np.sqrt(np.logaddexp(0, self.linear(x, p + "gate")))
        if hashed:
            chosen = self.w(p + "gate.tid2eid")[ids]
        else:
            chosen = np.array([top_k(row, k) for row in score + self.w(p + "gate.bias")])
        weight = np.take_along_axis(score, chosen, 1)
        weight *= self.c["routed_scaling_factor"] / weight.sum(1, keepdims=True)
        y = self.expert(x, p + "shared_experts.", 1.0)
        for e in np.unique(chosen):
            row, slot = np.nonzero(chosen == e)
            y[row] += self.expert(x[row], f"{p}experts.{e}.", weight[row, slot][:, None])
        return y

    # the whole

    def block(self, X, ids, pos, prefix, ratio, layer, hashed):
        X = self.site(X, prefix, "attn", lambda x: self.attention(x, pos, prefix, ratio, layer))
        return self.site(X, prefix, "ffn", lambda x: self.moe(x, ids, prefix, hashed))

    def forward(self, ids, state):
        """Appends ids to the sequence -> logits of each of their positions [n, V]."""
        ids, pos = np.asarray(ids), state.position + np.arange(len(ids))
        X = np.repeat(self.w("embed.weight")[ids][:, None], 4, 1)
        for l in range(self.c["num_hidden_layers"]):
            X = self.block(X, ids, pos, f"layers.{l}.", self.c["compress_ratios"][l], state.layers[l],
                           l < self.c["num_hash_layers"])
        state.position, state.streams = state.position + len(ids), X
        return self.head(X, "")

    def mtp(self, streams, next_ids, state):
        """4.13: rows of streams with the id that follows each -> logits of the token after it. For consecutive rows from 0."""
        ids, p = np.asarray(next_ids), "mtp.0."
        pos = state.draft_position + np.arange(len(ids))
        e = self.linear(self.norm(self.w("embed.weight")[ids], p + "enorm"), p + "e_proj")
        X = e[:, None] + self.linear(self.norm(streams, p + "hnorm"), p + "h_proj")
        state.draft_position += len(ids)
        return self.head(self.block(X, ids, pos, p, 0, state.mtp, False), p)

    def evaluate(self, ids, chunk=0):
        """-> logits [n, V] and MTP logits [n, V] (None without the block), whose row i comes from the streams of i - 1 and id
        i; row 0 is NaN."""
        state, chunk, logits, streams = self.start(), chunk or len(ids), [], []
        for i in range(0, len(ids), chunk):
            logits.append(self.forward(ids[i:i + chunk], state))
            streams.append(state.streams)
        logits, drafts = np.concatenate(logits), None
        if self.c["num_nextn_predict_layers"]:
            drafts = np.full_like(logits, np.nan)
            if len(ids) > 1:
                drafts[1:] = self.mtp(np.concatenate(streams)[:-1], ids[1:], state)
        return logits, drafts

    def greedy(self, ids, n):
        """n ids by argmax, lowest id on ties, and the lead of each over the runner-up."""
        state, out, leads = self.start(), [], []
        row = self.forward(ids, state)[-1]
        for _ in range(n):
            out.append(int(row.argmax()))
            leads.append(row[out[-1]] - np.partition(row, -2)[-2])
            row = self.forward(out[-1:], state)[-1]
        return np.array(out), np.array(leads)
