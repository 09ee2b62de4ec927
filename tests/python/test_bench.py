"""dsvk bench: what the report holds, counts against the profile, synthetic models, bad input. Times are not judged."""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

import pytest

import dsvk
from dsvk import _dsvk, bench, cli
from dsvk.chart import BAR, Bars, svg
from dsvk.device import MATRIX_OPS, best_of, op_figures
from dsvk.synthetic import FAMILIES, Synthetic, write_config, write_weights

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "dsvk", "bench"]
SHORT = bench.Workload(contexts=(16, 32), batches=(1, 2), seconds=0.01)
LAYERS = "nano:ratios=0/4/128,experts=3,vocab=256"


def run(*words, module=COMMAND, **options):
    return subprocess.run([*module, *map(str, words)], capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope="module")
def of_nano(device):
    return bench.run("nano", device, work=SHORT)


@pytest.fixture(scope="module")
def of_layers(device):
    return bench.run(device=device, synthetic=LAYERS, work=SHORT)


def test_the_report_holds_what_is_promised(of_nano):
    report = json.loads(json.dumps(of_nano))
    assert report["device"]["matmul"] in dsvk.devices()[0]["matmul_variants"]
    assert report["device"]["copy_bytes_per_s"] > 0 and report["device"]["f32_flops_per_s"] > 0
    assert report["model"]["name"] == "nano" and not report["model"]["synthetic"]
    assert report["model"]["layers"] == {"SWA": 2, "CSA": 2, "HCA": 1}
    assert set(report["dispatches_per_layer"]) == {"swa", "csa", "hca"}
    for key in ("dispatches_per_token", "submits_per_token", "host_us_per_token", "decode_tokens_per_s", "prefill_tokens_per_s"):
        assert report[key] > 0, key
    assert [(case["context"], case["batch"]) for case in report["decode"]] == [(16, 1), (16, 2), (32, 1), (32, 2)]
    for ops in (report["ops"], report["prefill_ops"], *(case["ops"] for case in report["decode"])):
        assert len({op["name"] for op in ops}) == len(ops) > 5
        for op in ops:
            assert set(op) == {"name", "calls", "us", "bytes", "flops", "bandwidth_fraction", "flops_fraction",
                               "matrix_fraction"}
            assert op["calls"] > 0 and op["us"] >= 0 and 0 <= op["bandwidth_fraction"]
    assert report["skipped"] == [] and report["extrapolation"] == []


def test_counts_are_the_profiles(of_nano, nano):
    """A token's dispatches: those of its layers, and what is outside of them, which has no layer's name."""
    with nano.session() as session:
        session.sync(list(range(20)))
        session.decode(2)   # what a first decoded token needs once is behind it
        with nano.device.profile() as short:
            _dsvk.Session.decode(session, 4)   # in one call: session.decode cuts its work into slices
        with nano.device.profile() as long:
            _dsvk.Session.decode(session, 8)
    assert of_nano["dispatches_per_token"] == (long["dispatches"] - short["dispatches"]) / 4
    layers, per_layer = of_nano["model"]["layers"], of_nano["dispatches_per_layer"]
    inside = [sum(op["calls"] for op in report["ops"] if op["part"] in layers) for report in (short, long)]
    of_a_token = sum(layers[kind] * per_layer[kind.lower()] for kind in layers)
    assert of_a_token == (inside[1] - inside[0]) / 4 < of_nano["dispatches_per_token"]
    assert {op["part"] for op in long["ops"]} <= {*layers, "head", None}


def test_what_is_measured_at_a_context_is_measured_there(of_nano):
    """Not behind what earlier cases decoded."""
    for case in of_nano["decode"]:
        first, last = case["positions"]
        assert case["context"] < first < last <= case["context"] + bench.ROOM, case["positions"]


def test_of_a_token_is_of_a_token_in_a_batch_too(device):
    report = bench.run("nano", device, work=bench.Workload((16,), (2,), 0.01))
    case, = report["decode"]
    for what in ("dispatches", "submits", "host_us"):
        assert report[f"{what}_per_token"] == case[what] / 2 > 0


def test_whole_counts_are_ints(of_nano):
    assert {type(count) for count in of_nano["dispatches_per_layer"].values()} == {type(of_nano["dispatches_per_token"])} == {int}


@pytest.mark.parametrize("short, long, same", [
    ((1, 150), (1, 297), True),       # submits, dispatches of 3 and of 6 tokens
    ((3, 150), (6, 297), True),
    ((12, 150), (25, 300), True),
    ((1, 150), (2, 297), True),
    ((1, 150), (7, 297), False),      # one token after another, or some of them
    ((12, 150), (1, 297), False),
    ((8, 150), (9, 297), False),
    ((1, 150), (1, 298), False),
])
def test_two_profiles_that_count_the_same_way(short, long, same):
    assert bench.same_way(*({"submits": submits, "dispatches": dispatches} for submits, dispatches in (short, long)), 3) is same


def test_profiles_are_made_again_until_they_count_the_same_way(monkeypatch, device):
    answers, compared = [True, False, False], []
    monkeypatch.setattr(bench, "same_way", lambda short, long, n: compared.append(long) or answers.pop())
    bench.run("nano", device, work=bench.Workload((16,), (1,), 0.01))
    assert len(compared) == 3 and answers == []


def flops(device, work):
    with device.profile() as report:
        work()
    return sum(op["flops"] for op in report["ops"])


def test_taking_back_is_no_new_prefill(nano):
    """One step of one token, of a session that decoded as much as a case does."""
    with nano.session() as session:
        session.sync(list(range(200)))
        of_a_token = flops(nano.device, lambda: _dsvk.decode_batch([session], 1, [{}]))
        session.sync(session.tokens[:200])
        for _ in range(3):
            _dsvk.decode_batch([session], 1 + bench.TAKEN_BACK, [{}])
            assert flops(nano.device, lambda: session.sync(session.tokens[:200])) < 2 * of_a_token
            assert session.position == 200


def test_no_more_dispatches_than_wanted(of_nano):
    """Of a layer of each kind, and of a token of the published models by their layers; what is outside of layers is the same."""
    assert of_nano["dispatches_per_layer"] == {"swa": 8, "csa": 10, "hca": 8}
    outside = of_nano["dispatches_per_token"] - in_layers(of_nano, of_nano["model"]["layers"])
    of_a_token = {family: in_layers(of_nano, bench.layer_counts(dsvk.plan(FAMILIES[family]))) + outside for family in ("flash", "pro")}
    assert of_a_token == {"flash": 393, "pro": 555}


def in_layers(report, counts):
    return sum(n * report["dispatches_per_layer"][kind.lower()] for kind, n in counts.items())


def test_layers_of_a_synthetic_model_are_those_of_the_model(of_nano, of_layers):
    assert of_layers["dispatches_per_layer"] == of_nano["dispatches_per_layer"]
    assert of_layers["model"]["layers"] == {"SWA": 1, "CSA": 1, "HCA": 1} and of_layers["model"]["experts"] == 3


def test_an_extrapolation_says_that_it_is_one(of_layers, of_nano):
    whole, = of_layers["extrapolation"]
    assert whole["family"] == "nano" and whole["layers"] == {"SWA": 2, "CSA": 2, "HCA": 1}
    assert "not a measurement" in whole["how"] and whole["how"] in str(of_layers)
    assert [row["context"] for row in whole["decode"]] == [16, 32]
    case = of_layers["decode"][0]
    us = sum(case["layer_us"][kind] * n for kind, n in whole["layers"].items()) + case["other_us"].get("begin", 0)
    us += case["other_us"]["head"] * 2048 / 256
    assert whole["decode"][0]["step_us"] == pytest.approx(us * case["step_us"] / case["device_us"])
    assert whole["decode"][0]["dispatches_per_token"] == of_nano["dispatches_per_token"]


@pytest.mark.parametrize("layers", ["nano:layers=2,experts=2", "nano:ratios=0/4/128,experts=1"])
def test_no_extrapolation_from_what_was_not_measured(layers, device):
    """Kinds of layers, and experts of a token."""
    report = bench.run(device=device, synthetic=layers, work=bench.Workload((16,), (1,), 0.01))
    assert report["extrapolation"] == [] and (report["dispatches_per_layer"]["csa"] is None) == ("layers" in layers)


def test_what_would_take_too_long_is_left_out_and_listed(device):
    report = bench.run("nano", device, work=bench.Workload((16, 900), (1, 2), 0.01, limit=0.01))
    assert [(case["context"], case["batch"]) for case in report["skipped"]] == [(16, 2), (900, 1), (900, 2)]
    assert len(report["decode"]) == 1 and "left out: 900 tokens" in str(report)


def test_readable(of_nano, of_layers):
    for report in (of_nano, of_layers):
        assert "matmul" in str(report) and "<table>" in report._repr_html_()
        picture = xml.etree.ElementTree.fromstring(report.svg())
        words = [element.text for element in picture.iter() if element.tag.endswith("text")]
        assert "decode, tokens/s" in words and "matmul" in words


def test_bars_of_percent_have_the_scale_of_percent():
    def widths(full):
        parts = svg([], [Bars("%", [("a", 25.0), ("b", 50.0), ("c", 120.0)], full)]).splitlines()
        return [float(part.split('width="')[1].split('"')[0]) for part in parts if part.startswith("<rect")]
    assert widths(100) == [BAR / 4, BAR / 2, BAR]
    assert widths(None)[2] == BAR


def test_the_command(tmp_path):
    words = ("--synthetic", LAYERS, "--contexts", 16, "--batches", 1, "--limit", 5)
    result = run(*words, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.svg")
    assert result.returncode == 0 and "Layers of a decoded step" in result.stdout, result.stderr
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["model"]["name"] == LAYERS and report["version"] == dsvk.__version__
    assert report["command"].startswith(f"dsvk bench --synthetic {LAYERS} --contexts 16 ")
    picture = (tmp_path / "a.svg").read_text()
    assert picture.startswith("<svg") and f"dsvk {dsvk.__version__}: dsvk bench --synthetic {LAYERS}" in picture
    data = run(*words, "--json", module=[sys.executable, "-m", "dsvk.bench"])
    assert data.returncode == 0 and json.loads(data.stdout)["decode"][0]["context"] == 16, data.stderr


def test_results_are_written_whoever_reads(tmp_path):
    """Into a pipe that is closed at its other end."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        words = ("--contexts", 16, "--batches", 1, "--quick", "--json", tmp_path / "a.json", "--plot", tmp_path / "a.svg")
        process = subprocess.run([*COMMAND, *map(str, words)], stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=600)
    assert process.returncode == 1 and process.stderr == ""
    assert json.loads((tmp_path / "a.json").read_text())["decode"] and (tmp_path / "a.svg").read_text().endswith("</svg>\n")


def test_an_existing_file_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("kept")
    monkeypatch.setattr(os, "access", lambda place, mode: str(place) != str(path))    # root could write it
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
        cli.new_file(".json")(str(path))


@pytest.mark.parametrize("words, message", [
    (["--synthetic", "flsh"], "'flsh' is no family of models: flash, pro, nano"),
    (["--synthetic", "flash:layers=44"], "layers=44: flash has 43"),
    (["--synthetic", "flash:layers=x"], "layers=x: expected a number of at least 1"),
    (["--synthetic", "flash:depth=4"], "'depth=4': expected layers=N"),
    (["--synthetic", "flash:ratios=0/5"], "ratios=0/5: expected 0 (SWA), 4 (CSA) or 128 (HCA)"),
    (["--synthetic", "flash:layers=1,ratios=0"], "give one of them"),
    (["--synthetic", "flash", "nano"], "not allowed with"),
    (["--contexts", "0"], "expected numbers of at least 1"),
    (["--batches", "1,b"], "expected numbers of at least 1"),
    (["--limit", "soon"], "expected seconds"),
    (["--limit", "-1"], "expected seconds"),
    (["--limit", "nan"], "expected seconds"),
    (["--batches", "1,600"], "batches: expected numbers from 1 to 32, got (1, 600)"),
    (["--contexts", "16,65504"], "contexts: expected numbers from 1 to 65503, got (16, 65504)"),
    (["--synthetic", "flash:layers=2,layers=3"], "layers=2 and layers=3: give one of them"),
    (["--synthetic", "nano:experts=1000000"], "nano:experts=1000000: n_routed_experts is 1000000, allowed are"),
    (["--synthetic", "nano:vocab=1"], "nano:vocab=1: "),
    (["--json", "nano"], "'nano': expected the name of a file that ends in .json"),
    (["--plot", "/nowhere/a.svg"], "'/nowhere/a.svg' cannot be written"),
])
def test_wrong_usage(words, message):
    result = run(*words)
    assert result.returncode == 2 and message in result.stderr and result.stdout == "", result.stderr


@pytest.mark.parametrize("words, message", [
    (["/nowhere"], "/nowhere"),
    (["--device", "no such device"], "no such device"),
    (["--synthetic", "pro"], "GiB of weights"),
    (["--matmul", "slowly"], "slowly"),
])
def test_failures_are_one_line(words, message):
    result = run(*words)
    assert result.returncode == 1 and result.stdout == "" and message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("options, kind, message", [
    ({"work": bench.Workload(contexts=())}, dsvk.InvalidError, "contexts: expected numbers from 1 to 65503, got ()"),
    ({"work": bench.Workload(batches=())}, dsvk.InvalidError, "batches: expected numbers from 1 to 32, got ()"),
    ({"work": bench.Workload(batches=(0,))}, dsvk.InvalidError, "batches: expected numbers from 1 to 32, got (0,)"),
    ({"work": bench.Workload(batches=(33,))}, dsvk.InvalidError, "batches: expected numbers from 1 to 32, got (33,)"),
    ({"work": bench.Workload(batches=(1.5,))}, TypeError, "batches: expected integers, got (1.5,)"),
    ({"work": bench.Workload(contexts=16)}, TypeError, "contexts: expected numbers, got 16"),
    ({"work": bench.Workload(limit=float("nan"))}, dsvk.InvalidError, "limit: expected a number of at least 0, got nan"),
    ({"work": bench.Workload(seconds="2")}, TypeError, "seconds: expected a number, got '2'"),
    ({"model": "/nowhere", "synthetic": LAYERS}, dsvk.InvalidError, "model and synthetic both say"),
])
def test_bad_arguments_are_told_before_anything_is_measured(options, kind, message):
    with pytest.raises(kind) as caught:
        bench.run(**options, say=lambda text: pytest.fail(text))
    assert message in str(caught.value)


def test_the_largest_batch_is_that_of_a_scheduler(nano):
    dsvk.Scheduler(nano, max_running=bench.MOST_BATCH).close()
    with pytest.raises(dsvk.InvalidError, match=f"allowed are 1 to {bench.MOST_BATCH}"):
        dsvk.Scheduler(nano, max_running=bench.MOST_BATCH + 1)


def interrupted(words, begun, **environment):
    """Sends Ctrl-C as soon as begun() is true."""
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **environment})
    while process.poll() is None and not begun():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == "dsvk: stopped\n" and output == "", errors


def test_control_c_stops_cleanly():
    started = time.monotonic()
    interrupted(["nano", "--contexts", "2000"], lambda: time.monotonic() > started + 4)


def test_control_c_takes_the_checkpoint_away(tmp_path):
    """In the middle of writing it."""
    interrupted(["--synthetic", "flash:ratios=0,experts=40"], lambda: list(tmp_path.glob("*/model.safetensors")), TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["nano:layers=4,experts=5", "flash:ratios=128,experts=1,vocab=64"])
def test_synthetic_checkpoints_are_whole(text, tmp_path):
    synthetic = Synthetic(text)
    told = []
    write_config(synthetic, tmp_path)
    size = write_weights(synthetic, tmp_path, lambda *progress: told.append(progress))
    assert dsvk.verify(tmp_path)["bytes"] == size and told[-1][1:] == (size, size)
    assert dsvk.plan(tmp_path)["purposes"]["weights"] > 0
    assert json.loads(FAMILIES[synthetic.family].read_text()) == synthetic.family_config


OP = {"part": None, "calls": 1, "us": 1.0, "bytes": 1e3, "flops": 1e3}
PEAKS = {"copy_bytes_per_s": 1e9, "transfer_bytes_per_s": 1e9, "kernel_bytes_per_s": 1e8, "copy_buffer_bytes": 1 << 28,
         "f32_flops_per_s": 1e9, "matrix_flops_per_s": 2e9, "matrix_kernel": "coopmat 8x8x16"}


@pytest.mark.parametrize("way, names", [
    (None, set()), ("tiled", set()),
    ("coopmat 16x16x16", {"matmul", "moe_expert_up", "moe_expert_down", "sparse_attn", "indexer"}),
    ("coopmat 16x16x16, plain attention", {"matmul", "moe_expert_up", "moe_expert_down", "indexer"}),
    ("coopmat 16x16x16, plain attention, plain indexer", {"matmul", "moe_expert_up", "moe_expert_down"}),
])
def test_a_fraction_of_matrix_units_only_where_they_are_used(way, names):
    ops = [{"name": name, **OP} for name in (*MATRIX_OPS, "rms_norm", "wo_a", "moe_in")]
    figures = op_figures(ops, peaks=PEAKS, way=way)
    assert {op["name"] for op in figures if op["matrix_fraction"] is not None} == names
    assert {op["matrix_fraction"] for op in figures if op["name"] in names} <= {0.5}


def test_the_ops_of_matrix_units_are_those_that_have_a_kernel_for_them():
    kernels = {path.name.removesuffix("_coopmat.comp") for path in (ROOT / "shaders").glob("*_coopmat.comp")} - {"bench"}
    assert {kernel for kernel in kernels if any(op.startswith(kernel) for op in MATRIX_OPS)} == kernels
    assert all(any(op.startswith(kernel) for kernel in kernels) for op in MATRIX_OPS)
    assert f"#define DSVK_CHUNK {bench.CHUNK}u" in (ROOT / "core/ops/ops.h").read_text()


def test_the_better_of_two_measurements_of_the_device(monkeypatch, device):
    """The first falls into a busy moment."""
    busy = {**PEAKS, "copy_bytes_per_s": 1.0, "f32_flops_per_s": 1.0, "matrix_flops_per_s": None, "matrix_kernel": None}
    quiet = {**busy, "copy_bytes_per_s": 1e15, "f32_flops_per_s": 0.5}
    told = iter((busy, quiet))
    monkeypatch.setattr(dsvk.Device, "measure", lambda self: next(told))
    report = bench.run("nano", device, work=bench.Workload((16,), (1,), 0.01))
    assert report["device"]["copy_bytes_per_s"] == 1e15 and report["device"]["f32_flops_per_s"] == 1.0
    for ops in (report["ops"], report["decode"][0]["ops"], report["prefill_ops"]):
        assert all(op["bandwidth_fraction"] < 1 for op in ops) and any(op["flops_fraction"] > 1 for op in ops)


def test_the_best_of_matrix_units_keeps_its_name():
    other = {**PEAKS, "matrix_flops_per_s": 3e9, "matrix_kernel": "coopmat 16x16x16"}
    assert best_of(PEAKS, other) == best_of(other, PEAKS) == other


def test_measured_peaks(device):
    peaks = device.measure()
    assert peaks["copy_bytes_per_s"] == max(peaks["transfer_bytes_per_s"], peaks["kernel_bytes_per_s"]) > 1e8
    assert peaks["f32_flops_per_s"] > 1e8 and peaks["copy_buffer_bytes"] % 16 == 0
    assert (peaks["matrix_flops_per_s"] is None) == (peaks["matrix_kernel"] is None)
    assert device.memory()["scratch"]["used"] < peaks["copy_buffer_bytes"]   # given back
