"""The dsvk command: results on stdout, the rest on stderr, one line for every failure, exit status 0, 1, 2 or 130."""
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

import dsvk

COMMAND = [sys.executable, "-m", "dsvk"]


def run(*words, **options):
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=600, **options)


def test_no_command_is_wrong_usage():
    for words in ([], ["nonsense"], ["generate"], ["generate", "nano", "A", "--cache", "f16"]):
        result = run(*words)
        assert result.returncode == 2 and "usage:" in result.stderr
    assert run("--version").stdout == f"dsvk {dsvk.__version__}\n"


def test_devices(device):
    result = run("devices")
    assert result.returncode == 0 and device.info["name"] in result.stdout and "chosen" in result.stdout
    assert [d["name"] for d in json.loads(run("devices", "--json").stdout)] == [d["name"] for d in dsvk.devices()]


def test_devices_without_a_driver():
    result = run("devices", env={**os.environ, "VK_DRIVER_FILES": "/nonexistent", "VK_ICD_FILENAMES": "/nonexistent"})
    assert result.returncode == 1 and result.stderr.startswith("dsvk: ") and "Traceback" not in result.stderr


def test_generate_streams_text_and_says_how_fast(nano):
    words = ("generate", "nano", "ROMEO:\n", "--max-tokens", 30, "--seed", 4)
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert result.stdout == nano.generate("ROMEO:\n", max_tokens=30, seed=4) + "\n"
    for word in ("device", "prefill", "decode", "tokens/s", "memory", nano.device.info["name"]):
        assert word in result.stderr
    assert run(*words).stdout == result.stdout
    assert run(*words[:2], "-", *words[3:], input="ROMEO:\n").stdout == result.stdout
    assert run(*words, "--echo").stdout == "ROMEO:\n" + result.stdout


def test_generate_ids(nano):
    result = run("generate", "nano", "0 5, 6", "--ids", "--max-tokens", 5, "--temperature", 0)
    assert result.returncode == 0, result.stderr
    with nano.session() as session:
        session.sync([0, 5, 6])
        assert list(map(int, result.stdout.split())) == session.decode(5, stop=[nano.config["eos_token_id"]])
    result = run("generate", "nano", "0 x", "--ids")
    assert result.returncode == 1 and result.stderr.splitlines()[-1] == "dsvk: --ids: expected numbers, got '0 x'"


@pytest.mark.parametrize("words, message", [
    (["generate", "/nowhere", "A"], "/nowhere"),
    (["generate", "nano", "A", "--device", "no such device"], "no such device"),
    (["generate", "nano", "A", "--temperature", "-1"], "temperature"),
    (["generate", "nano", "", "--no-bos"], "the prompt is empty"),
    (["plan", "/nowhere"], "/nowhere"),
    (["plan", "nano", "--context", "999999999"], "999999999"),
    (["verify", "/nowhere"], "/nowhere"),
    (["tokenize", "/nowhere", "A"], "/nowhere"),
    (["tokenize", "nano", "5000", "--decode"], "5000"),
])
def test_failures_are_one_line(words, message):
    result = run(*words)
    assert result.returncode == 1 and result.stdout.strip() == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("dsvk: ") and message in lines[0], result.stderr


def test_plan(tmp_path):
    shutil.copy(dsvk.locate("nano") / "config.json", tmp_path)
    result = run("plan", tmp_path / "config.json")
    assert result.returncode == 0, result.stderr
    for word in ("weights", "cache", "scratch", "CSA", "HCA", "SWA", "MTP", "tokens"):
        assert word in result.stdout
    assert json.loads(run("plan", tmp_path, "--json", "--context", 500).stdout) == dsvk.plan(tmp_path, context=500)
    assert "it fits" in run("plan", "nano", "--device", 0).stdout


def test_verify(tmp_path):
    result = run("verify", "nano")
    assert result.returncode == 0 and "tensors" in result.stdout
    for name in ("config.json", "model.safetensors"):
        shutil.copy(dsvk.locate("nano") / name, tmp_path)
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.write(b"\xff" * 8)
    result = run("verify", tmp_path)
    assert result.returncode == 1 and "model.safetensors" in result.stderr


def test_tokenize(nano):
    ids = nano.tokenizer.encode("To be, or")
    assert run("tokenize", "nano", "To be, or").stdout.split() == list(map(str, ids))
    assert json.loads(run("tokenize", "nano", "-", "--json", input="To be, or").stdout) == ids
    assert run("tokenize", "nano", " ".join(map(str, ids)), "--decode").stdout == "To be, or\n"


def test_control_c_stops_cleanly():
    process = subprocess.Popen([*COMMAND, "generate", "nano", "A", "--max-tokens", "4000"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(1)                # text is flowing
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "dsvk: stopped" in errors and "Traceback" not in errors


def test_a_reader_that_leaves():
    process = subprocess.Popen([*COMMAND, "generate", "nano", "A", "--max-tokens", "300"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.read(1)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 1 and "Traceback" not in errors and "Broken pipe" not in errors


@pytest.mark.parametrize("words, stream, status", [
    (["devices"], "stdout", 1), (["nonsense"], "stderr", 2), (["generate", "/nowhere", "A"], "stderr", 1)])
def test_a_reader_that_left_makes_no_other_exit_status(words, stream, status):
    """Python would say 120 for what it could not write in the end."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    try:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: write}
        assert subprocess.run([*COMMAND, *words], env=usual, **streams).returncode == status
    finally:
        os.close(write)
