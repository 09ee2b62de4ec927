"""bench/serving.py, with a few clients: it serves nano in a process of its own and compares every answer."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client")
BENCH = Path(__file__).resolve().parents[2] / "bench/serving.py"


def test_many_streams_are_answered_and_compared():
    run = subprocess.run([sys.executable, BENCH, "load", "--streams", "6", "--tokens", "2"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["streams"], report["wrong"]) == (6, 0) and 0 < report["first_token_s"]["p50"] <= report["seconds"]
