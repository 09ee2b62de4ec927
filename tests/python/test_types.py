"""Types: the stubs are those of the extension (stubtest), and a program on the public interface passes mypy --strict, without one
call that is of unknown type."""
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
CONFIGURATION = Path(__file__).resolve().parents[2] / "pyproject.toml"

PROGRAM = """
import dsvk
from dsvk import ops

def weights_of(device: dsvk.Device) -> dsvk.Tensor:
    return dsvk.Tensor(memoryview(b""), device, form="matrix", dtype="BF16")

async def use(device: dsvk.Device) -> str:
    model = dsvk.Model("nano", device=device)
    with model.session(context=100) as session, device.profile() as profile:
        session.sync([1, 2])
        ids: list[int] = session.decode(3, temperature=0.5)
    text = model.generate("A", max_tokens=3).upper() + session.model.generate("A", 3, stop=["B", 5]).upper()
    for part in model.generate("A", 3, True, temperature=0.5):
        text += part.upper()
    with model.generate("A", stream=True) as generation, model.device.profile(), weights_of(device).device.profile():
        text += str(generation.finish)
    either: str | dsvk.Generation = model.generate("A", stream=bool(ids))
    async for piece in model.astream("A"):
        ids.append(len(piece))
    weights = weights_of(device)
    out: dsvk.Tensor = ops.matmul(weights, weights, groups=2)
    moved, chosen, scores = ops.moe(out, weights, weights, k=2)
    trace: dsvk.Trace = model.trace("A")
    shape: tuple[int, ...] = trace["logits"].shape
    picture: str = trace.plot_expert_load() + dsvk.plan("nano").plot_context() + profile.plot_roofline()
    return f"{text} {either} {ids} {moved.shape} {chosen} {scores} {shape} {picture}"
"""


def run(*arguments, folder):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=900, cwd=folder)


def test_stubs_are_the_extensions(tmp_path):
    (tmp_path / "allowed").write_text("\n".join([
        r"dsvk\._dsvk\.\w+\.__buffer__",        # Python sees it from 3.12 on
        r"dsvk\._dsvk\.Array\.__iter__",         # a sequence by length and items
    ]), encoding="utf-8")
    result = run("mypy.stubtest", "dsvk._dsvk", "--concise", "--ignore-disjoint-bases", "--ignore-unused-allowlist", "--allowlist",
                 "allowed", "--mypy-config-file", str(CONFIGURATION), folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_program_passes_strictly(tmp_path):
    """So does the package behind it, server included where what it stands on is installed."""
    for name in ("starlette", "uvicorn", "pydantic", "prometheus_client"):
        pytest.importorskip(name)
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    result = run("mypy", "--strict", "--follow-imports=silent", "--config-file", str(CONFIGURATION), "-m", "program", "-p", "dsvk",
                 folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
