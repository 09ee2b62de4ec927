"""What the model that ships with dsvk does on this device: opening, prefill, decoding alone and in batches, memory, dispatches.

    python bench/nano.py [--device NAME] [--runs 5] [--json OUT.json]

The best of several runs after one that compiles; on a shared machine compare runs of one session only.
"""
import argparse
import json
import resource
import time

import numpy as np

import dsvk

PROMPT, TOKENS = 512, 64


def best(runs, run):
    """The quickest of `runs` runs, after one that is not counted, in seconds."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def peak_host_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    device = dsvk.Device(args.device)
    before = peak_host_bytes()
    opened = best(args.runs, lambda: dsvk.Model("nano", device=device).close())
    model = dsvk.Model("nano", device=device)
    figures = dict(device=device.info["name"], driver=device.info["driver"], model="nano", open_seconds=opened,
                   weight_bytes=model.report["device_bytes"], peak_host_bytes_over_start=peak_host_bytes() - before)
    prompt = np.random.default_rng(1).integers(3, 900, PROMPT).tolist()

    def prefill():
        with model.session(context=PROMPT) as session:
            session.sync(prompt)
    figures["prefill_tokens_per_s"] = PROMPT / best(args.runs, prefill)
    figures["decode_tokens_per_s"] = {}
    for batch in (1, 8, 32):
        sessions = [model.session(context=2048) for _ in range(batch)]
        for i, session in enumerate(sessions):
            session.sync(prompt[i:i + 100])
        tokens = TOKENS // 4 if batch > 1 else TOKENS
        seconds = best(args.runs, lambda: model.decode(sessions, tokens, temperature=0))
        figures["decode_tokens_per_s"][batch] = batch * tokens / seconds
        if batch == 1:
            with device.profile() as profile:
                sessions[0].decode(tokens, temperature=0)
            figures["dispatches_per_token"] = profile["dispatches"] / tokens
            figures["submits_per_token"] = profile["submits"] / tokens
            figures["host_us_per_token"] = profile["host_us"] / tokens
        for session in sessions:
            session.close()
    for name, value in figures.items():
        print(f"{name:28}{value}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(figures, f, indent=1)


if __name__ == "__main__":
    main()
