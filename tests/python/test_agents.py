"""Claude Code and Codex as real programs against a server whose model says what a test wrote: each is configured by `dsvk connect`, runs
the command that the model calls for, hands the result back and prints the answer. bench/agents.py runs them with a model."""
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client")

from dsvk.server import Engine, limits  # noqa: E402
from serving import Script, served  # noqa: E402

BENCH = Path(__file__).resolve().parents[2] / "bench/agents.py"
CALL = ('The tool fits.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="{}">\n<｜DSML｜parameter name="{}" string="true">ls'
        '</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>')
AGENTS = {"claude-code": ("claude_agent_sdk", "Bash", "command", []),
          "codex": ("codex_cli_bin", "exec_command", "cmd", ["-c", "model_providers.dsvk.stream_idle_timeout_ms=1500"])}


@pytest.mark.parametrize("agent, own_prompt", [("claude-code", False), ("claude-code", True), ("codex", True)])
def test_a_task_with_one_call_is_completed(nano, monkeypatch, agent, own_prompt):
    """The second prompt begins with the whole first turn, so that it can be found kept. Silence that outlasts the agent's patience is
    filled with signs of life."""
    package, tool, parameter, more = AGENTS[agent]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(limits, "KEEP_ALIVE_SECONDS", 0.2)
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer))
    call = CALL.format(tool, parameter)
    engine.scheduler.say((call, 2.5), "It is done.</think>There is one: README.md")
    with served(engine) as url:
        words = [agent, "--server", url.removeprefix("http://"), "--timeout", "60", *(["--own-prompt"] if own_prompt else []), "--", *more]
        run = subprocess.run([sys.executable, BENCH, *words], capture_output=True, text=True, timeout=120)
    told = json.loads(run.stdout)
    assert told["verdict"] == {"called": True, "executed": True, "answered": True, "first_turn_found_kept": False}, run.stderr
    assert told["answer"] == "There is one: README.md" and run.stderr.strip().endswith("not done: first_turn_found_kept")
    first, second = engine.scheduler.prompts
    whole = first + nano.tokenizer.encode(call, special=True) + [nano.tokenizer.id("<｜end▁of▁sentence｜>")]
    assert second[:len(whole)] == whole and nano.tokenizer.decode(second[len(whole):]).startswith("<｜User｜><tool_result>")
    assert told["requests"][0]["signs_of_life"] >= 3 and len(told["requests"]) == 2
    assert len(first) > 12000 if own_prompt else len(first) < 4000
