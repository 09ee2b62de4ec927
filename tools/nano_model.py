"""The trainable model behind train_nano.py: transformers' DeepseekV4ForCausalLM plus what training needs around it.

* an MTP block on top (transformers has none): it predicts the token after the next one from the four streams;
* a Sinkhorn normalisation with a hand-written gradient, because forty tiny autograd steps per site dominate otherwise;
* quantisation in the loop: the forward and backward pass see the values an FP8/FP4 checkpoint can hold, the optimiser
  updates the full-precision weights ("straight-through");
* the two training signals the language-model loss does not give: the indexer learns to rank compressed entries as the
  attention weighs them, and the router bias learns to keep the experts equally busy (no auxiliary loss).

The logits are those of the unchanged transformers classes.
"""
import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

from nano_checkpoint import FP8_MAX, checkpoint_tensors, fake_fp4, fake_fp8, power_of_two, scale_exponent


def transformers_config(config):
    """config.json as a dictionary -> the transformers object, without the weight quantisation it announces."""
    keep = {k: v for k, v in config.items() if k not in ("quantization_config", "expert_dtype", "torch_dtype")}
    made = DeepseekV4Config(**keep)
    made._attn_implementation = "eager"
    return made


# ---------------------------------------------------------------------------------------------------------------
# Hyper-connections: the same numbers as transformers, fewer and larger operations
# ---------------------------------------------------------------------------------------------------------------

class Sinkhorn(torch.autograd.Function):
    """x [4, 4, n] positive -> columns and rows normalised alternately, columns first and last.

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


def hyper_connection(self, streams):
    """Replaces DeepseekV4HyperConnection.forward.

    streams [b, s, 4, D] -> post [b, s, 4], comb [b, s, 4, 4], x [b, s, D]
    """
    b, s, hc, _ = streams.shape
    with torch.autocast("cpu", enabled=False):
        mix = F.linear(self.input_norm(streams.flatten(2)), self.fn)
    pre, post, comb = mix.split([hc, hc, hc * hc], -1)
    pre_base, post_base, comb_base = self.base.split([hc, hc, hc * hc])
    pre = torch.sigmoid(pre * self.scale[0] + pre_base) + self.hc_eps
    post = 2 * torch.sigmoid(post * self.scale[1] + post_base)
    comb = torch.softmax((comb * self.scale[2] + comb_base).view(b * s, hc, hc), -1) + self.hc_eps
    comb = Sinkhorn.apply(comb.permute(1, 2, 0).contiguous(), self.hc_sinkhorn_iters, self.hc_eps)
    comb = comb.permute(2, 1, 0).contiguous().view(b, s, hc, hc).mT     # the layer multiplies by its transpose
    return post, comb, (pre.unsqueeze(-2) @ streams).squeeze(-2)


def index_scores(self, q, keys, hidden):
    """Replaces DeepseekV4IndexerScorer.forward: q [b, s, heads, d], keys [b, t, d] -> [b, s, t] in one product per sequence."""
    b, s, heads, d = q.shape
    scores = F.relu(q.reshape(b, s * heads, d) @ keys.mT) * self.softmax_scale
    weights = self.weights_proj(hidden) * self.weights_scaling
    return (weights.unsqueeze(-2) @ scores.view(b, s, heads, -1)).squeeze(-2)


# ---------------------------------------------------------------------------------------------------------------
# Multi-token prediction
# ---------------------------------------------------------------------------------------------------------------

class Mtp(nn.Module):
    """Streams after the last layer at position t and the embedding of token t+1 -> hidden state for token t+2.

    One sliding-window, score-routed decoder layer with its own head mixing and norm; embedding and lm_head are shared.
    """
    def __init__(self, config):
        super().__init__()
        one_layer = transformers_config({**config, "num_hidden_layers": 1, "num_hash_layers": 0, "compress_ratios": [0, 0]})
        D, eps = one_layer.hidden_size, one_layer.rms_norm_eps
        self.e_proj, self.h_proj = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.enorm, self.hnorm = v4.DeepseekV4RMSNorm(D, eps), v4.DeepseekV4RMSNorm(D, eps)
        self.block = v4.DeepseekV4DecoderLayer(one_layer, 0)
        self.hc_head, self.norm = v4.DeepseekV4HyperHead(one_layer), v4.DeepseekV4RMSNorm(D, eps)

    def forward(self, streams, next_embedding, **positions):
        x = self.e_proj(self.enorm(next_embedding)).unsqueeze(2) + self.h_proj(self.hnorm(streams))
        return self.norm(self.hc_head(self.block(x.float(), **positions)))


# ---------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------

class Nano(nn.Module):
    def __init__(self, config, dropout=0.0, half=False):
        super().__init__()
        self.config, self.half = config, half
        self.main = DeepseekV4ForCausalLM(transformers_config(config))
        self.mtp = nn.ModuleList(Mtp(config) for _ in range(config["num_nextn_predict_layers"]))
        self.dropout, self.cache_quant = dropout, False
        self.index_losses, self.expert_load = [], {}
        for module in self.modules():
            if isinstance(module, v4.DeepseekV4HyperConnection):
                module.forward = hyper_connection.__get__(module)
            elif isinstance(module, v4.DeepseekV4IndexerScorer):
                module.forward = index_scores.__get__(module)
            elif isinstance(module, v4.DeepseekV4DecoderLayer):
                module.self_attn.register_forward_hook(lambda m, args, out: (self.drop(out[0]), out[1]))
                module.mlp.register_forward_hook(lambda m, args, out: self.drop(out))
                module.self_attn.kv_norm.register_forward_hook(self.quantise_rows)
            elif isinstance(module, (v4.DeepseekV4HCACompressor, v4.DeepseekV4CSACompressor)):
                module.kv_norm.register_forward_hook(self.quantise_rows)
            elif isinstance(module, v4.DeepseekV4TopKRouter):
                module.register_forward_hook(self.count_experts)
            if isinstance(module, v4.DeepseekV4Attention) and module.layer_type == "compressed_sparse_attention":
                self.teach_indexer(module)

    # ---- forward ----

    def forward(self, ids):
        """ids [b, s] -> logits of token t+1 [b, s, V], logits of token t+2 [b, s-1, V] (None without an MTP block).

        With `half`, matrix products of a training step run in BF16; everything between them stays in float32.
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half and self.training):
            logits, ahead = self.predict(ids)
        return logits.float(), None if ahead is None else ahead.float()

    def predict(self, ids):
        self.index_losses, self.expert_load = [], {}
        main = self.main.model
        embedding, positions = main.embed_tokens(ids), self.positions(*ids.shape)
        streams = embedding.unsqueeze(2).expand(-1, -1, self.config["hc_mult"], -1).contiguous()
        for layer in main.layers:
            streams = layer(streams, input_ids=ids, **positions)
        logits = self.main.lm_head(main.norm(main.hc_head(streams)))
        if not self.mtp:
            return logits, None
        ahead = self.mtp[0](streams[:, :-1], embedding[:, 1:], **self.positions(ids.shape[0], ids.shape[1] - 1))
        return logits, self.main.lm_head(ahead)

    def positions(self, batch, n):
        """RoPE tables and the additive sliding-window mask for positions 0 .. n-1."""
        pos = torch.arange(n).unsqueeze(0)
        distance = pos.T - pos
        seen = (distance >= 0) & (distance < self.config["sliding_window"])
        mask = torch.zeros(1, 1, n, n).masked_fill(~seen, -math.inf).expand(batch, -1, -1, -1)
        rope, like = self.main.model.rotary_emb, torch.zeros(())
        tables = {kind: rope(like, position_ids=pos, layer_type=kind) for kind in ("main", "compress")}
        return dict(position_embeddings=tables, position_ids=pos, attention_mask=mask, past_key_values=None)

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training)

    # ---- cache rows as the engines store them ----

    def quantise_rows(self, module, args, row):
        """FP8 with one scale per 64 values on all but the RoPE tail; the rotation does not touch those values."""
        if not self.cache_quant:
            return row
        plain = row.shape[-1] - self.config["qk_rope_head_dim"]
        with torch.no_grad():
            x = row[..., :plain].unflatten(-1, (-1, 64))
            scale = power_of_two(scale_exponent(x.abs().amax(-1, keepdim=True).clamp(min=1e-4), FP8_MAX))
            error = F.pad(((x / scale).to(torch.float8_e4m3fn).float() * scale - x).flatten(-2), (0, row.shape[-1] - plain))
        return row + error

    # ---- indexer ----

    def teach_indexer(self, attention):
        """Top-k selection has no gradient: match the softmax of the index scores to the attention weights instead."""
        indexer, seen = attention.compressor.indexer, {}

        def detach_inputs(module, args):
            return (args[0].detach(), args[1].detach()) + args[2:]

        def keep_scores(module, args, scores):
            seen["scores"] = scores

        def compare(module, args, out):
            if not self.training:
                return
            scores = seen.pop("scores").float()
            target = out[1][..., -scores.shape[-1]:].detach().float().sum(1)              # over heads; 0 = not attended
            target = target / target.sum(-1, keepdim=True).clamp(min=1e-9)
            guess = scores.masked_fill(target == 0, -1e9).log_softmax(-1)
            self.index_losses.append(F.kl_div(guess, target, reduction="sum") / target.shape[:2].numel())

        indexer.register_forward_pre_hook(detach_inputs)
        indexer.scorer.register_forward_hook(keep_scores)
        attention.register_forward_hook(compare)

    def select_all(self, everything):
        """Before the indexer has learnt anything, attention sees every compressed entry."""
        for module in self.modules():
            if isinstance(module, v4.DeepseekV4Indexer):
                module.index_topk = 1 << 30 if everything else self.config["index_topk"]

    # ---- router ----

    def count_experts(self, module, args, out):
        self.expert_load[module] = torch.bincount(out[2].flatten(), minlength=module.num_experts)

    def balance_experts(self, step):
        """Raises the selection bias of experts that got fewer tokens than the average, lowers the others."""
        for router, load in self.expert_load.items():
            load = load.float()
            router.e_score_correction_bias += step * torch.sign(load.mean() - load)

    # ---- weights ----

    def named_weights(self):
        """State under the names of nano_checkpoint."""
        state = self.main.state_dict()
        state.update({f"mtp.{name}": value for name, value in self.mtp.state_dict().items()})
        return state

    def load_weights(self, state):
        own = self.named_weights()
        assert own.keys() == state.keys(), own.keys() ^ state.keys()
        for name, value in state.items():
            own[name].copy_(value)

    def quantised_weights(self):
        """{name: kind} of the weights stored as FP8 or FP4; stacked experts appear once."""
        return {t.torch: t.kind for t in checkpoint_tensors(self.config) if t.kind in ("FP8", "FP4")}

    @contextlib.contextmanager
    def as_exported(self, active=True):
        """Inside, the weights hold the values the checkpoint will hold; afterwards the full-precision ones are back.

        Gradients computed inside belong to the rounded values and are applied to the full-precision weights.
        """
        if not active:
            yield
            return
        state = self.named_weights()
        saved = {}
        with torch.no_grad():
            for name, kind in self.quantised_weights().items():
                saved[name] = state[name].clone()
                state[name].copy_((fake_fp4 if kind == "FP4" else fake_fp8)(saved[name]))
        self.cache_quant = True
        try:
            yield
        finally:
            self.cache_quant = False
            with torch.no_grad():
                for name, value in saved.items():
                    state[name].copy_(value)


# ---------------------------------------------------------------------------------------------------------------
# Initial values
# ---------------------------------------------------------------------------------------------------------------

@torch.no_grad()
def initialise(model, token_frequency, generator):
    """Fan-in scaled matrices; an embedding small enough for the first sublayers to matter; streams that start separate."""
    def normal(tensor, std):
        tensor.normal_(0, std, generator=generator)

    for name, p in model.named_parameters():
        if p.ndim >= 2:
            normal(p, 0.8 / math.sqrt(p.shape[-1]))
    normal(model.main.model.embed_tokens.weight, 0.1)
    normal(model.main.lm_head.weight, 0.02)
    sites = [m for m in model.modules() if isinstance(m, v4.DeepseekV4HyperConnection)]
    for i, site in enumerate(sites):
        hc = site.hc_mult
        normal(site.fn, 0.02)
        site.scale.fill_(0.3)
        site.base.zero_()
        site.base[:hc] = -1.0
        site.base[i % hc] = 1.0                                             # read mostly one stream, each time another
        normal(site.base[hc:2 * hc], 0.5)
        site.base[2 * hc:] = 4.0 * torch.eye(hc).flatten()                  # streams stay mostly where they are
    for module in model.modules():
        if isinstance(module, v4.DeepseekV4HyperHead):
            normal(module.hc_fn, 0.02)
            module.hc_scale.fill_(0.3)
            module.hc_base.zero_()
        elif isinstance(module, v4.DeepseekV4Attention):
            module.sinks.zero_()
        elif isinstance(module, (v4.DeepseekV4HCACompressor, v4.DeepseekV4CSACompressor, v4.DeepseekV4Indexer)):
            module.position_bias.zero_()
        elif isinstance(module, v4.DeepseekV4HashRouter):
            module.tid2eid.copy_(hash_table(token_frequency, module.num_experts, module.top_k, generator))


def hash_table(token_frequency, experts, active, generator):
    """[V, active] distinct experts per token: the least loaded so far, frequent tokens first, ties at random."""
    table = torch.zeros(len(token_frequency), active, dtype=torch.long)
    load = torch.rand(experts, generator=generator) * 1e-3
    for token in torch.argsort(token_frequency, descending=True).tolist():
        chosen = torch.argsort(load)[:active]
        table[token] = chosen
        load[chosen] += token_frequency[token].float() + torch.rand(active, generator=generator)
    return table
