"""What a long context costs: a session run to its end, and decoding against the position.

    python bench/context.py fill [--tokens 1048576] [--out DIR]      every token through the model, at small widths
    python bench/context.py decode [--positions 65536,...] [--out DIR] [--program build/release/context_decode]
                                                                     a token's time at Flash widths; a curve as SVG
    python bench/context.py bytes                                    the same in bytes, by spec 1.6 and 1.7

`fill` prefills a CSA and an HCA layer of small widths from the first token to the last, decodes at the end, and compares the
cache's memory with spec 1.7's. `decode` cannot prefill so far at full widths: bench/context_decode.c fills a session's pages with
random codes and decodes behind them. `bytes` needs no device. JSON (and the curve) go to DIR, bench/results/<device> by default.
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import dsvk
from dsvk.chart import COLOURS, LINE, Axes, document, text
from dsvk.synthetic import Synthetic, write_config, write_weights

from state import state

HERE = Path(__file__).resolve().parent
SMALL = dict(hidden_size=64, num_attention_heads=1, head_dim=128, q_lora_rank=64, o_groups=1, o_lora_rank=32, sliding_window=32,
             index_topk=32, index_n_heads=1, index_head_dim=128, moe_intermediate_size=64)
PAGE = 4096   # tokens of a cache page
VOCABULARY = 1024
POSITIONS = [4096, 65536, 131072, 262144, 524288, 1048000]
# Spec 1.6 and 1.7: weights a decoded token of Flash reads, its layers (21 CSA, 20 HCA, 2 SWA), bytes of native rows and keys.
FLASH_WEIGHTS, FLASH_CSA, FLASH_HCA, FLASH_SWA = 11_217_580_396, 21, 20, 2
ROW, KEY, WINDOW, TOP = 583, 68, 128, 512


def native_bytes(c, tokens):
    """Spec 1.7 with this configuration's widths: growth of a cache in its native format, without the windows."""
    plain, key = c["head_dim"] - c["qk_rope_head_dim"], c["index_head_dim"]
    row, key = plain + plain // 64 + 2 * c["qk_rope_head_dim"], key // 2 + key // 32
    ratios = c["compress_ratios"][:-1]
    return sum((tokens // r) * (row + (key if r == 4 else 0)) for r in ratios if r)


def flash_reads(position):
    """Bytes of Flash's cache that a token reads at a position: all index keys, Ki rows, all HCA rows, the windows."""
    csa = position // 4 * KEY + min(position // 4, TOP) * ROW
    return FLASH_CSA * csa + FLASH_HCA * (position // 128) * ROW + (FLASH_CSA + FLASH_HCA + FLASH_SWA) * WINDOW * ROW


def byte_loss(positions):
    """How much slower a token is than at the first position where reading is all that costs."""
    first = FLASH_WEIGHTS + flash_reads(positions[0])
    return [dict(position=p, cache_bytes=flash_reads(p), weight_bytes=FLASH_WEIGHTS,
                 loss=1 - first / (FLASH_WEIGHTS + flash_reads(p))) for p in positions]


# ---- fill: every token ----

def synthetic(args, ratios):
    """Flash's layers of these ratios, or with --small of small widths."""
    experts = 2 if args.small else args.experts
    model = Synthetic(f"flash:ratios={'/'.join(map(str, ratios))},experts={experts},vocab={VOCABULARY}")
    if args.small:
        model.config.update(SMALL, num_experts_per_tok=1)
    return model


def write(model, directory):
    write_config(model, directory)
    write_weights(model, directory)


def fill(args):
    written = synthetic(args, [4, 128])
    c = written.config
    device = dsvk.Device(args.device)
    directory = tempfile.mkdtemp(prefix="dsvk-context-")
    try:
        write(written, directory)
        model = dsvk.Model(directory, device=device, max_chunk=args.chunk, page_tokens=PAGE)
    finally:
        shutil.rmtree(directory)
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, args.tokens - 1).tolist()
    result = dict(kind="fill", **state(), device=device.info["name"], driver=device.info["driver"], tokens=args.tokens, chunk=args.chunk,
                  widths=SMALL if args.small else "flash", ratios=c["compress_ratios"][:-1], steps=[])
    out = folder(args, device.info)
    with model.session(context=args.tokens) as session:
        begin = last = time.perf_counter()
        for end in range(args.every, args.tokens - 1 + args.every, args.every):
            with device.profile() as profile:
                session.sync(prompt[:min(end, args.tokens - 1)])
            now = time.perf_counter()
            ops = {op["name"]: round(op["us"] / 1e6, 3) for op in sorted(profile["ops"], key=lambda o: -o["us"])[:5]}
            pages = session.memory["pages"]
            spec = native_bytes(c, -(-session.position // PAGE) * PAGE)
            result["steps"].append(dict(position=session.position, seconds=now - last, ops=ops, pages=pages,
                                        pages_over_spec=pages / spec - 1))
            print(f"{session.position:>9} tokens {now - begin:>8.1f} s, pages {100 * (pages / spec - 1):+.2f} %  {ops}", flush=True)
            last = now
            write_json(out / "context-fill.json", result)
        token = session.decode(1)[0]
        result.update(seconds=time.perf_counter() - begin, position=session.position, last_token=token, memory=session.memory)
    write_json(out / "context-fill.json", result)
    print(f"{result['position']} tokens in {result['seconds']:.0f} s")


# ---- decode: a token's time against the position ----

def decode(args):
    positions = [int(p) for p in args.positions.split(",")]
    device, kinds = None, {}
    for kind, ratio in dict(CSA=4, HCA=128).items():
        device, kinds[kind] = decode_layer(args, ratio, positions)
    out = folder(args, device)
    software = device["type"] == "cpu"    # then the process's own time is the device's, whoever else the machine works for
    time_of = "cpu_ms_per_token" if software else "ms_per_token"
    rows = []
    for csa, hca, by_bytes in zip(kinds["CSA"], kinds["HCA"], byte_loss(positions)):
        ms = FLASH_CSA * csa[time_of] + FLASH_HCA * hca[time_of] + FLASH_SWA * kinds["HCA"][0][time_of]
        rows.append(dict(position=csa["position"], extrapolated=ms, flash_cache_bytes_read=by_bytes["cache_bytes"],
                         loss_measured=1 - rows[0]["extrapolated"] / ms if rows else 0.0, loss_by_bytes=by_bytes["loss"]))
    note = ("layers of Flash's widths, each alone in a model with few experts; pages of random codes; the extrapolation to 43 "
            "layers counts them (SWA as HCA at the first position) and leaves out the head")
    result = dict(kind="decode", **state(), device=device["name"], driver=device["driver"], experts=args.experts, note=note,
                  loss_measured_in=time_of, layers=kinds, flash=rows)
    write_json(out / "context-decode.json", result)
    widths = "small" if args.small else "Flash's"
    (out / "context-decode.svg").write_text(curve(kinds, widths, device["name"]))
    print(f"{'position':>9}{'CSA ms':>9}{'indexer':>9}{'top-k':>8}{'attention':>10}{'HCA ms':>9}{'attention':>10}{'loss':>8}{'by bytes':>10}"
          f"    ms: {time_of}; ops: device time")
    for csa, hca, row in zip(kinds["CSA"], kinds["HCA"], rows):
        print(f"{row['position']:>9}{csa[time_of]:>9.2f}{op_ms(csa, 'indexer'):>9.3f}{op_ms(csa, 'topk'):>8.3f}"
              f"{op_ms(csa, 'sparse_attn'):>10.3f}{hca[time_of]:>9.2f}{op_ms(hca, 'sparse_attn'):>10.3f}"
              f"{100 * row['loss_measured']:>7.1f}%{100 * row['loss_by_bytes']:>9.1f}%")


def decode_layer(args, ratio, positions):
    """The device that the program ran on, and a token's time in a model of one layer, at each position."""
    written = synthetic(args, [ratio])
    c = written.config
    directory = tempfile.mkdtemp(prefix="dsvk-context-")
    try:
        write(written, directory)
        run = subprocess.run([*args.loader.split(), args.program, directory, str(args.decode), *map(str, positions)], check=True,
                             stdout=subprocess.PIPE, text=True)
    finally:
        shutil.rmtree(directory)
    device, *rows = [json.loads(line) for line in run.stdout.splitlines()]
    for row in rows:
        row["ms_per_token"] = row["seconds"] / row["tokens"] * 1e3
        row["cpu_ms_per_token"] = row["cpu_seconds"] / row["tokens"] * 1e3
        row["op_ms_per_token"] = {op["name"]: op["us"] / row["tokens"] / 1e3 for op in row.pop("ops")}
        row["pages_over_spec"] = row["pages"] * row["page_bytes"] / native_bytes(c, row["pages"] * PAGE) - 1
    return device, rows


def op_ms(row, name):
    return sum(ms for op, ms in row["op_ms_per_token"].items() if op.startswith(name))


def curve(kinds, widths, device):
    """ms per token against the position, as SVG: what changes in each kind of layer."""
    lines = [("CSA: indexer", "CSA", "indexer"), ("CSA: top-k", "CSA", "topk"), ("CSA: attention", "CSA", "sparse_attn"),
             ("HCA: attention", "HCA", "sparse_attn")]
    points = {name: [(row["position"], op_ms(row, op)) for row in kinds[kind] if op_ms(row, op)] for name, kind, op in lines}
    times = [ms for line in points.values() for _, ms in line]
    far = [row["position"] for row in kinds["CSA"]]
    axes = Axes(f"A decoded token by its position, {widths} widths, {device}", "position in tokens", "device time of a layer's ops",
                (min(far) / 2, max(far) * 2), (min(times) / 2, max(times) * 2), 4, "{:,.0f}".format, lambda ms: f"{ms:g} ms")
    parts = axes.frame()
    for i, ((name, line), colour) in enumerate(zip(points.items(), COLOURS)):
        if line:
            parts += [axes.line(line, colour), text(axes.left + 10, axes.top + LINE * (i + 1), name, f'fill="{colour}"')]
    return document(parts, axes.height())


# ---- all ----

def folder(args, device):
    slug = re.sub(r"[^a-z0-9.]+", "-", str(device["name"]).lower()).strip("-")
    path = Path(args.out) if args.out else HERE / "results" / slug
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_json(path, data):
    path.write_text(json.dumps(data, indent=1) + "\n")


def show_bytes(args):
    for row in byte_loss([int(p) for p in args.positions.split(",")]):
        print(f"{row['position']:>9} cache {row['cache_bytes'] / 1e6:8.1f} MB, weights {row['weight_bytes'] / 1e6:.0f} MB: "
              f"{100 * row['loss']:.1f} % slower than at {args.positions.split(',')[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, run in dict(fill=fill, decode=decode, bytes=show_bytes).items():
        kind = kinds.add_parser(name)
        kind.set_defaults(run=run)
        kind.add_argument("--device")
        kind.add_argument("--out", help="folder for JSON and curve")
        kind.add_argument("--tokens", type=int, default=1048576)
        kind.add_argument("--chunk", type=int, default=512)
        kind.add_argument("--every", type=int, default=32768, help="tokens between two lines of progress")
        kind.add_argument("--positions", default=",".join(map(str, POSITIONS)))
        kind.add_argument("--small", action=argparse.BooleanOptionalAction, default=name == "fill", help="small widths")
        kind.add_argument("--decode", type=int, default=8, help="tokens decoded at each position")
        kind.add_argument("--experts", type=int, default=8)
        kind.add_argument("--program", default=str(HERE.parent / "build/release/context_decode"))
        kind.add_argument("--loader", default="", help="what to start the program with")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())
