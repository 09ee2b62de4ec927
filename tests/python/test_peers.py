"""bench/peers/run: what it makes of its programs' answers, and, where the newer driver is unpacked, our own side of it."""
import importlib.machinery
import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "bench/peers/run"


@pytest.fixture(scope="module")
def peers():
    loader = importlib.machinery.SourceFileLoader("peers_run", str(RUN))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("peers_run", loader))
    loader.exec_module(module)
    return module


def test_the_best_of_all_turns_counts(peers):
    turns = [{"us": 5.0, "runs": 3, "first_us": 90}, {"us": 4.0, "runs": 2, "first_us": 90}]
    assert peers.merged(turns) == {"us": 4.0, "runs": 5, "first_us": 90}
    assert peers.merged([*turns, {"unsupported": "it failed"}]) == {"unsupported": "it failed"}


def test_compared_with_the_better_of_its_thread_counts(peers):
    row = {"peers": {"dsvk": {"us": 2.0}, "ggml Vulkan": {"us": 20.0}, "ggml CPU": {"us": 8.0}, "ggml CPU, 1 thread": {"us": 3.0}}}
    assert peers.compared(row) == {"times_ggml_vulkan": 10.0, "times_ggml_cpu": 1.5}
    assert peers.compared({"peers": {"dsvk": {"us": 2.0}, "ggml Vulkan": {"unsupported": "no"}}}) == {
        "times_ggml_vulkan": None, "times_ggml_cpu": None}


def test_nothing_asked_for_is_wrong_usage():
    run = subprocess.run([RUN, "--only", "nonsense"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "no case or no peer is left" in run.stderr


def test_our_side_runs_every_case(peers, tmp_path):
    if not (ROOT / ".cache/gpu-compilers/icd").is_dir():
        pytest.skip("the newer lavapipe is not unpacked: tools/fetch_driver gpu-compilers .cache/gpu-compilers")
    if not (ROOT / "build/release/libdsvk.a").exists():
        pytest.skip("build/release/libdsvk.a is not built here")
    words = ["--peers", "dsvk", "--rounds", "1", "--seconds", "0.01", "--json", tmp_path / "peers.json"]
    run = subprocess.run([RUN, *words], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "peers.json").read_text())
    assert [row["case"] for row in report["cases"]] == [case for _, case in peers.CASES] and report["absent"] == {}
    assert all(row["peers"]["dsvk"]["us"] > 0 for row in report["cases"])
