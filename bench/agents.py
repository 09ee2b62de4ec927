"""Coding agents against `dsvk serve`: the real programs, as `dsvk connect` configures them, with a task that takes one tool call.

    pip install ".[server,grammar]" claude-agent-sdk openai-codex-cli-bin      # the programs are in these wheels
    python bench/agents.py claude-code [--model nano] [--own-prompt] [--tries 3] [--save]
    python bench/agents.py codex ... [-- more words for its command line]

The agent runs in an empty home and a folder with one file, and is asked to run a command that names it. All that it sends passes a
recorder on loopback, which is its proxy for other hosts, too, and refuses those. Agents bring instructions and tools of tens of thousands
of tokens, which take two CPU cores minutes to read; without --own-prompt they are told by options of theirs to be brief and to offer
the shell alone. Prints the session as JSON and one line of verdict; exits with 1 unless a try was done: one call of the shell, executed,
answered from its result, and all of the first turn found kept by the second. --server HOST:PORT asks a server that runs already. --save
writes the JSON under bench/results/agents/.
"""
import argparse
import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

from serving import serving

NOTE = "README.md"      # the only file, which holds its own name
BRIEF = "{home}/brief.md"
RESULTS = Path(__file__).parent / "results" / "agents"


# ---- what passes ----

@dataclass
class Exchange:
    """A request and its answer. seconds: until the first byte of the answer's body, and until its last one."""
    method: str
    path: str
    body: Any
    status: int = 0
    text: bytes = b""
    seconds: list[float] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.text.decode().splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


class Recorder(http.server.BaseHTTPRequestHandler):
    """Hands requests on to server.upstream and their answers back as they come; server.exchanges, server.elsewhere (hosts) tell of them.
    server.added: goes into what asks for an answer."""

    def forward(self) -> None:
        began = time.monotonic()
        text = self.rfile.read(int(self.headers.get("content-length") or 0))
        exchange = Exchange(self.command, urlsplit(self.path).path, json.loads(text) if text else None)
        if self.server.added and exchange.body:
            text = json.dumps({**exchange.body, **self.server.added}).encode()
        self.server.exchanges.append(exchange)
        if not self.path.startswith("/"):
            self.do_CONNECT()
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=3600)
        dropped = {"host", "connection", "content-length", "proxy-connection", "accept-encoding"}
        upstream.request(self.command, self.path, text or None, {name: value for name, value in self.headers.items()
                                                                 if name.lower() not in dropped})
        answer = upstream.getresponse()
        exchange.status = answer.status
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        while piece := answer.read1(65536):
            exchange.seconds = [*(exchange.seconds or [time.monotonic() - began])[:1], time.monotonic() - began]
            exchange.text += piece
            self.wfile.write(piece)
            self.wfile.flush()
        upstream.close()

    do_GET = do_HEAD = do_POST = forward

    def do_CONNECT(self) -> None:
        self.server.elsewhere.append(self.path)
        self.send_error(403)

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):      # the agent has heard enough
            super().handle_one_request()

    def log_message(self, *text: Any) -> None:
        pass


@contextlib.contextmanager
def recording(host: str, added: dict[str, Any]):
    """A recorder in front of host ("127.0.0.1:8000"): its address, and its server, which holds what passed."""
    recorder = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    recorder.upstream, recorder.added, recorder.exchanges, recorder.elsewhere, recorder.daemon_threads = host, added, [], [], True
    thread = threading.Thread(target=recorder.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{recorder.server_address[1]}", recorder
    finally:
        recorder.shutdown()
        thread.join()
        recorder.server_close()


# ---- the wire formats ----

def read_messages(exchange: Exchange) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    for event in exchange.events:
        if event["type"] == "content_block_start":
            blocks.append({"type": event["content_block"]["type"], "name": event["content_block"].get("name"), "text": ""})
        elif event["type"] == "content_block_delta":
            blocks[-1]["text"] += "".join(event["delta"].get(name, "") for name in ("text", "thinking", "partial_json"))
        elif event["type"] == "message_delta":
            usage = event["usage"]
    kinds = {"thinking": "thinking", "text": "text"}
    results = [block for message in exchange.body["messages"] if isinstance(message["content"], list) for block in message["content"]
               if block["type"] == "tool_result"]
    return {"signs_of_life": sum(event["type"] == "ping" for event in exchange.events),
            "turns": [message["role"] for message in exchange.body["messages"]], "results": [text_of(one["content"]) for one in results],
            "said": [{"call": block["name"], "arguments": json.loads(block["text"] or "{}")} if block["type"] == "tool_use" else
                     {kinds[block["type"]]: block["text"]} for block in blocks],
            "usage": usage and {"prompt": usage["input_tokens"] + usage["cache_read_input_tokens"],
                                "cached": usage["cache_read_input_tokens"], "completion": usage["output_tokens"],
                                "thinking": usage["output_tokens_details"]["thinking_tokens"]}}


def read_responses(exchange: Exchange) -> dict[str, Any]:
    def said(item: dict[str, Any]) -> dict[str, Any]:
        if item["type"] == "function_call":
            return {"call": item["name"], "arguments": json.loads(item["arguments"])}
        return {"thinking" if item["type"] == "reasoning" else "text": text_of(item["content"])}
    events, given = exchange.events, exchange.body["input"]
    usage = (events[-1].get("response") or {}).get("usage") if events else None
    return {"signs_of_life": max(0, sum(event["type"] == "response.in_progress" for event in events) - 1),
            "turns": [item.get("role") or item["type"] for item in given],
            "results": [text_of(item["output"]) for item in given if item.get("type") == "function_call_output"],
            "said": [said(event["item"]) for event in events if event["type"] == "response.output_item.done"],
            "usage": usage and {"prompt": usage["input_tokens"], "cached": usage["input_tokens_details"]["cached_tokens"],
                                "completion": usage["output_tokens"],
                                "thinking": usage["output_tokens_details"]["reasoning_tokens"]}}


def text_of(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


# ---- the agents ----

@dataclass
class Agent:
    """package, program: the wheel's module, and where in it the program lies. task: what it is asked. shell: the tool it has for that.
    words: the command line behind the program, for a task; brief: more of it, that leaves its own instructions out. answer: what it
    has printed as its answer, from its lines of JSON."""
    package: str
    program: str
    path: str
    read: Callable[[Exchange], dict[str, Any]]
    task: str
    shell: str
    words: Callable[[str], list[str]]
    brief: list[str]
    answer: Callable[[dict[str, Any]], str | None]
    environment: dict[str, str] = field(default_factory=dict)

    def found(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        path = spec and spec.origin and Path(spec.origin).parent / self.program
        return path if path and path.exists() else None


def codex_answer(line: dict[str, Any]) -> str | None:
    item = line.get("item") or {}
    return item["text"] if line["type"] == "item.completed" and item["type"] == "agent_message" else None


AGENTS = {
    "claude-code": Agent(
        "claude_agent_sdk", "_bundled/claude", "/v1/messages", read_messages, "Use Bash to run `{}`.", "Bash",
        lambda task: ["-p", task, "--output-format", "stream-json", "--verbose", "--allowedTools", "Bash"],
        ["--bare", "--tools", "Bash", "--system-prompt-file", BRIEF, "--disable-slash-commands"], lambda line: line.get("result"),
        {"ANTHROPIC_API_KEY": "none"}),
    "codex": Agent(
        "codex_cli_bin", "bin/codex", "/v1/responses", read_responses, "Run `{}`.", "exec_command",
        lambda task: ["--profile", "dsvk", "exec", "--skip-git-repo-check", "--json", task],
        [word for feature in ("goals", "multi_agent", "apps", "plugins", "hooks", "image_generation", "view_image")
         for word in ("--disable", feature)] +
        [word for setting in ("model_instructions_file=" + BRIEF, "include_apps_instructions=false",
                              "include_collaboration_mode_instructions=false", "include_environment_context=false",
                              "include_permissions_instructions=false", "skills.include_instructions=false", "web_search=disabled")
         for word in ("-c", setting)], codex_answer),
}


@contextlib.contextmanager
def place(agent: Agent, url: str):
    """A home with the agent's configuration, a folder with the note, and the environment in which it runs."""
    with tempfile.TemporaryDirectory() as folder:
        home, work = Path(folder) / "home", Path(folder) / "work"
        home.mkdir(), work.mkdir()
        (work / NOTE).write_text(NOTE + "\n")
        name = next(name for name, one in AGENTS.items() if one is agent)
        environment = {**{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}, "HOME": str(home),
                       "HTTPS_PROXY": url, "HTTP_PROXY": url, "NO_PROXY": "127.0.0.1", **agent.environment}
        subprocess.run([sys.executable, "-m", "dsvk", "connect", name, "--url", url, "--write", "--yes"], check=True,
                       env={**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        (home / "brief.md").write_text("You are brief.\n")
        yield work, environment


def session(agent: Agent, host: str, command: str, more: list[str], timeout: float, added: dict[str, Any]) -> dict[str, Any]:
    """One run of the program against a server ("127.0.0.1:8000"). more: words of its command line; added: to its requests."""
    with recording(host, added) as (url, recorder), place(agent, url) as (work, environment):
        task = agent.task.format(command)
        words = [str(agent.found()), *agent.words(task), *(word.replace("{home}", environment["HOME"]) for word in more)]
        began = time.monotonic()
        try:
            run = subprocess.run(words, cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                 timeout=timeout)
            status, printed, complaint = run.returncode, run.stdout, run.stderr
        except subprocess.TimeoutExpired as expired:
            status, printed, complaint = "timeout", (expired.stdout or b"").decode(), ""
        seconds = time.monotonic() - began
        answers = [agent.answer(json.loads(line)) for line in printed.splitlines() if line.startswith("{")]
        requests = [{"path": one.path, "status": one.status, "stream": bool(one.body.get("stream")),
                     "tools": [tool.get("name") or tool["type"] for tool in one.body.get("tools") or []], **agent.read(one),
                     "first_byte_s": round(one.seconds[0], 2), "seconds": round(one.seconds[-1], 2)}
                    for one in recorder.exchanges if one.path == agent.path and one.seconds]
        return {"task": task, "status": status, "seconds": round(seconds, 1), "requests": requests,
                "other_requests": sorted({f"{one.method} {one.path} {one.status}" for one in recorder.exchanges if one.path != agent.path}),
                "other_hosts": sorted(set(recorder.elsewhere)), "answer": next((one for one in reversed(answers) if one), None),
                **({"complaint": complaint[-600:].replace(str(work.parent), "")} if status else {})}


def verdict(agent: Agent, command: str, told: dict[str, Any]) -> dict[str, bool]:
    """What was done. A whole first turn is its prompt, what was generated, and the end token."""
    first, second = [*told["requests"], {}, {}][:2]
    calls = [one for one in first.get("said", []) if "call" in one]
    result, answer, used, later = "".join(second.get("results", [])), told["answer"] or "", first.get("usage"), second.get("usage")
    return {"called": [one["call"] for one in calls] == [agent.shell] and command in calls[0]["arguments"].values(),
            "executed": NOTE in result,
            "answered": told["status"] == 0 and any(line.strip() in answer for line in result.splitlines() if line.strip()),
            "first_turn_found_kept": bool(used and later) and later["cached"] >= used["prompt"] + used["completion"] + 1}


@contextlib.contextmanager
def served(model: str):
    with serving(model) as (port, _):
        yield f"127.0.0.1:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", choices=AGENTS)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--server", metavar="HOST:PORT")
    parser.add_argument("--command", default="ls")
    parser.add_argument("--temperature", type=float, help="put into the requests, for agents do not say one (and get 1)")
    parser.add_argument("--own-prompt", action="store_true", help="with the agent's own instructions and all of its tools")
    parser.add_argument("--tries", type=int, default=1, help="sampling is not greedy, so a small model may need some")
    parser.add_argument("--timeout", type=float, default=600, metavar="S")
    parser.add_argument("--save", action="store_true")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, more = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1:]
    agent = AGENTS[args.agent]
    if agent.found() is None:
        sys.exit(f"{agent.package} is not installed")
    version = subprocess.run([agent.found(), "--version"], capture_output=True, text=True).stdout.strip()
    failed, added = [], {} if args.temperature is None else {"temperature": args.temperature}
    with contextlib.nullcontext(args.server) if args.server else served(args.model) as host:
        while len(failed) < args.tries:
            told = session(agent, host, args.command, ([] if args.own_prompt else agent.brief) + more, args.timeout, added)
            done = verdict(agent, args.command, told)
            if all(done.values()):
                break
            failed.append({**told, "verdict": done})
            print(json.dumps(failed[-1], indent=1), file=sys.stderr)
    report = {"what": "agents", "agent": args.agent, "version": version, "model": Path(args.model).name, "own_prompt": args.own_prompt,
              "more": more, "added": added,
              "done": all(done.values()), "tries": min(len(failed) + 1, args.tries), "verdict": done, **told}
    text = json.dumps(report, ensure_ascii=False, indent=1)
    print(text)
    if args.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{args.agent}{'-own-prompt' if args.own_prompt else ''}.json").write_text(text + "\n")
    print(f"{args.agent}: " + ("done" if report["done"] else "not done: " + ", ".join(name for name, good in done.items() if not good)),
          file=sys.stderr)
    sys.exit(not report["done"])


if __name__ == "__main__":
    main()
