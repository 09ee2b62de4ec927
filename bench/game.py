#!/usr/bin/env python3
"""Frame times of lua/examples/game.lua, with and without characters that talk.

    python bench/game.py --json OUT.json --plot OUT.svg -- tools/with_lavapipe build/release/game_host

What follows -- starts game_host. For each budget, microseconds of a frame for the model (0: nobody talks), a run of ten seconds
at 60 frames per second: late frames, the median, 99 % and longest work of a frame, and every frame's.
"""
import argparse
import json
import os
import subprocess
from pathlib import Path

from dsvk.chart import Bars, svg
from state import state

ROOT = Path(__file__).resolve().parents[1]


def run(command: list[str], frames: int, budget: int) -> dict:
    environment = {**os.environ, "LUA_CPATH": str(ROOT / "build/release/?.so")}
    done = subprocess.run([*command, str(ROOT / "lua/examples/game.lua"), str(frames), str(budget)], env=environment,
                          capture_output=True, text=True, check=True)
    return {"budget_us": budget, "letters": len(done.stderr), **json.loads(done.stdout)}


def bars(result: dict) -> Bars:
    work = result["work_ms"]
    title = (f"{result['budget_us'] / 1e3:g} ms for the model: frames by milliseconds of work; {result['late']} late, "
             f"longest {result['worst_ms']} ms, {result['letters']} letters")
    return Bars(title, [(f"{ms} to {ms + 1} ms", sum(ms <= w < ms + 1 for w in work)) for ms in range(int(max(work)) + 1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", default="0,4000,8000")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    results = [state() | run(options.command, options.frames, int(budget)) for budget in options.budgets.split(",")]
    for result in results:
        print(json.dumps({key: value for key, value in result.items() if key != "work_ms"}))
    if options.json:
        options.json.write_text(json.dumps(results, separators=(",", ":")).replace('},{', '},\n{') + "\n", encoding="utf-8")
    if options.plot:
        heading = [f"{results[0]['frames']} frames of {results[0]['frame_ms']} ms on {results[0]['device']}"]
        options.plot.write_text(svg(heading, [bars(result) for result in results]), encoding="utf-8")


if __name__ == "__main__":
    main()
