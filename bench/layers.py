"""Layers at full Flash or Pro widths, timed op by op: a model of a few layers with random weights, a small vocabulary and as
many experts as memory allows, run through prefill and decode with every dispatch timed on the device.

    python bench/layers.py [--family flash|pro] [--ratios 0,4,128] [--experts 8] [--prompt 300] [--decode 8] [--batch 1,8]
                           [--json OUT.json] [--keep DIR]

The weights are random bytes with plausible scales, so the outputs mean nothing; the bytes moved and the work done are those of
the real layers, except that a batch finds its experts among fewer. Numbers from a software device compare runs, nothing else.
"""
import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time

import numpy as np

import dsvk

FAMILIES = {   # spec 1.2
    "flash": dict(hidden_size=4096, num_attention_heads=64, q_lora_rank=1024, o_groups=8, index_topk=512,
                  moe_intermediate_size=2048, routed_scaling_factor=1.5),
    "pro": dict(hidden_size=7168, num_attention_heads=128, q_lora_rank=1536, o_groups=16, index_topk=1024,
                moe_intermediate_size=3072, routed_scaling_factor=2.5),
}
VOCABULARY = 1024


def config(family, ratios, experts):
    return dict(
        architectures=["DeepseekV4ForCausalLM"], model_type="deepseek_v4", vocab_size=VOCABULARY, head_dim=512,
        qk_rope_head_dim=64, o_lora_rank=1024, sliding_window=128, compress_ratios=ratios + [0], rope_theta=10000,
        compress_rope_theta=160000, num_hidden_layers=len(ratios), num_hash_layers=0, num_nextn_predict_layers=0,
        num_key_value_heads=1, n_routed_experts=experts, n_shared_experts=1, num_experts_per_tok=min(6, experts),
        index_n_heads=64, index_head_dim=128, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6,
        hidden_act="silu", scoring_func="sqrtsoftplus", norm_topk_prob=True, topk_method="noaux_tc", swiglu_limit=10.0,
        max_position_embeddings=1048576, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False, expert_dtype="fp4",
        rope_scaling=dict(type="yarn", factor=16, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1),
        quantization_config=dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", scale_fmt="ue8m0",
                                 weight_block_size=[128, 128]),
        **FAMILIES[family])


def tensors(c):
    """[(name, dtype, shape)] of spec 2.2 for the main layers."""
    D, H, dh, Rq = c["hidden_size"], c["num_attention_heads"], c["head_dim"], c["q_lora_rank"]
    GRo, I, E = c["o_groups"] * c["o_lora_rank"], c["moe_intermediate_size"], c["n_routed_experts"]
    Hi, di = c["index_n_heads"], c["index_head_dim"]

    def fp8(name, o, i):
        return [(name + ".weight", "F8_E4M3", (o, i)), (name + ".scale", "F8_E8M0", (-(-o // 128), -(-i // 128)))]

    def fp4(name, o, i):
        return [(name + ".weight", "I8", (o, i // 2)), (name + ".scale", "F8_E8M0", (o, i // 32))]

    def hc(name, n, scales):
        return [(name + "_fn", "F32", (n, 4 * D)), (name + "_base", "F32", (n,)), (name + "_scale", "F32", (scales,))]

    def compressor(p, ratio, d):
        w = 2 * d if ratio == 4 else d
        return [(p + "ape", "F32", (ratio, w)), (p + "wkv.weight", "BF16", (w, D)), (p + "wgate.weight", "BF16", (w, D)),
                (p + "norm.weight", "BF16", (d,))]

    out = [("embed.weight", "BF16", (VOCABULARY, D)), ("head.weight", "BF16", (VOCABULARY, D)), ("norm.weight", "BF16", (D,))]
    out += hc("hc_head", 4, 1)
    for l, ratio in enumerate(c["compress_ratios"][:-1]):
        p = f"layers.{l}."
        out += [(p + "attn_norm.weight", "BF16", (D,)), (p + "ffn_norm.weight", "BF16", (D,)), (p + "attn.attn_sink", "F32", (H,)),
                (p + "attn.q_norm.weight", "BF16", (Rq,)), (p + "attn.kv_norm.weight", "BF16", (dh,)),
                (p + "ffn.gate.weight", "BF16", (E, D)), (p + "ffn.gate.bias", "F32", (E,))]
        out += hc(p + "hc_attn", 24, 3) + hc(p + "hc_ffn", 24, 3)
        out += fp8(p + "attn.wq_a", Rq, D) + fp8(p + "attn.wq_b", H * dh, Rq) + fp8(p + "attn.wkv", dh, D)
        out += fp8(p + "attn.wo_a", GRo, H * dh // c["o_groups"]) + fp8(p + "attn.wo_b", D, GRo)
        if ratio:
            out += compressor(p + "attn.compressor.", ratio, dh)
        if ratio == 4:
            out += fp8(p + "attn.indexer.wq_b", Hi * di, Rq) + [(p + "attn.indexer.weights_proj.weight", "BF16", (Hi, D))]
            out += compressor(p + "attn.indexer.compressor.", 4, di)
        for e in range(E):
            q = p + f"ffn.experts.{e}."
            out += fp4(q + "w1", I, D) + fp4(q + "w3", I, D) + fp4(q + "w2", D, I)
        q = p + "ffn.shared_experts."
        out += fp8(q + "w1", I, D) + fp8(q + "w3", I, D) + fp8(q + "w2", D, I)
    return out


BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1}


def contents(name, dtype, shape, rng):
    n = math.prod(shape)
    if dtype in ("F8_E4M3", "I8"):
        codes = rng.integers(0, 256, n, np.uint8)
        return codes & 0xF7 if dtype == "F8_E4M3" else codes   # no NaN codes
    if dtype == "F8_E8M0":       # rows of about unit gain: e4m3 codes have rms ~100, e2m1 ~3
        fan_in = shape[1] * (128 if name.replace(".scale", "").split(".")[-2] != "experts" and shape[0] < 4096 else 32)
        return np.full(n, 127 - round(math.log2(30 * math.sqrt(fan_in))), np.uint8)
    values = rng.standard_normal(n, np.float32) / math.sqrt(shape[-1])
    if "norm" in name:
        values = np.ones(n, np.float32)
    return values if dtype == "F32" else (values.view(np.uint32) >> 16).astype("<u2")


def write(directory, c):
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(c, f)
    entries, at, listed = {}, 0, tensors(c)
    for name, dtype, shape in listed:
        size = BYTES[dtype] * math.prod(shape)
        entries[name] = dict(dtype=dtype, shape=list(shape), data_offsets=[at, at + size])
        at += size
    header = json.dumps(entries).encode()
    rng = np.random.default_rng(1)
    with open(os.path.join(directory, "model.safetensors"), "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        for name, dtype, shape in listed:
            f.write(contents(name, dtype, shape, rng).tobytes())
    return at


def table(report, best):
    for op in sorted(report["ops"], key=lambda o: -o["us"]):
        calls = op["calls"]
        print(f"  {op['name']:<20}{calls:>6} calls {op['us'] / calls:>12.1f} us {op['bytes'] / calls / 1e6:>10.3f} MB"
              f"{op['bytes'] / max(op['us'], 1e-9) / 1e3:>9.2f} GB/s {op['flops'] / max(op['us'], 1e-9) / 1e3:>9.2f} GFLOP/s")
    total = sum(op["us"] for op in report["ops"])
    print(f"  sum {total / 1e3:.2f} ms in {report['dispatches']} dispatches, {report['submits']} submits; wall {best * 1e3:.2f} ms")


def timed(device, run):
    """The second of two runs: the first one compiles."""
    for _ in range(2):
        with device.profile() as profile:
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
    return dict(profile), seconds


def decode(model, device, prompt, tokens, batch):
    sessions = [model.session(context=len(prompt) + 4 * tokens + 8) for _ in range(batch)]
    for s in sessions:
        s.sync(prompt)
    return timed(device, lambda: model.decode(sessions, tokens, temperature=0))


def prefill(model, device, prompt):
    return timed(device, lambda: model.session(context=len(prompt) + 8).sync(prompt))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="flash")
    parser.add_argument("--ratios", default="0,4,128", help="layer kinds: 0 SWA, 4 CSA, 128 HCA")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=300)
    parser.add_argument("--decode", type=int, default=8)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--device")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    c = config(args.family, [int(r) for r in args.ratios.split(",")], args.experts)
    directory = tempfile.mkdtemp(prefix="dsvk-layers-")
    try:
        size = write(directory, c)
        device = dsvk.Device(args.device)
        start = time.perf_counter()
        model = dsvk.Model(directory, device=device)
        opened = time.perf_counter() - start
    finally:
        shutil.rmtree(directory)
    print(f"{device.info['name']}: {args.family} layers of ratio {args.ratios}, {args.experts} experts, {size / 1e6:.0f} MB, "
          f"opened in {opened:.1f} s ({size / opened / 1e9:.2f} GB/s)")
    rng = np.random.default_rng(2)
    prompt = rng.integers(0, VOCABULARY, args.prompt).tolist()
    result = dict(device=device.info["name"], driver=device.info.get("driver"), family=args.family, ratios=args.ratios,
                  experts=args.experts, checkpoint_bytes=size, open_seconds=opened, runs=[])
    for batch in [int(b) for b in args.batch.split(",")]:
        report, seconds = decode(model, device, prompt[:args.prompt], args.decode, batch)
        print(f"decode, batch {batch}, {args.decode} tokens at position {args.prompt}: {seconds / args.decode * 1e3:.2f} ms a step")
        table(report, seconds)
        result["runs"].append(dict(kind="decode", batch=batch, tokens=args.decode, position=args.prompt, seconds=seconds, **report))
    report, seconds = prefill(model, device, prompt)
    print(f"prefill of {args.prompt}: {seconds * 1e3:.2f} ms, {args.prompt / seconds:.1f} tokens/s")
    table(report, seconds)
    result["runs"].append(dict(kind="prefill", tokens=args.prompt, seconds=seconds, **report))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    sys.exit(main())
