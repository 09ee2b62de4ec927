"""bench/compile_table/run: what it judges, and, where the GPU compilers are unpacked, one GPU of each vendor."""
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "bench/compile_table/run"
DRIVERS = ROOT / ".cache/gpu-compilers"

loader = SourceFileLoader("compile_table", str(RUN))
table = module_from_spec(spec_from_loader("compile_table", loader))
loader.exec_module(table)

AMD = {"shader": "matmul", "constants": "TYPE=2 ROWS=8", "executables": [{"name": "Compute", "subgroup": 64, "statistics": {
    "VGPRs": 120, "SGPRs": 108, "Spilled VGPRs": 0, "Spilled SGPRs": 0, "Scratch size": 0, "LDS size": 16384,
    "Subgroups per SIMD": 12, "Code size": 9412, "Instructions": 1534, "Inverse Throughput": 14635}}]}
NVIDIA = {"shader": "topk", "constants": "", "executables": [{"name": "Compute", "subgroup": 32, "statistics": {
    "Number of GPRs": 24, "Spills to memory": 0, "Fills from memory": 0, "Spills to reg": 17, "SLM size": 0,
    "Max warps/SM": 48, "Code size": 17296, "Instruction count": 1081, "Static cycle count": 73147}}]}
INTEL = {"shader": "topk", "constants": "", "executables": [{"name": "compute", "subgroup": 16, "statistics": {
    "Max live registers": 96, "GRF registers": 0, "Spills": 1, "Fills": 2, "Scratch Memory Size": 0, "Workgroup Memory Size": 4356,
    "Code size": 15440, "Instructions": 1028, "Cycles": 112132, "Max dispatch width": 16}}]}
NAME = "matmul TYPE=2 ROWS=8 #64"


def rows(**changes):
    return {NAME: {**table.rows_of({"pipelines": [AMD]})[NAME], **changes}}


def test_rows_and_text_say_the_same():
    found = table.rows_of({"pipelines": [AMD, NVIDIA]})
    assert list(found) == [NAME, "topk #32"]
    assert found[NAME] == {"registers": 120, "spills": 0, "scratch": 0, "shared": 16384, "subgroups": 12, "code": 9412,
                           "instructions": 1534, "cycles": 14635}
    assert found["topk #32"]["shared"] is None and found["topk #32"]["spills"] == 0   # "to reg" is no memory
    text = table.table_text("navi31", "AMD Radeon", "radv Mesa 26.1.6", found)
    assert table.read_table(text) == ("radv Mesa 26.1.6", found)


@pytest.mark.parametrize("column", ["spills", "scratch"])
def test_spills_and_scratch_are_faults(column):
    assert table.faults(rows()) == []
    assert table.faults(rows(**{column: 4})) == [f"{NAME}: 4 {column}"]
    assert table.faults(rows(**{column: None})) == [f"{NAME}: no figure for {column}"]


def test_where_spills_are_known_they_may_not_grow():
    found = table.rows_of({"pipelines": [INTEL]})
    assert found["topk #16"] == {"registers": 96, "spills": 3, "scratch": 0, "shared": 4356, "subgroups": None, "code": 15440,
                                 "instructions": 1028, "cycles": 112132}
    assert table.faults(found) == ["topk #16: 3 spills"] and table.faults(found, spilling=True) == []
    assert table.faults(rows(spills=None), spilling=True) == [f"{NAME}: no figure for spills"]
    assert table.faults(rows(scratch=4), spilling=True) == [f"{NAME}: 4 scratch"]
    assert table.regressions(rows(spills=4), rows(spills=4), 10) == []
    assert table.regressions(rows(spills=5), rows(spills=4), 50) == [f"{NAME}: spills 4 -> 5"]


@pytest.mark.parametrize("column, within, beyond", [
    ("cycles", 16098, 16099), ("code", 10353, 10354), ("shared", 18022, 18023), ("subgroups", 11, 10)])
def test_figures_may_be_worse_by_the_margin_only(column, within, beyond):
    before = rows()
    assert table.regressions(rows(**{column: within}), before, 10) == []
    assert table.regressions(rows(**{column: beyond}), before, 10) == [f"{NAME}: {column} {before[NAME][column]} -> {beyond}"]
    assert table.regressions(before, rows(**{column: beyond}), 10) == []              # better is no regression


def test_kernels_must_be_the_tables():
    assert table.regressions(rows(), {}, 10) == [f"{NAME}: not in the table"]
    assert table.regressions({}, rows(), 10) == [f"{NAME}: only in the table"]


def test_families_without_a_shim_are_named(tmp_path):
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    for name in ["ld-linux-x86-64.so.2", "libamdgpu_noop_drm_shim.so", "libnouveau_noop_drm_shim.so"]:
        (folder / name).touch()
    gpus, left_out = table.gpus_of(tmp_path)
    assert gpus == table.FAMILIES["amd"][3] + table.FAMILIES["nvidia"][3]
    assert left_out == ["intel: left out, there is no libintel_noop_drm_shim.so: skl, tgl, dg2, bmg"]
    (folder / "libintel_noop_drm_shim.so").touch()
    assert table.gpus_of(tmp_path) == (gpus + table.FAMILIES["intel"][3], [])


def test_another_compiler_is_said_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TABLES", tmp_path)
    report = {"pipelines": [AMD], "validation_messages": 0, "device": {"name": "AMD Radeon", "driver": "radv Mesa 26.1.6"}}
    better = {**table.rows_of(report), NAME: rows(cycles=1)[NAME]}
    arguments = SimpleNamespace(update=False, margin=10)
    for driver, problems, compared in [("radv Mesa 26.1.6", 1, True), ("radv Mesa 26.0.0", 0, False)]:
        (tmp_path / "navi31.txt").write_text(table.table_text("navi31", "AMD Radeon", driver, better), encoding="utf-8")
        found, remark, was_compared = table.judge("navi31", report, arguments)
        assert (len(found), was_compared) == (problems, compared) and ("not compared" in remark) != compared
    assert table.summary(7, 0, 0, False) == "7 GPUs, 0 failed"
    assert table.summary(7, 1, 2, False) == "7 GPUs, 1 failed; 2 not compared with their tables: another compiler version"


def test_a_gpu_that_cannot_be_opened_fails_with_its_reason(tmp_path):
    if not (DRIVERS / "icd").is_dir() or not (ROOT / "build/release/pipelines").exists():
        pytest.skip("needs the GPU compilers and the program, as below")
    with pytest.raises(RuntimeError, match="no such chip: "):
        table.compile_for("no such chip", ROOT / "build/release/pipelines", DRIVERS, False)


@pytest.mark.parametrize("gpu", ["navi31", "172", "bmg"])
def test_kernels_do_not_spill_and_are_as_good_as_the_table(gpu):
    if not (DRIVERS / "icd").is_dir():
        pytest.skip("the GPU compilers are not unpacked: tools/fetch_driver gpu-compilers .cache/gpu-compilers")
    if not table.shim(DRIVERS, table.family_of(gpu)).exists():
        pytest.skip("Intel's shim is not built: tools/fetch_driver intel-shim .cache/gpu-compilers")
    if not (ROOT / "build/release/pipelines").exists():
        pytest.skip("build/release has no program pipelines")
    run = subprocess.run([RUN, "--gpu", gpu], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
