"""bench/game.py runs the game of lua/examples/ and reports its frames."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "build/release/game_host"


def test_frames_are_reported(tmp_path):
    if not HOST.exists():
        pytest.skip("build/release/game_host is not built here")
    data, plot = tmp_path / "out.json", tmp_path / "out.svg"
    done = subprocess.run([sys.executable, ROOT / "bench/game.py", "--budgets", "0,3000", "--frames", "40", "--json", data,
                           "--plot", plot, "--", HOST], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    silent, talking = json.loads(data.read_text(encoding="utf-8"))
    assert silent["budget_us"] == 0 and talking["budget_us"] == 3000 and talking["device"]
    for result in silent, talking:
        assert result["frames"] == len(result["work_ms"]) == 40
        assert result["late"] == sum(ms > result["frame_ms"] for ms in result["work_ms"])
        assert result["median_ms"] <= result["p99_ms"] <= result["worst_ms"]
    assert silent["median_ms"] < talking["median_ms"]
    assert plot.read_text(encoding="utf-8").startswith("<svg")
