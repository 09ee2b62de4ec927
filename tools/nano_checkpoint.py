"""The native DeepSeek-V4 checkpoint layout and the transformers implementation: one table of names, used both ways.

    export_checkpoint(state, config, directory)     torch weights -> model.safetensors + config.json, quantised
    load_checkpoint(directory)                      model.safetensors -> (config, float32 torch weights)

`state` has the names of transformers' DeepseekV4ForCausalLM. transformers has no multi-token-prediction block; here its
weights are called `mtp.0.*`, with the decoder layer inside as `mtp.0.block.*`. `config` is the dictionary of config.json.

Storage: norms, embedding, head, router and compressor projections in BF16; hyper-connections, sinks, position biases in
F32; attention and shared-expert projections in FP8 (e4m3, one power-of-two scale per 128x128 block); routed experts in
FP4 (e2m1, two per byte, low nibble first, one power-of-two scale per row and 32 inputs); hash tables in I64.
"""
import json
import os
from typing import NamedTuple

import torch
from dsvk.synthetic import model_tensors
from safetensors.torch import load_file, save_file

FP8_BLOCK, FP4_BLOCK = 128, 32
FP8_MAX, FP4_MAX = 448.0, 6.0


class Tensor(NamedTuple):
    native: str             # name in model.safetensors
    torch: str              # name in the state dictionary
    kind: str               # BF16, F32, FP8, FP4 or I64
    part: tuple = ()        # index into a torch tensor that stacks several native ones


# ---------------------------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------------------------

ATTENTION = [
    ("attn_norm.weight", "input_layernorm.weight", "BF16"), ("ffn_norm.weight", "post_attention_layernorm.weight", "BF16"),
    ("hc_attn_fn", "attn_hc.fn", "F32"), ("hc_attn_base", "attn_hc.base", "F32"), ("hc_attn_scale", "attn_hc.scale", "F32"),
    ("hc_ffn_fn", "ffn_hc.fn", "F32"), ("hc_ffn_base", "ffn_hc.base", "F32"), ("hc_ffn_scale", "ffn_hc.scale", "F32"),
    ("attn.attn_sink", "self_attn.sinks", "F32"),
    ("attn.wq_a.weight", "self_attn.q_a_proj.weight", "FP8"), ("attn.q_norm.weight", "self_attn.q_a_norm.weight", "BF16"),
    ("attn.wq_b.weight", "self_attn.q_b_proj.weight", "FP8"), ("attn.wkv.weight", "self_attn.kv_proj.weight", "FP8"),
    ("attn.kv_norm.weight", "self_attn.kv_norm.weight", "BF16"),
    ("attn.wo_a.weight", "self_attn.o_a_proj.weight", "FP8"), ("attn.wo_b.weight", "self_attn.o_b_proj.weight", "FP8"),
]
COMPRESSOR = [
    ("ape", "position_bias", "F32"), ("wkv.weight", "kv_proj.weight", "BF16"),
    ("wgate.weight", "gate_proj.weight", "BF16"), ("norm.weight", "kv_norm.weight", "BF16"),
]
INDEXER = [
    ("wq_b.weight", "q_b_proj.weight", "FP8"), ("weights_proj.weight", "scorer.weights_proj.weight", "BF16"),
]
SHARED_EXPERT = [("w1.weight", "gate_proj.weight", "FP8"), ("w2.weight", "down_proj.weight", "FP8"),
                 ("w3.weight", "up_proj.weight", "FP8")]
HC_HEAD = [("hc_head_fn", "hc_head.hc_fn", "F32"), ("hc_head_base", "hc_head.hc_base", "F32"),
           ("hc_head_scale", "hc_head.hc_scale", "F32")]
MTP = [("e_proj.weight", "e_proj.weight", "FP8"), ("h_proj.weight", "h_proj.weight", "FP8"),
       ("enorm.weight", "enorm.weight", "BF16"), ("hnorm.weight", "hnorm.weight", "BF16"),
       ("norm.weight", "norm.weight", "BF16")]


def renamed(rows, native_prefix, torch_prefix):
    return [Tensor(native_prefix + n, torch_prefix + t, kind) for n, t, kind in rows]


def block_tensors(config, native, torch_prefix, ratio, hashed):
    """One decoder layer. ratio: 0 sliding window, 4 CSA, 128 HCA."""
    table = renamed(ATTENTION, native, torch_prefix)
    if ratio:
        table += renamed(COMPRESSOR, native + "attn.compressor.", torch_prefix + "self_attn.compressor.")
    if ratio == 4:
        inside = torch_prefix + "self_attn.compressor.indexer."
        table += renamed(INDEXER, native + "attn.indexer.", inside)
        table += renamed(COMPRESSOR, native + "attn.indexer.compressor.", inside)
    table += [Tensor(native + "ffn.gate.weight", torch_prefix + "mlp.gate.weight", "BF16")]
    if hashed:
        table += [Tensor(native + "ffn.gate.tid2eid", torch_prefix + "mlp.gate.tid2eid", "I64")]
    else:
        table += [Tensor(native + "ffn.gate.bias", torch_prefix + "mlp.gate.e_score_correction_bias", "F32")]
    inner, experts = config["moe_intermediate_size"], torch_prefix + "mlp.experts."
    for e in range(config["n_routed_experts"]):
        name = f"{native}ffn.experts.{e}."
        table += [Tensor(name + "w1.weight", experts + "gate_up_proj", "FP4", (e, slice(0, inner))),
                  Tensor(name + "w2.weight", experts + "down_proj", "FP4", (e,)),
                  Tensor(name + "w3.weight", experts + "gate_up_proj", "FP4", (e, slice(inner, 2 * inner)))]
    return table + renamed(SHARED_EXPERT, native + "ffn.shared_experts.", torch_prefix + "mlp.shared_experts.")


def checkpoint_tensors(config):
    """Every tensor of a checkpoint, without the scales that accompany FP8 and FP4 weights."""
    ratios, hashed = config["compress_ratios"], config.get("num_hash_layers", 0)
    table = [Tensor("embed.weight", "model.embed_tokens.weight", "BF16")]
    for l in range(config["num_hidden_layers"]):
        table += block_tensors(config, f"layers.{l}.", f"model.layers.{l}.", ratios[l], l < hashed)
    table += [Tensor("norm.weight", "model.norm.weight", "BF16"), Tensor("head.weight", "lm_head.weight", "BF16")]
    table += renamed(HC_HEAD, "", "model.")
    for m in range(config.get("num_nextn_predict_layers", 0)):
        p = f"mtp.{m}."
        table += block_tensors(config, p, p + "block.", 0, False) + renamed(MTP, p, p) + renamed(HC_HEAD, p, p)
    return table


# ---------------------------------------------------------------------------------------------------------------
# Number formats. Scales are powers of two just large enough that nothing is clipped; rounding is to nearest even.
# ---------------------------------------------------------------------------------------------------------------

def ceil_log2(x):
    mantissa, exponent = torch.frexp(x)
    return exponent - (mantissa == 0.5).to(exponent.dtype)


def power_of_two(exponent):
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)


def scale_exponent(largest, format_max):
    """Exponent e of the scale 2^e for a block whose largest magnitude is given; an all-zero block gets 2^-60."""
    return ceil_log2((largest / format_max).clamp(min=2.0 ** -60))


def fp8_scales(w):
    """[o, i] -> int [ceil(o/128), ceil(i/128)] scale exponents."""
    rows, columns = -(-w.shape[0] // FP8_BLOCK), -(-w.shape[1] // FP8_BLOCK)
    padded = torch.zeros(rows * FP8_BLOCK, columns * FP8_BLOCK)
    padded[:w.shape[0], :w.shape[1]] = w.abs()
    return scale_exponent(padded.view(rows, FP8_BLOCK, columns, FP8_BLOCK).amax((1, 3)), FP8_MAX)


def spread(scales, shape):
    """Block scales -> one per element."""
    return scales.repeat_interleave(FP8_BLOCK, 0)[:shape[0]].repeat_interleave(FP8_BLOCK, 1)[:, :shape[1]]


def quantise_fp8(w):
    """[o, i] float32 -> e4m3 codes [o, i], e8m0 scales."""
    exponent = fp8_scales(w)
    codes = (w / spread(power_of_two(exponent), w.shape)).to(torch.float8_e4m3fn)
    return codes, (exponent + 127).to(torch.uint8).view(torch.float8_e8m0fnu)


def fake_fp8(w):
    """The values that quantise_fp8 keeps."""
    scale = spread(power_of_two(fp8_scales(w)), w.shape)
    return (w / scale).to(torch.float8_e4m3fn).to(torch.float32) * scale


def round_e2m1(x):
    """|x| <= 6 to the nearest of 0, .5, 1, 1.5, 2, 3, 4, 6; ties to the even code."""
    a = x.abs()
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    return torch.round(x / step) * step


def fp4_scales(w):
    """[.., i] -> int [.., i/32, 1]."""
    return scale_exponent(w.unflatten(-1, (-1, FP4_BLOCK)).abs().amax(-1, keepdim=True), FP4_MAX)


def quantise_fp4(w):
    """[o, i] float32 -> packed int8 [o, i/2], e8m0 scales [o, i/32]."""
    exponent = fp4_scales(w)
    value = round_e2m1(w.unflatten(-1, (-1, FP4_BLOCK)) / power_of_two(exponent)).flatten(-2)
    magnitude = torch.bucketize(value.abs(), torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6]))
    nibble = magnitude.to(torch.uint8) | (torch.signbit(value).to(torch.uint8) << 3)
    packed = nibble[:, 0::2] | (nibble[:, 1::2] << 4)
    return packed.view(torch.int8), (exponent.squeeze(-1) + 127).to(torch.uint8).view(torch.float8_e8m0fnu)


def fake_fp4(w):
    """The values that quantise_fp4 keeps; any number of leading dimensions."""
    scale = power_of_two(fp4_scales(w))
    return (round_e2m1(w.unflatten(-1, (-1, FP4_BLOCK)) / scale) * scale).flatten(-2)


def dequantise(weight, scale):
    """A stored FP8 or FP4 weight and its e8m0 scales -> float32."""
    scale = scale.to(torch.float32)
    if weight.dtype == torch.float8_e4m3fn:
        return weight.to(torch.float32) * spread(scale, weight.shape)
    e2m1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
    byte = weight.view(torch.uint8).long()
    return torch.stack([e2m1[byte & 15], e2m1[byte >> 4]], -1).flatten(-2) * scale.repeat_interleave(FP4_BLOCK, -1)


# ---------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------

def export_checkpoint(state, config, directory):
    """Writes config.json and model.safetensors; `state` keeps its values."""
    stored = {}
    for t in checkpoint_tensors(config):
        value = state[t.torch].detach()[t.part]
        if t.kind in ("FP8", "FP4"):
            weight, scale = (quantise_fp8 if t.kind == "FP8" else quantise_fp4)(value.float())
            stored[t.native], stored[t.native[:-len("weight")] + "scale"] = weight, scale
        else:
            stored[t.native] = value.to({"BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}[t.kind])
    os.makedirs(directory, exist_ok=True)
    save_file({name: value.contiguous().clone() for name, value in stored.items()},
              os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(config, indent=2) + "\n")


def load_checkpoint(directory):
    """-> (config dictionary, {transformers name: tensor}); weights dequantised to float32, `mtp.0.*` included."""
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    stored = load_file(os.path.join(directory, "model.safetensors"))
    def value(t):
        if t.kind in ("FP8", "FP4"):
            return dequantise(stored[t.native], stored[t.native[:-len("weight")] + "scale"])
        return stored[t.native] if t.kind == "I64" else stored[t.native].float()
    return config, joined(config, value)


def blank_weights(config):
    """{transformers name: zeros of its shape}, `mtp.0.*` included"""
    shapes = {name + ".weight" * (kind in ("FP8", "FP4")): shape for name, kind, shape in model_tensors(config)}
    return joined(config, lambda t: torch.zeros(shapes[t.native], dtype=torch.int64 if t.kind == "I64" else torch.float32))


def joined(config, value):
    """{transformers name: tensor} from value(t) of every checkpoint tensor t"""
    parts = {}
    for t in checkpoint_tensors(config):
        parts.setdefault(t.torch, []).append((t.part, value(t)))
    return {name: stack(pieces) for name, pieces in parts.items()}


def stack(pieces):
    """[(index, tensor)] of one torch tensor -> that tensor. Experts arrive in order: w1 and w3, or w2, of each."""
    if pieces[0][0] == ():
        return pieces[0][1]
    experts = {}
    for part, value in pieces:
        experts.setdefault(part[0], []).append(value)
    return torch.stack([torch.cat(experts[e]) for e in sorted(experts)])
