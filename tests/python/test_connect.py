"""dsvk connect: what it prints and writes for each agent, and that it never loses anything of theirs."""
import json
import os
import pty
import subprocess
import sys
import tomllib

import pytest

pytest.importorskip("uvicorn"), pytest.importorskip("starlette"), pytest.importorskip("pydantic")

from dsvk import connect
from dsvk.server import Engine
from serving import Script, served

AGENTS = ["claude-code", "codex", "opencode"]


@pytest.fixture(scope="module")
def engine(nano):
    return Engine(nano, "nano", scheduler=Script(nano.tokenizer))


@pytest.fixture(scope="module")
def url(engine):
    with served(engine) as url:
        yield url


@pytest.fixture
def run(tmp_path, url):
    """run(words..., key=, input=, at=) -> CompletedProcess, in a home of its own."""
    def run(*words, key="", at=url, **options):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "CODEX", "XDG_CONFIG", "ANTHROPIC"))}
        env |= {"HOME": str(tmp_path), "DSVK_API_KEY": key, "http_proxy": "http://127.0.0.1:9"}
        return subprocess.run([sys.executable, "-m", "dsvk", "connect", *words, "--url", at], capture_output=True, text=True, timeout=60,
                              env=env, **{"stdin": subprocess.DEVNULL, **options})
    return run


def file_of(home, agent):
    return home / {"claude-code": ".claude/settings.json", "codex": ".codex/dsvk.config.toml",
                   "opencode": ".config/opencode/opencode.json"}[agent]


def parsed(agent, text):
    return tomllib.loads(text) if agent == "codex" else json.loads(text)


def test_what_is_printed(run, url):
    shell = run("claude-code")
    echo = 'echo "$ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN $ANTHROPIC_MODEL $CLAUDE_CODE_MAX_CONTEXT_TOKENS $API_TIMEOUT_MS"'
    told = subprocess.run(["sh", "-ec", f"{shell.stdout}\n{echo}"], capture_output=True, text=True).stdout
    assert told == f"{url} none nano 65536 3600000\n"
    profile = tomllib.loads(run("codex", at=url + "/v1/").stdout)
    assert profile == {"model": "nano", "model_provider": "dsvk", "model_context_window": 65536, "model_providers": {
        "dsvk": {"name": "dsvk", "base_url": url + "/v1", "wire_api": "responses"}}}
    settings = json.loads(run("opencode").stdout)
    assert settings["model"] == "dsvk/nano" and settings["provider"]["dsvk"]["options"] == {"baseURL": url + "/v1"}
    assert settings["provider"]["dsvk"]["models"]["nano"]["limit"] == {"context": 65536, "output": 65536}


@pytest.mark.parametrize("agent", AGENTS)
def test_files_are_written_and_written_again(run, tmp_path, agent):
    path = file_of(tmp_path, agent)
    refused = run(agent, "--write")
    assert refused.returncode == 1 and "give --yes" in refused.stderr.splitlines()[-1] and not path.exists()
    assert run(agent, "--write", "--yes").returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600 and parsed(agent, path.read_text())
    again = run(agent, "--write")      # nothing to ask
    assert again.returncode == 0 and "is so already" in again.stderr
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("agent", ["claude-code", "opencode"])
def test_what_a_file_holds_stays(run, tmp_path, agent):
    path = file_of(tmp_path, agent)
    path.parent.mkdir(parents=True)
    mine = {"model": "mine", "env": {"MINE": "1", "ANTHROPIC_MODEL": "x"}, "provider": {"other": {"é": [1]}}, "last": True}
    for before in (json.dumps(mine, indent=4), json.dumps(mine)):
        path.write_text(before)
        path.chmod(0o640)
        ran = run(agent, "--write", "--yes")
        assert ran.returncode == 0 and ("ANTHROPIC_MODEL" in ran.stderr or '-  "model": "mine"' in ran.stderr), ran.stderr
        after = json.loads(path.read_text())
        assert after["env"]["MINE"] == "1" and after["provider"]["other"] == {"é": [1]} and after["last"] is True
        assert path.stat().st_mode & 0o777 == 0o640
    assert [path.with_name(path.name + end).read_text() for end in (".before-dsvk", ".before-dsvk-2")] == [
        json.dumps(mine, indent=4), json.dumps(mine)]


@pytest.mark.parametrize("text", ["{ // a comment\n}", "[]", '{"a": 1', "no", '{"a": 1, "a": 2}', '{"a": 1e400}', "[" * 100_000],
                         ids=["comment", "list", "cut", "none", "twice", "too large", "deep"])
def test_what_cannot_be_merged_is_left_alone(run, tmp_path, text):
    path = file_of(tmp_path, "opencode")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    ran = run("opencode", "--write", "--yes")
    assert ran.returncode == 1 and "it stays as it is" in ran.stderr and path.read_text() == text
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("answer, written", [("y\n", True), ("\n", False), ("no\n", False)])
def test_it_asks(run, tmp_path, answer, written):
    terminal, slave = pty.openpty()
    os.write(terminal, answer.encode())
    ran = run("codex", "--write", stdin=slave)
    os.close(terminal), os.close(slave)
    assert ran.returncode == 0 and "Write it? [y/N]" in ran.stderr and file_of(tmp_path, "codex").exists() == written


def test_keys_are_named_and_not_written(run, engine, tmp_path):
    with served(engine, keys=["secret-key"]) as at:
        for agent in AGENTS:
            wrong = run(agent, at=at, key="wrong")
            assert wrong.returncode == 1 and "set DSVK_API_KEY" in wrong.stderr
            shown = run(agent, at=at, key="secret-key")
            ran = run(agent, "--write", "--yes", at=at, key="secret-key")
            text = file_of(tmp_path, agent).read_text()
            assert ran.returncode == 0 and "DSVK_API_KEY" in text and "DSVK_API_KEY" in shown.stdout
            assert "secret-key" not in text + shown.stdout + ran.stderr


def test_claude_code_finds_one_way_to_log_in(run, engine, tmp_path):
    """What it would take before the one that is meant goes, be it an earlier dsvk's."""
    path = file_of(tmp_path, "claude-code")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"env": {"ANTHROPIC_API_KEY": "sk-old", "MINE": "1"}}))
    with served(engine) as free, served(engine, keys=["secret-key"]) as kept:
        without, with_one = (free, "", None, "none"), (kept, "secret-key", "printenv DSVK_API_KEY", None)
        for at, key, helper, token in (without, with_one, without):
            ran = run("claude-code", "--write", "--yes", at=at, key=key)
            after = json.loads(path.read_text())
            assert ran.returncode == 0 and after.get("apiKeyHelper") == helper and after["env"].get("ANTHROPIC_AUTH_TOKEN") == token
            assert "ANTHROPIC_API_KEY" not in after["env"] and after["env"]["MINE"] == "1"


def test_addresses_that_are_none(run, url):
    for at, said in (("127.0.0.1:1", "expected http://"), ("http://127.0.0.1:1", "is dsvk serve running"), (url + "/no", "answered 404"),
                     ("http://a b", "no list of models")):
        ran = run("codex", at=at)
        assert ran.returncode == 1 and said in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr


def test_a_failing_write_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "settings.json"
    path.write_text("{}")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        connect.put(path, "new")
    assert path.read_text() == "{}" and sorted(one.name for one in tmp_path.iterdir()) == ["settings.json", "settings.json.before-dsvk"]
