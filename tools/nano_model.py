"""The trainable model behind train_nano.py: the architecture in plain torch, written for CPUs and short sequences.

It computes what tests/python/reference.py spells out (numbers in brackets are its sections); tests/python/test_nano_model.py
compares the two. What makes it quick enough to train on a core or two:

* all experts are one wide product whose unused parts the routing weights set to zero, instead of a loop over experts;
* a row sees the window through blocks of its own and the previous 128 positions, so cost grows with length, not its square;
* what lies between the products is compiled (`fused`), and with `half` the products run in BF16 (AMX where there is one).

What training needs besides: quantisation in the loop (`as_exported`: the passes see the values an FP8/FP4 checkpoint can hold,
the optimiser updates the full-precision weights), and the two signals that the language-model loss does not give: the indexer
learns to rank compressed entries as the attention weighs them, and the router bias learns to keep the experts equally busy.

Weights are a dictionary under the names of nano_checkpoint. B sequences, n positions, N = B n, D hidden, H heads, C streams.
"""
import contextlib
import functools
import math

import torch
import torch.nn.functional as F

from nano_checkpoint import FP8_MAX, blank_weights, checkpoint_tensors, fake_fp4, fake_fp8, power_of_two, scale_exponent

NEVER = -1e30       # added to scores of what a row does not see


# ---------------------------------------------------------------------------------------------------------------
# What lies between the products. With `fused` these are compiled, once per shape. `dtype` is that of the products.
# ---------------------------------------------------------------------------------------------------------------

def rms(x, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def read_streams(X, fn, base, scale, norm, eps, hc_eps):
    """4.3, before the sublayer: X [N, C, D] -> post [N, C], comb before Sinkhorn [C source, C, N], normalised input [N, D]."""
    N, C, _ = X.shape
    flat = X.flatten(1)
    mix = F.linear(flat, fn) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + eps)
    pre = torch.sigmoid(mix[:, :C] * scale[0] + base[:C]) + hc_eps
    post = 2 * torch.sigmoid(mix[:, C:2 * C] * scale[1] + base[C:2 * C])
    comb = torch.softmax((mix[:, 2 * C:] * scale[2] + base[2 * C:]).view(N, C, C), -1) + hc_eps
    x = sum(pre[:, k, None] * X[:, k] for k in range(C))
    return post, comb.permute(1, 2, 0).contiguous(), rms(x, eps) * norm


def write_streams(X, post, comb, y):
    """4.3, after it: comb [C source, C destination, N], y [N, D] -> X' [N, C, D]."""
    y = y.float()
    return torch.stack([post[:, k, None] * y + sum(comb[j, k][:, None] * X[:, j] for j in range(X.shape[1]))
                        for k in range(X.shape[1])], 1)


def mix_head(X, fn, base, scale, norm, eps, hc_eps):
    """4.11: streams -> normalised hidden state [N, D]."""
    flat = X.flatten(1)
    mix = F.linear(flat, fn) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + eps)
    pre = torch.sigmoid(mix * scale + base) + hc_eps
    return rms((pre.unsqueeze(-1) * X).sum(1), eps) * norm


def rotate(x, cos, sin):
    """4.4: the last values of [..., d] in pairs (2i, 2i+1); cos and sin [..., pairs] broadcast."""
    plain = x.shape[-1] - 2 * cos.shape[-1]
    a, b = x[..., plain:].unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat([x[..., :plain], torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)], -1)


def low_rank(x, norm, eps, dtype):
    return (rms(x.float(), eps) * norm).to(dtype)


def normalise_heads(q, cos, sin, eps, dtype):
    """q [N, heads, d] -> each head normalised and rotated."""
    return rotate(rms(q.float(), eps), cos[:, None], sin[:, None]).to(dtype)


def rotate_heads(q, cos, sin, dtype):
    return rotate(q.float(), cos[:, None], sin[:, None]).to(dtype)


def cache_row(row, norm, cos, sin, eps, quantised, dtype):
    """[rows, d] -> normalised, rotated, and with `quantised` rounded as the caches hold it (FP8 but for the rotated tail)."""
    row = rotate(rms(row.float(), eps) * norm, cos, sin)
    if not quantised:
        return row.to(dtype)
    plain = row.shape[-1] - 2 * cos.shape[-1]
    with torch.no_grad():
        x = row[..., :plain].unflatten(-1, (-1, 64))
        scale = power_of_two(scale_exponent(x.abs().amax(-1, keepdim=True).clamp(min=1e-4), FP8_MAX))
        error = F.pad(((x / scale).to(torch.float8_e4m3fn).float() * scale - x).flatten(-2), (0, row.shape[-1] - plain))
    return (row + error).to(dtype)


def pool(K, S, bias, before, ratio):
    """4.6: K, S [N, w] -> pooled rows [N / ratio, d]. With ratio 4 the window before takes part, by its first half; `before`
    [N / ratio, 1, 1] is added to its scores: 0, or NEVER where a sequence begins."""
    K, S = K.float().unflatten(0, (-1, ratio)), S.float().unflatten(0, (-1, ratio)) + bias
    if ratio == 4:
        d = K.shape[-1] // 2
        K = torch.cat([F.pad(K[:-1, :, :d], (0, 0, 0, 0, 1, 0)), K[..., d:]], 1)
        S = torch.cat([F.pad(S[:-1, :, :d], (0, 0, 0, 0, 1, 0)) + before, S[..., d:]], 1)
    return (torch.softmax(S, 1) * K).sum(1)


def attention_weights(near, far, near_bias, far_bias, sink, scale, dtype):
    """4.8: scores of window rows [B, n, H, 2W] and of compressed rows [B, n, H, m] -> weights; the sink takes its share."""
    near = near.float() * scale + near_bias
    top = torch.maximum(near.amax(-1, keepdim=True), sink[:, None])
    if far is not None:
        far = far.float() * scale + far_bias
        top = torch.maximum(top, far.amax(-1, keepdim=True))
    top = top.detach()
    near, total = torch.exp(near - top), torch.exp(sink[:, None] - top)
    total = total + near.sum(-1, keepdim=True)
    if far is None:
        return (near / total).to(dtype), None
    far = torch.exp(far - top)
    total = total + far.sum(-1, keepdim=True)
    return (near / total).to(dtype), (far / total).to(dtype)


def expert_inner(both, weight, limit, dtype):
    """4.10: both [N, E, 2, I], weight [N, E] -> [N, E I]"""
    a, b = both[:, :, 0].float().clamp(max=limit), both[:, :, 1].float().clamp(-limit, limit)
    return (weight.unsqueeze(-1) * F.silu(a) * b).flatten(1).to(dtype)


class Sinkhorn(torch.autograd.Function):
    """x [C, C, N] positive -> columns and rows normalised alternately, columns first and last.

    Each step is y = x / (sum + eps); its gradient is (dy - sum(dy * y)) / (sum + eps), so y and the divisor are kept.
    """
    @staticmethod
    def forward(ctx, x, iterations, eps):
        kept = []
        for step in range(2 * iterations - 1):
            inverse = 1 / (x.sum(step % 2, keepdim=True) + eps)         # dimension 0 is the source stream
            x = x * inverse
            kept += [x, inverse]
        ctx.save_for_backward(*kept)
        return x

    @staticmethod
    def backward(ctx, g):
        kept, g = ctx.saved_tensors, g.contiguous()
        for step in reversed(range(len(kept) // 2)):
            y, inverse = kept[2 * step], kept[2 * step + 1]
            g = (g - (g * y).sum(step % 2, keepdim=True)) * inverse
        return g, None, None


PIECES = (read_streams, write_streams, mix_head, low_rank, normalise_heads, rotate_heads, cache_row, pool, attention_weights,
          expert_inner)


class Pieces:
    """The functions above, compiled or as they are."""

    def __init__(self, fused):
        if fused:
            torch._dynamo.config.recompile_limit = 64           # shapes per piece
        for piece in PIECES:
            setattr(self, piece.__name__, torch.compile(piece, dynamic=False) if fused else piece)


# ---------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------

class Nano:
    """weights: {name: tensor}. half: products in BF16. fused: compile what lies between them (every length takes a while)."""

    def __init__(self, config, half=False, fused=False):
        self.config, self.dtype, self.do = config, torch.bfloat16 if half else torch.float32, Pieces(fused)
        self.weights = blank_weights(config)
        for name, w in self.weights.items():
            w.requires_grad_(not name.endswith(("tid2eid", "e_score_correction_bias")))
        self.quantised, self.select_all, self.near_rows = False, False, config["sliding_window"]
        self.index_losses, self.expert_load = [], {}

    def parameters(self):
        return {name: w for name, w in self.weights.items() if w.requires_grad}

    def linear(self, x, name):
        return F.linear(x.to(self.dtype), self.weights[name].to(self.dtype))

    @functools.lru_cache(maxsize=64)
    def angles(self, B, n, step, ratio):
        """4.4: cos and sin [B n, pairs] of positions 0, step, 2 step ... of every sequence."""
        c, pairs = self.config, self.config["qk_rope_head_dim"] // 2
        f = 1 / (float(c["compress_rope_theta" if ratio else "rope_theta"]) ** (torch.arange(0, 2 * pairs, 2) / (2 * pairs)))
        yarn = c.get("rope_scaling")
        if ratio and yarn:
            turns = [2 * pairs * math.log(yarn["original_max_position_embeddings"] / (beta * 2 * math.pi))
                     / (2 * math.log(c["compress_rope_theta"])) for beta in (yarn["beta_fast"], yarn["beta_slow"])]
            low, high = max(math.floor(turns[0]), 0), min(math.ceil(turns[1]), 2 * pairs - 1)
            keep = 1 - ((torch.arange(pairs) - low) / (high - low or 0.001)).clamp(0, 1)
            f = f / yarn["factor"] * (1 - keep) + f * keep
        angle = ((torch.arange(n) * step).unsqueeze(1) * f).repeat(B, 1)
        return angle.cos(), angle.sin()

    @functools.lru_cache(maxsize=64)
    def biases(self, n, ratio, near_rows):
        """Of window rows [n / W, W, 1, 2W], of which the nearest are seen, and of compressed rows [n, 1, m]: 0, or NEVER."""
        W = self.config["sliding_window"]
        at = torch.arange(n).view(-1, W, 1)
        seen = at.view(-1, W)[:, :1, None] - W + torch.arange(2 * W)
        near = torch.where((seen >= 0) & (seen <= at) & (at - seen < near_rows), 0.0, NEVER).unsqueeze(2)
        if not ratio:
            return near, None
        return near, torch.where(torch.arange(n // ratio) < (torch.arange(n).unsqueeze(1) + 1) // ratio, 0.0, NEVER).unsqueeze(1)

    @functools.lru_cache(maxsize=64)
    def beginnings(self, B, m):
        """[B m, 1, 1]: NEVER for the first compressed row of every sequence, 0 for the others."""
        return torch.where(torch.arange(B * m) % m == 0, NEVER, 0.0).view(-1, 1, 1)

    def attention(self, x, shape, p, ratio):
        """x [N, D] -> [N, D]"""
        c, (B, n), w, W = self.config, shape, self.weights, self.config["sliding_window"]
        H, dh, G, eps = c["num_attention_heads"], c["head_dim"], c["o_groups"], c["rms_norm_eps"]
        cos, sin = self.angles(B, n, 1, ratio)
        x = x.to(self.dtype)
        qr = self.do.low_rank(self.linear(x, p + "q_a_proj.weight"), w[p + "q_a_norm.weight"], eps, self.dtype)
        q = self.do.normalise_heads(self.linear(qr, p + "q_b_proj.weight").view(B * n, H, dh), cos, sin, eps, self.dtype)
        kv = self.do.cache_row(self.linear(x, p + "kv_proj.weight"), w[p + "kv_norm.weight"], cos, sin, eps, self.quantised, self.dtype)
        blocks = kv.view(B, n // W, W, dh)
        rows = torch.cat([F.pad(blocks[:, :-1], (0, 0, 0, 0, 1, 0)), blocks], 2).view(-1, 2 * W, dh)
        near = (q.view(-1, W * H, dh) @ rows.mT).view(B, n // W, W, H, 2 * W)
        near_bias, far_bias = self.biases(n, ratio, self.near_rows)
        far = compressed = None
        if ratio:
            compressed = self.compress(x, shape, p + "compressor.", ratio)
            far = (q.view(B, n * H, dh) @ compressed.mT).view(B, n // W, W, H, -1)
            if ratio == 4:
                scores = self.index_scores(x.detach(), qr.detach(), shape, p + "compressor.indexer.")
                far_bias = self.selected(scores, far_bias)
            far_bias = far_bias.view(-1, n // W, W, 1, n // ratio)
        near, far = self.do.attention_weights(near, far, near_bias, far_bias, w[p + "sinks"], dh ** -0.5, self.dtype)
        o = near.view(-1, W * H, 2 * W) @ rows
        if ratio:
            o = o.view(B, n * H, dh) + far.view(B, n * H, -1) @ compressed
            if ratio == 4 and torch.is_grad_enabled():
                self.teach_indexer(scores, far.detach().view(B, n, H, -1))
        o = self.do.rotate_heads(o.view(B * n, H, dh), cos, -sin, self.dtype).view(B * n, G, -1)
        wo_a = w[p + "o_a_proj.weight"].view(G, -1, o.shape[-1]).to(self.dtype)
        u = (o.transpose(0, 1) @ wo_a.mT).transpose(0, 1).reshape(B * n, -1)
        return self.linear(u, p + "o_b_proj.weight")

    def compress(self, x, shape, p, ratio):
        """Compressed rows [B, n / ratio, d]"""
        B, n = shape
        K, S = (self.linear(x, p + name) for name in ("kv_proj.weight", "gate_proj.weight"))
        pooled = self.do.pool(K, S, self.weights[p + "position_bias"], self.beginnings(B, n // ratio), ratio)
        quantised = self.quantised and "indexer" not in p
        row = self.do.cache_row(pooled, self.weights[p + "kv_norm.weight"], *self.angles(B, n // ratio, ratio, ratio),
                                self.config["rms_norm_eps"], quantised, self.dtype)
        return row.view(B, n // ratio, -1)

    def index_scores(self, x, qr, shape, p):
        """4.7 -> [B, n, n / 4]. The Hadamard transform of the engines turns queries and keys alike: products stay."""
        (B, n), heads, d = shape, self.config["index_n_heads"], self.config["index_head_dim"]
        keys = self.compress(x, shape, p, 4)
        q = self.do.rotate_heads(self.linear(qr, p + "q_b_proj.weight").view(B * n, heads, d), *self.angles(B, n, 1, 4), self.dtype)
        weight = self.linear(x, p + "scorer.weights_proj.weight").view(B, n, heads, 1) * (d * heads) ** -0.5
        scores = (q.view(B, n * heads, d) @ keys.mT).view(B, n, heads, -1)
        return (F.relu(scores) * weight).sum(2).float()

    def selected(self, scores, far_bias):
        """far_bias [n, 1, m] and NEVER where an entry is not among the best [B, n, 1, m]. Ties may give a few more."""
        k = self.config["index_topk"]
        if self.select_all or scores.shape[-1] <= k:
            return far_bias
        scores = scores.detach() + far_bias.squeeze(1)
        floor = scores.topk(k, -1).values[..., -1:]
        return torch.where(scores >= floor, far_bias.squeeze(1), NEVER).unsqueeze(2)

    def teach_indexer(self, scores, weights):
        """Selection has no gradient: the softmax of the scores shall match the attention weights [B, n, H, m]."""
        target = weights.sum(2).float()
        target = target / target.sum(-1, keepdim=True).clamp(min=1e-9)
        guess = scores.masked_fill(target == 0, NEVER).log_softmax(-1)
        self.index_losses.append(-(target * guess.clamp(min=-100)).sum() / target.shape[:2].numel())

    def moe(self, x, ids, p, hashed):
        """4.10: x [N, D], ids [N] -> [N, D]"""
        c, w = self.config, self.weights
        E, I = c["n_routed_experts"], c["moe_intermediate_size"]
        score = F.softplus(F.linear(x, w[p + "gate.weight"])).sqrt()
        if hashed:
            chosen = w[p + "gate.tid2eid"][ids]
        else:
            chosen = (score + w[p + "gate.e_score_correction_bias"]).topk(c["num_experts_per_tok"], -1).indices
        taken = torch.zeros_like(score).scatter_(1, chosen, 1.0)
        if not hashed:
            self.expert_load[p] = taken.sum(0)
        weight = score * taken
        weight = weight * (c["routed_scaling_factor"] / weight.sum(-1, keepdim=True))
        weight = torch.cat([weight, torch.ones_like(weight[:, :1])], 1)                 # the shared expert is one more
        up = torch.cat([w[p + "experts.gate_up_proj"].view(-1, x.shape[1]), w[p + "shared_experts.gate_proj.weight"],
                        w[p + "shared_experts.up_proj.weight"]])
        down = torch.cat([w[p + "experts.down_proj"].permute(1, 0, 2).flatten(1), w[p + "shared_experts.down_proj.weight"]], 1)
        both = F.linear(x.to(self.dtype), up.to(self.dtype)).view(-1, E + 1, 2, I)
        return F.linear(self.do.expert_inner(both, weight, c["swiglu_limit"], self.dtype), down.to(self.dtype))

    def site(self, X, p, norm, sublayer):
        """4.3 around one sublayer."""
        c, w = self.config, self.weights
        post, comb, x = self.do.read_streams(X, w[p + "fn"], w[p + "base"], w[p + "scale"], w[norm], c["rms_norm_eps"], c["hc_eps"])
        comb = Sinkhorn.apply(comb, c["hc_sinkhorn_iters"], c["hc_eps"])
        return self.do.write_streams(X, post, comb, sublayer(x))

    def block(self, X, ids, shape, p, ratio, hashed):
        X = self.site(X, p + "attn_hc.", p + "input_layernorm.weight", lambda x: self.attention(x, shape, p + "self_attn.", ratio))
        return self.site(X, p + "ffn_hc.", p + "post_attention_layernorm.weight", lambda x: self.moe(x, ids, p + "mlp.", hashed))

    def hidden(self, X, p, norm):
        w, c = self.weights, self.config
        return self.do.mix_head(X, w[p + "hc_head.hc_fn"], w[p + "hc_head.hc_base"], w[p + "hc_head.hc_scale"], w[norm],
                                c["rms_norm_eps"], c["hc_eps"])

    def forward(self, ids, ahead=True):
        """ids [B, n], n a multiple of window and ratios -> hidden states for token t+1 and, with `ahead`, for token t+2 [B n, D]; rows
        of the latter at the end of a sequence mean nothing. `logits` makes logits of them."""
        self.index_losses, self.expert_load = [], {}
        c, w, shape, flat = self.config, self.weights, ids.shape, ids.flatten()
        embedding = w["model.embed_tokens.weight"][flat]
        X = embedding.unsqueeze(1).expand(-1, c["hc_mult"], -1).contiguous()
        for l in range(c["num_hidden_layers"]):
            X = self.block(X, flat, shape, f"model.layers.{l}.", c["compress_ratios"][l], l < c["num_hash_layers"])
        now = self.hidden(X, "model.", "model.norm.weight")
        if not ahead:
            return now, None
        p, eps = "mtp.0.", c["rms_norm_eps"]
        e = self.linear(rms(embedding.roll(-1, 0), eps) * w[p + "enorm.weight"], p + "e_proj.weight")
        h = self.linear(rms(X, eps) * w[p + "hnorm.weight"], p + "h_proj.weight")
        X = self.block((e.unsqueeze(1) + h).float(), flat, shape, p + "block.", 0, False)
        return now, self.hidden(X, p, p + "norm.weight")

    def logits(self, hidden):
        return self.linear(hidden, "lm_head.weight").float()

    @torch.no_grad()
    def evaluate(self, ids, ahead=True):
        """ids [B, n] of any length -> logits [B, n, V] and, with `ahead`, those of the token after the next."""
        n = ids.shape[1]
        padded = F.pad(ids, (0, -n % math.lcm(self.config["sliding_window"], *filter(None, self.config["compress_ratios"]))))
        return tuple(None if h is None else self.logits(h).view(*padded.shape, -1)[:, :n] for h in self.forward(padded, ahead))

    # ---- router ----

    def balance_experts(self, step):
        """Raises the selection bias of experts that got fewer tokens than the average, lowers the others."""
        for p, load in self.expert_load.items():
            self.weights[p + "gate.e_score_correction_bias"] += step * torch.sign(load.mean() - load)

    # ---- weights ----

    @torch.no_grad()
    def load_weights(self, state):
        assert self.weights.keys() == state.keys(), self.weights.keys() ^ state.keys()
        for name, value in state.items():
            self.weights[name].copy_(value)

    @contextlib.contextmanager
    def as_exported(self, active=True):
        """Inside, weights and rows hold the values that checkpoint and caches will hold; afterwards the weights are as before.

        Gradients computed inside belong to the rounded values and are applied to the full-precision weights.
        """
        if not active:
            yield
            return
        kinds = {t.torch: t.kind for t in checkpoint_tensors(self.config) if t.kind in ("FP8", "FP4")}
        saved = {}
        with torch.no_grad():
            for name, kind in kinds.items():
                saved[name] = self.weights[name].detach().clone()
                self.weights[name].copy_((fake_fp4 if kind == "FP4" else fake_fp8)(saved[name]))
        self.quantised = True
        try:
            yield
        finally:
            self.quantised = False
            with torch.no_grad():
                for name, value in saved.items():
                    self.weights[name].copy_(value)


# ---------------------------------------------------------------------------------------------------------------
# Initial values
# ---------------------------------------------------------------------------------------------------------------

@torch.no_grad()
def initialise(model, token_frequency, generator):
    """Fan-in scaled matrices; a small embedding; a head that begins as the embedding, so that what attention copies into the
    hidden state is what comes out; streams that start separate."""
    def normal(tensor, std):
        tensor.normal_(0, std, generator=generator)

    C, sites = model.config["hc_mult"], 0
    for name, w in model.weights.items():
        if name.endswith("tid2eid"):
            w.copy_(hash_table(token_frequency, model.config["n_routed_experts"], w.shape[1], generator))
        elif name.endswith("norm.weight"):
            w.fill_(1)
        elif name.endswith("_hc.base"):
            w.zero_()
            w[:C] = -1.0
            w[sites % C] = 1.0                                              # read mostly one stream, each time another
            normal(w[C:2 * C], 0.5)
            w[2 * C:] = 4.0 * torch.eye(C).flatten()                        # streams stay mostly where they are
            sites += 1
        elif name.endswith(("_hc.fn", "hc_head.hc_fn")):
            normal(w, 0.02)
        elif name.endswith(("_hc.scale", "hc_scale")):
            w.fill_(0.3)
        elif w.ndim >= 2 and not name.endswith("position_bias"):
            normal(w, 0.8 / math.sqrt(w.shape[-1]))
    normal(model.weights["model.embed_tokens.weight"], 0.1)
    model.weights["lm_head.weight"].copy_(model.weights["model.embed_tokens.weight"] * 0.5)


def hash_table(token_frequency, experts, active, generator):
    """[V, active] distinct experts per token: the least loaded so far, frequent tokens first, ties at random."""
    table = torch.zeros(len(token_frequency), active, dtype=torch.long)
    load = torch.rand(experts, generator=generator) * 1e-3
    for token in torch.argsort(token_frequency, descending=True).tolist():
        chosen = torch.argsort(load)[:active]
        table[token] = chosen
        load[chosen] += token_frequency[token].float() + torch.rand(active, generator=generator)
    return table
