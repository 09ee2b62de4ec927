"""The cases of peer.h by PyTorch on the CPU: python torch_cpu.py THREADS

It has no FP4 of this kind, so matrices are BF16, which is what one falls back to: four times the bytes.
"""
import json
import sys
import time

import torch
from torch.nn.functional import linear, rms_norm


def matvec(n_out, n_in, rows):
    w, x = torch.randn(n_out, n_in).bfloat16(), torch.randn(rows, n_in).bfloat16()
    return lambda: linear(x, w)


def moe(experts, used, n_in, n_out, rows):
    w, x = torch.randn(experts, n_out, n_in).bfloat16(), torch.randn(rows, used, n_in).bfloat16()
    chosen = torch.stack([torch.randperm(experts)[:used] for _ in range(rows)])
    out = torch.empty(rows, used, n_out, dtype=torch.bfloat16)

    def run():
        for expert in chosen.unique().tolist():     # each matrix once, for the rows that chose it
            row, slot = (chosen == expert).nonzero(as_tuple=True)
            out[row, slot] = linear(x[row, slot], w[expert])
    return run


def indexer(keys, heads, dim, rows):
    q, k, weights = torch.randn(rows, heads, dim), torch.randn(keys, dim), torch.randn(rows, heads)
    return lambda: torch.einsum("rh,rhk->rk", weights, (q @ k.T).relu_())


def topk(keys, k, rows):
    scores = torch.randn(rows, keys)
    return lambda: torch.topk(scores, k, sorted=False)


def select(keys, heads, dim, k, rows):
    scores = indexer(keys, heads, dim, rows)
    return lambda: torch.topk(scores(), k, sorted=False)


def hc_pre(dim, rows):
    x, weights, norm = torch.randn(rows, 4, dim), torch.randn(rows, 1, 4), torch.randn(dim)
    return lambda: rms_norm((weights @ x)[:, 0], (dim,), norm, 1e-6)


def hc_post(dim, rows):
    y, x, post, comb = torch.randn(rows, 1, dim), torch.randn(rows, 4, dim), torch.randn(rows, 4, 1), torch.randn(rows, 4, 4)
    fn = torch.randn(24, 4 * dim)
    return lambda: linear(torch.baddbmm(post * y, comb, x).flatten(1), fn)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    print(f"PyTorch {torch.__version__}, CPU, BF16 matrices", flush=True)
    cases = {}
    with torch.inference_mode():
        for line in sys.stdin:
            kind, *sizes, seconds = line.split()
            if line not in cases:
                run, start = globals()[kind](*map(int, sizes)), time.perf_counter()
                run()
                cases[line] = run, time.perf_counter() - start
            run, first = cases[line]
            times = []
            while not times or (sum(times) < float(seconds) and len(times) < 200):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            print(json.dumps({"us": 1e6 * min(times), "runs": len(times), "first_us": 1e6 * first}), flush=True)


if __name__ == "__main__":
    main()
