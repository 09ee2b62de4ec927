"""bench/context.py in small: a session through some thousand tokens, decoding behind pages that were only filled."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dsvk

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build/release/context_decode"


def run(*args):
    done = subprocess.run([sys.executable, ROOT / "bench/context.py", *map(str, args)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_session_is_filled_to_its_end(tmp_path):
    """Beyond what the indexer takes unseen (32 entries), over a page's end; the cache is spec 1.7's to 2 %."""
    run("fill", "--tokens", 5000, "--every", 2500, "--out", tmp_path)
    result = json.loads((tmp_path / "context-fill.json").read_text())
    assert result["position"] == 5000 and [step["position"] for step in result["steps"]] == [2500, 4999]
    assert all(0 <= step["pages_over_spec"] < 0.02 for step in result["steps"])


def test_decoding_at_positions(tmp_path):
    if not PROGRAM.exists():
        pytest.skip("build/release has no program context_decode")
    run("decode", "--small", "--positions", "1000,20000", "--decode", 2, "--out", tmp_path)
    result = json.loads((tmp_path / "context-decode.json").read_text())
    csa, hca = result["layers"]["CSA"], result["layers"]["HCA"]
    assert [row["position"] for row in csa] == [row["position"] for row in hca] == [1000, 20000]
    assert [row["pages"] for row in csa] == [1, 5]
    assert {"indexer", "topk"} <= csa[1]["op_ms_per_token"].keys() and "indexer" not in hca[1]["op_ms_per_token"]
    assert (tmp_path / "context-decode.svg").read_text().startswith("<svg")


def test_bytes_are_the_specs():
    """Cache reads of Flash per token, spec 1.6: 11.3 MB at 4K, 68.2 MB at 128K, 479.3 MB at 1M."""
    lines = run("bytes", "--positions", "4096,131072,1048576").splitlines()
    assert [float(line.split("cache")[1].split("MB")[0]) for line in lines] == [11.3, 68.2, 479.3]


def test_flash_at_a_million_tokens_takes_what_the_spec_says(tmp_path):
    """Spec 1.7: 3,682,498,176 bytes of rows and keys, 12,206,080 of compressor states."""
    shutil.copy(ROOT / "python/dsvk/families/flash.json", tmp_path / "config.json")
    plan = dsvk.plan(str(tmp_path), context=1048576)
    last = plan["context"][-1]
    assert last["tokens"] == 1048576
    assert abs(last["bytes"] / (3_682_498_176 + 12_206_080) - 1) < 0.02
