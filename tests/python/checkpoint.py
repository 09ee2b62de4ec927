"""Small random checkpoints in the published layout, for the tests.

    write_checkpoint(TINY, directory, seed=1)          # config.json and model.safetensors, same seed: same bytes
    write_checkpoint(ODD, directory, 1, shards=3, unaligned=True, hf_names=True, fp8_scale_dtype="F32")

Every tensor has its published name, shape and type: BF16, F32, FP8 with a scale per 128x128 block, packed FP4 with a scale
per row and 32 inputs, I64 hash tables. Values come from splitmix64 over (seed, tensor name, element number), so they do not
depend on the order of tensors, on options that only change the file, or on the numpy version.

The statistics keep activations O(1) through the layers and let every part matter: routing uses all experts and its bias
changes choices, sinks take a good share of some heads, values reach the SwiGLU clamp, stream mixing is neither uniform nor
the identity, norms have outlier channels, and neighbouring quantisation blocks differ in scale, so that a wrong scale
index shows.
"""
import hashlib
import json
import math
import os

import numpy as np

from dsvk.synthetic import model_tensors

FAMILY = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_act": "silu",
    "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True, "expert_dtype": "fp4",
    "tie_word_embeddings": False, "num_key_value_heads": 1, "n_shared_experts": 1, "hc_mult": 4,
    "bos_token_id": 0, "eos_token_id": 1,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "scale_fmt": "ue8m0",
                            "weight_block_size": [128, 128]},
}

# Every kind of layer, a hash layer, an MTP block. The window wraps after 64 tokens, index selection begins at 36.
TINY = {
    **FAMILY, "vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 4, "num_hash_layers": 1,
    "num_nextn_predict_layers": 1, "compress_ratios": [0, 4, 128, 4, 0], "num_attention_heads": 4, "head_dim": 128,
    "qk_rope_head_dim": 64, "q_lora_rank": 64, "o_groups": 2, "o_lora_rank": 64, "sliding_window": 64,
    "index_n_heads": 4, "index_head_dim": 128, "index_topk": 8, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 64, "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "rope_theta": 10000,
    "compress_rope_theta": 160000,
    "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1},
}

# No hash layer, no MTP block, no clamp; sizes that are multiples of 32 and of nothing more; an odd window and vocabulary.
ODD = {
    **FAMILY, "vocab_size": 331, "hidden_size": 96, "num_hidden_layers": 4, "num_hash_layers": 0,
    "num_nextn_predict_layers": 0, "compress_ratios": [4, 128, 0, 4, 0], "num_attention_heads": 3, "head_dim": 192,
    "qk_rope_head_dim": 64, "q_lora_rank": 96, "o_groups": 1, "o_lora_rank": 96, "sliding_window": 37,
    "index_n_heads": 3, "index_head_dim": 64, "index_topk": 5, "n_routed_experts": 10, "num_experts_per_tok": 3,
    "moe_intermediate_size": 96, "routed_scaling_factor": 1.0, "hc_sinkhorn_iters": 7, "hc_eps": 1e-5,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 1024, "rope_theta": 4000, "compress_rope_theta": 40000,
    "rope_scaling": {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 64, "beta_fast": 16,
                     "beta_slow": 2},
}


# ---------------------------------------------------------------------------------------------------------------
# Names and shapes: those of dsvk.synthetic, in either spelling
# ---------------------------------------------------------------------------------------------------------------

HF_PARTS = {   # the transformers spelling of single components
    "attn": "self_attn", "ffn": "mlp", "embed": "embed_tokens", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_sink": "sinks", "wq_a": "q_a_proj", "wq_b": "q_b_proj", "wkv": "kv_proj",
    "wo_a": "o_a_proj", "wo_b": "o_b_proj", "q_norm": "q_a_norm", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj",
    "bias": "e_score_correction_bias", "scale": "weight_scale_inv",
}
HF_COMPRESSOR = {"wkv": "kv_proj", "wgate": "gate_proj", "ape": "position_bias", "norm": "kv_norm"}


def hf_name(name):
    """layers.1.attn.indexer.compressor.wkv.weight -> model.layers.1.self_attn.compressor.indexer.kv_proj.weight"""
    if name == "head.weight":
        return "lm_head.weight"
    parts = name.replace("indexer.compressor.", "indexer.+").replace("attn.indexer.", "attn.compressor.indexer.").split(".")
    out = []
    for i, part in enumerate(parts):
        if part.startswith("+") or (i and parts[i - 1] == "compressor" and part in HF_COMPRESSOR):
            out.append(HF_COMPRESSOR[part.lstrip("+")])
        elif part.startswith("hc_head_"):
            out += ["hc_head", "hc_" + part[len("hc_head_"):]]
        elif part.startswith("hc_"):
            site, what = part[3:].split("_")
            out += [site + "_hc", what]
        else:
            out.append(HF_PARTS.get(part, part))
    return "model." + ".".join(out)


# ---------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------

def words(seed, name, n):
    """u64 [n] of splitmix64, its state starting at a hash of (seed, name)."""
    key = np.uint64(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = key + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def normal(seed, name, shape):
    """Nearly normal, variance 1: the sum of the four 16-bit fields of a word."""
    fields = words(seed, name, math.prod(shape)).view(np.uint16).reshape(-1, 4)
    return ((fields.sum(1, dtype=np.int64) - 131070) / math.sqrt((2.0 ** 32 - 1) / 3)).reshape(shape)


def small_int(seed, name, shape, n):
    """Integers 0 .. n-1."""
    return (words(seed, name, math.prod(shape)) >> np.uint64(33)).astype(np.int64).reshape(shape) % n


def tokens(seed, vocab, n):
    """A prompt: uniform ids, about one in eight repeats one of the 64 before it."""
    ids = small_int(seed, "tokens", (n,), vocab)
    repeat, back = small_int(seed, "repeat", (n,), 8) == 0, 1 + small_int(seed, "back", (n,), 64)
    for i in range(n):
        if repeat[i] and back[i] <= i:
            ids[i] = ids[i - back[i]]
    return ids


GAIN = {   # standard deviation of a matrix times sqrt(inputs)
    "wq_a": 1.0, "wq_b": 1.0, "wkv": 1.0, "wgate": 1.5, "wo_a": 1.5, "wo_b": 0.4, "weights_proj": 1.0, "gate": 1.5,
    "w1": 3.0, "w3": 3.0, "w2": 0.04, "e_proj": 0.7, "h_proj": 0.7, "head": 2.0,
}


def real_values(seed, name, shape):
    """float64 contents of anything that is not an integer, before quantisation."""
    last = name.removesuffix(".weight").rsplit(".", 1)[-1]
    g = normal(seed, name, shape)
    if last == "embed":
        return g
    if last.endswith("norm"):
        plain = "compressor" in name or last in ("q_norm", "kv_norm")
        outlier = 1.0 if plain else np.where(small_int(seed, name + "#outlier", shape, 32) == 0, 4.0, 1.0)
        sharper = 1.2 if last == "kv_norm" or name.endswith("attn.compressor.norm.weight") else 1.0
        return sharper * outlier * (1 + 0.15 * g)
    if last.endswith("_base") and shape[0] == 24:             # comb: keep part of each stream where it is
        return np.concatenate([g[:4], 2 * g[4:8], 0.5 * g[8:] + 2.5 * np.eye(4).reshape(-1)])
    simple = {"attn_sink": 2 + g, "ape": 0.7 * g, "bias": 0.3 * g}
    if last in simple:
        return simple[last]
    if last.startswith("hc_"):
        return g / math.sqrt(shape[1]) if last.endswith("_fn") else 0.9 + 0.2 * g if last.endswith("_scale") else g
    gain = GAIN[last] * (0.5 if "shared_experts.w2" in name else 1.0)
    return g * (gain / math.sqrt(shape[1]))


def jitter(seed, name, shape, block, low, high):
    """A power of two per block, 2^low .. 2^high, divided by its root mean square."""
    k = low + small_int(seed, name + "#scale", tuple(-(-s // b) for s, b in zip(shape, block)), high - low + 1)
    factor = np.ldexp(1.0, k).repeat(block[0], 0).repeat(block[1], 1)[:shape[0], :shape[1]]
    return factor / math.sqrt(sum(4.0 ** i for i in range(low, high + 1)) / (high - low + 1))


def hash_table(seed, name, rows, k, n_experts):
    """Rows of distinct expert ids: the first ids of a shuffle."""
    draw = words(seed, name, rows * k).reshape(rows, k)
    table, every = np.tile(np.arange(n_experts), (rows, 1)), np.arange(rows)
    for i in range(k):
        j = i + (draw[:, i] >> np.uint64(33)).astype(np.int64) % (n_experts - i)
        table[every, i], table[every, j] = table[every, j], table[every, i].copy()
    return table[:, :k].astype("<i8")


# ---------------------------------------------------------------------------------------------------------------
# Encoders
# ---------------------------------------------------------------------------------------------------------------

def encode_bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype("<u2")


def encode_minifloat(x, mantissa_bits, min_exponent, sign_bit):
    """Codes of a small float format, ties to even; |x| must not exceed its largest value."""
    exponent = np.maximum(np.frexp(np.abs(x))[1] - 1, min_exponent)
    steps = np.rint(np.ldexp(np.abs(x), mantissa_bits - exponent)).astype(np.int64)
    code = steps + ((exponent - min_exponent) << mantissa_bits)   # a carry into the next exponent falls into place
    return (code | np.where(np.signbit(x), sign_bit, 0)).astype(np.uint8)


def ceil_log2(x):
    mantissa, exponent = np.frexp(x)
    return np.where(mantissa == 0.5, exponent - 1, exponent)


def quantise_fp8(x, scale_dtype):
    """[o, i] -> (codes, scales per 128x128 block): ue8m0 bytes, or F32 scales that are no powers of two."""
    blocks = tuple(-(-s // 128) for s in x.shape)
    largest = np.array([[np.abs(x[r * 128:r * 128 + 128, c * 128:c * 128 + 128]).max() for c in range(blocks[1])]
                        for r in range(blocks[0])])
    if scale_dtype == "F32":
        stored = np.nextafter((largest / 448).astype(np.float32), np.float32(np.inf))
        scale = stored.astype(np.float64)
    else:
        exponent = ceil_log2(largest / 448).astype(np.int64)
        stored, scale = (exponent + 127).astype(np.uint8), np.ldexp(1.0, exponent)
    spread = scale.repeat(128, 0).repeat(128, 1)[:x.shape[0], :x.shape[1]]
    return encode_minifloat(x / spread, 3, -6, 0x80), stored


def quantise_fp4(x):
    """[o, i] -> (packed nibbles [o, i/2], low nibble first; ue8m0 bytes [o, i/32])."""
    blocks = x.reshape(x.shape[0], -1, 32)
    exponent = ceil_log2(np.abs(blocks).max(2) / 6).astype(np.int64)
    codes = encode_minifloat(np.ldexp(blocks, -exponent[:, :, None]), 1, 0, 8).reshape(x.shape)
    return codes[:, 0::2] | (codes[:, 1::2] << 4), (exponent + 127).astype(np.uint8)


def stored_tensors(c, seed, fp8_scale_dtype):
    """[(name, dtype, array)] as they lie in the file."""
    out = []
    for name, kind, shape in model_tensors(c):
        if kind == "I64":
            out.append((name, kind, hash_table(seed, name, *shape, c["n_routed_experts"])))
        elif kind == "BF16":
            out.append((name, kind, encode_bf16(real_values(seed, name, shape))))
        elif kind == "F32":
            out.append((name, kind, real_values(seed, name, shape).astype("<f4")))
        elif kind == "FP4":
            x = real_values(seed, name, shape) * jitter(seed, name, shape, (1, 32), -2, 1)
            codes, scales = quantise_fp4(x)
            out += [(name + ".weight", "I8", codes), (name + ".scale", "F8_E8M0", scales)]
        else:
            x = real_values(seed, name, shape) * jitter(seed, name, shape, (128, 128), -1, 1)
            codes, scales = quantise_fp8(x, fp8_scale_dtype)
            out += [(name + ".weight", "F8_E4M3", codes), (name + ".scale", fp8_scale_dtype, scales)]
    return out


# ---------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------

def write_safetensors(path, tensors, unaligned=False):
    """tensors: [(name, dtype, array)]. unaligned: the data begin at an odd file offset."""
    entries, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, array in tensors:
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + unaligned)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, _, array in tensors:
            f.write(array.tobytes())


def write_checkpoint(config, directory, seed, shards=1, unaligned=False, hf_names=False, fp8_scale_dtype="F8_E8M0"):
    """Writes config.json and the shards (with an index if there are several) into `directory`, which is made if needed.

    unaligned mixes the order of the tensors and lets them begin at odd file offsets; hf_names uses the transformers names;
    fp8_scale_dtype is F8_E8M0 or F32; config["expert_dtype"] fp8 stores the experts in FP8.
    """
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
    tensors = stored_tensors(config, seed, fp8_scale_dtype)
    if hf_names:
        tensors = [(hf_name(name), dtype, array) for name, dtype, array in tensors]
    if unaligned:                                             # odd-sized scales shift what follows them
        tensors.sort(key=lambda t: hashlib.sha256(t[0].encode()).digest())
    if shards == 1:
        return write_safetensors(os.path.join(directory, "model.safetensors"), tensors, unaligned)
    ends = np.cumsum([array.nbytes for _, _, array in tensors])
    shard_of = np.minimum((ends - 1) * shards // ends[-1], shards - 1)
    weight_map = {}
    for i in range(shards):
        part = [t for t, s in zip(tensors, shard_of) if s == i]
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(os.path.join(directory, file), part, unaligned)
        weight_map.update({name: file for name, _, _ in part})
    with open(os.path.join(directory, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
        json.dump({"metadata": {"total_size": int(ends[-1])}, "weight_map": weight_map}, f, indent=1)
