"""dsvk connect: points a coding agent at a running `dsvk serve`, by what its own configuration is called. Prints it, or writes it into
the agent's file after asking; what else the file holds stays, and a copy of it is kept.

Formats: code.claude.com/docs (settings.json, its env), Codex's config.toml (a profile is a file of its own), opencode.ai/docs/providers.
"""
from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Callable

import dsvk

KEY = "DSVK_API_KEY"      # the environment variable with the key, for us and for the agents
OWN_PROMPT = 32768      # tokens that an agent's own instructions and tools easily take
PATIENCE = 3600      # seconds that a request may last: reading those can take longer than what an agent waits for a hosted model


@dataclass
class Served:
    """url: without /v1; model: its id; context, max_tokens: most tokens altogether, and of an answer; key: whether one is needed."""
    url: str
    model: str
    context: int
    max_tokens: int
    key: bool


def ask(url: str) -> Served:
    """What a server has. Raises InvalidError, FileError or FormatError naming the address."""
    import http.client      # here: no other command waits for them
    import urllib.error
    import urllib.request

    base = url.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise dsvk.InvalidError(f"--url {url}: expected http://HOST:PORT")
    key = os.environ.get(KEY, "")
    request = urllib.request.Request(base + "/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            model = json.load(answer)["data"][0]
            return Served(base, str(model["id"]), int(model["max_input_tokens"]), int(model["max_tokens"]), bool(key))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise dsvk.InvalidError(f"{base}: the key is missing or wrong: set {KEY} in the environment") from None
        raise dsvk.FileError(f"{base}/v1/models: the server answered {error.code}") from None
    except (ValueError, LookupError, TypeError, RecursionError, http.client.HTTPException):
        raise dsvk.FormatError(f"{base}/v1/models: no list of models as dsvk serve has it") from None
    except OSError as error:
        raise dsvk.FileError(f"{base}: {getattr(error, 'reason', error)}; is dsvk serve running there?") from None


# ---- the agents ----

def home(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / otherwise)


def claude_settings(s: Served) -> dict[str, Any]:
    env = {"ANTHROPIC_BASE_URL": s.url, "ANTHROPIC_MODEL": s.model,
           **{f"ANTHROPIC_DEFAULT_{size}_MODEL": s.model for size in ("OPUS", "SONNET", "HAIKU")},
           "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(s.context), "API_TIMEOUT_MS": str(PATIENCE * 1000),
           "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
           # What it would take before the helper goes; without any of them it wants to log in.
           "ANTHROPIC_API_KEY": None, "ANTHROPIC_AUTH_TOKEN": None if s.key else "none"}
    return {"env": env, "apiKeyHelper": f"printenv {KEY}" if s.key else None}      # the file names the variable and holds no key


def claude_shell(s: Served) -> str:
    env = claude_settings(s)["env"]
    lines = [f"export {name}={shlex.quote(value)}" for name, value in env.items() if value is not None]
    return "\n".join(lines + ([f'export ANTHROPIC_AUTH_TOKEN="${KEY}"'] if s.key else []))


def codex_profile(s: Served) -> str:
    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)
    return "\n".join([f"model = {text(s.model)}", 'model_provider = "dsvk"', f"model_context_window = {s.context}", "",
                      "[model_providers.dsvk]", 'name = "dsvk"', f"base_url = {text(s.url + '/v1')}", 'wire_api = "responses"',
                      *([f'env_key = "{KEY}"'] if s.key else [])])


def opencode_settings(s: Served) -> dict[str, Any]:
    options = {"baseURL": s.url + "/v1", **({"apiKey": f"{{env:{KEY}}}"} if s.key else {})}
    limit = {"context": s.context, "output": s.max_tokens}
    return {"$schema": "https://opencode.ai/config.json", "model": f"dsvk/{s.model}",
            "provider": {"dsvk": {"npm": "@ai-sdk/openai-compatible", "name": "dsvk", "options": options,
                                  "models": {s.model: {"name": s.model, "reasoning": True, "tool_call": True, "limit": limit}}}}}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


@dataclass
class Agent:
    """shown: what is printed; merged: what the agent's file becomes, from what it holds, "" for none; start: how to go on."""
    file: Callable[[], Path]
    shown: Callable[[Served], str]
    merged: Callable[[Served, str], str]
    start: str
    hint: str


def into_json(settings: Callable[[Served], dict[str, Any]]) -> Callable[[Served, str], str]:
    return lambda s, before: as_json(merge(json_object(before), settings(s))) + "\n"


AGENTS = {
    "claude-code": Agent(lambda: home("CLAUDE_CONFIG_DIR", ".claude") / "settings.json", claude_shell, into_json(claude_settings),
                         "claude", "for one shell: eval \"$(dsvk connect claude-code)\""),
    "codex": Agent(lambda: home("CODEX_HOME", ".codex") / "dsvk.config.toml", codex_profile, lambda s, before: codex_profile(s) + "\n",
                   "codex --profile dsvk", "a profile of Codex"),
    "opencode": Agent(lambda: home("XDG_CONFIG_HOME", ".config") / "opencode" / "opencode.json",
                      lambda s: as_json(opencode_settings(s)), into_json(opencode_settings), "opencode", "a part of OpenCode's settings"),
}


# ---- files ----

def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return value


def finite(number: str) -> float:
    if (value := float(number)) in (float("inf"), float("-inf")):
        raise ValueError(f"{number} is larger than any number")
    return value


def json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=once, parse_float=finite) if text.strip() else {}
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return value


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """old with new's values, and without what is None in it; objects in both are merged."""
    both = {name: merge(old[name] if isinstance(old.get(name), dict) else {}, value) if isinstance(value, dict) else value
            for name, value in new.items()}
    return {name: value for name, value in {**old, **both}.items() if value is not None or name not in new}


def differences(before: str, after: str) -> list[str]:
    """The lines that go and come, for somebody to agree with."""
    import difflib
    return [line for line in difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
            if line[:1] in "+-" and not line.startswith(("+++", "---"))]


def put(path: Path, text: str) -> Path | None:
    """Replaces a file whole, or not at all, and returns where a copy of what it held is."""
    path = path.resolve()      # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = None
    if path.exists():
        names = (path.with_name(f"{path.name}.before-dsvk{'' if n == 1 else f'-{n}'}") for n in count(1))
        copy = next(name for name in names if not name.exists())
        copy.write_bytes(path.read_bytes())
        copy.chmod(path.stat().st_mode & 0o7777)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, path.stat().st_mode & 0o7777 if copy else 0o600)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return copy


def write(agent: Agent, s: Served, yes: bool, say: Callable[[str], None]) -> bool:
    """Writes the agent's file after asking; False when that was not wanted. Raises FormatError for a file that cannot be merged."""
    path = agent.file()
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    try:
        after = agent.merged(s, before)
        changes = differences(as_json(json_object(before)) if before and path.suffix == ".json" else before, after)
    except ValueError as error:      # comments, too
        raise dsvk.FormatError(f"{path}: {error}; it stays as it is: add what `dsvk connect` prints by hand") from None
    if not changes:
        say(f"{path} is so already")
        return True
    say("\n".join([f"{path}:", *changes]))
    if not yes:
        if not sys.stdin.isatty():
            raise dsvk.InvalidError("--write asks before it writes, and nobody can answer: give --yes")
        print("Write it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return False
    copy = put(path, after)
    say(f"written{f'; what it was: {copy}' if copy else ''}")
    return True


def connect(name: str, url: str, writes: bool, yes: bool, out: Callable[[str], None], say: Callable[[str], None]) -> None:
    """The command: out() gets the configuration, say() the rest."""
    agent, served = AGENTS[name], ask(url)
    if served.context < OWN_PROMPT:
        say(f"note: {served.model} holds {served.context} tokens, and {name}'s own instructions may take more")
    if not writes:
        out(agent.shown(served))
        say(f"({agent.hint}; --write puts it into {agent.file()}; then: {agent.start})")
    elif write(agent, served, yes, say):
        say(f"now: {f'export {KEY}=...; ' if served.key else ''}{agent.start}")
    else:
        say("nothing was written")
