"""The dsvk command.

    dsvk devices                       every Vulkan device and whether it can be used
    dsvk generate MODEL PROMPT         continue a text; MODEL is a folder, or "nano"
    dsvk chat MODEL                    talk with it
    dsvk plan MODEL                    what would be allocated where, from the configuration alone
    dsvk verify MODEL                  read and check every tensor
    dsvk tokenize MODEL TEXT           the token ids of a text
    dsvk serve MODEL                   answer clients of OpenAI's and Anthropic's APIs, and show a page
    dsvk connect AGENT                 point claude-code, codex or opencode at a server
    dsvk bench [MODEL]                 how fast it is, per op and per model; --synthetic needs no weights

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed (one line says why), 2 wrong usage,
130 stopped by Ctrl-C.
"""
from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from typing import Any, Callable

import dsvk
from dsvk import _dsvk, bench as benchmark
from dsvk.connect import AGENTS, connect as connect_agent
from dsvk.conversation import Conversation
from dsvk.model import end_ids
from dsvk.plans import Plan, layer_kinds
from dsvk.progress import Callback, Shown
from dsvk.synthetic import Synthetic
from dsvk.tables import cell, size, text_table
from dsvk.terminal import Chat, line_editing, read_tools


def note(text: str = "") -> None:
    with contextlib.suppress(BrokenPipeError):      # nobody listens, which ends neither a server nor its last answers
        print(text, file=sys.stderr, flush=True)


def out(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


# ---- devices ----

def devices(args: argparse.Namespace) -> None:
    survey = _dsvk.survey()
    found = survey["devices"]
    if args.json:
        out(json.dumps(found, indent=2))
        return
    if not found:
        raise dsvk.NoDeviceError(f"no Vulkan device: {survey['loader']}")
    rows = [{"#": d["index"], "device": d["name"], "type": d["type"], "Vulkan": d["api"], "memory": size(d["memory"]),
             "subgroup": cell(d["subgroup"]), "usable": "chosen" if d.get("chosen") else cell(d["usable"]),
             "reason": d.get("reason") or ""} for d in found]
    out(text_table(rows))


# ---- generate ----

def numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise dsvk.InvalidError(f"--ids: expected numbers, got {text[:60]!r}") from None


def rate(tokens: int, seconds: float) -> str:
    return f"{tokens} tokens in {seconds:.2f} s" + (f" ({tokens / seconds:.1f} tokens/s)" if seconds > 0 else "")


def summary(device: _dsvk.Device, load_seconds: float, prefill: tuple[int, float], decode: tuple[int, float],
            session_memory: dict[str, Any]) -> None:
    """What newcomers ask: on what, how fast, how much memory."""
    memory = {name: entry for name, entry in device.memory().items() if "used" in entry}
    peak = ", ".join(f"{name} {size(entry['peak'])}" for name, entry in memory.items())
    info = device.info
    note(f"device   {info['name']} ({info['type']}), {info['driver']}")
    note(f"load     {load_seconds:.2f} s")
    note(f"prefill  {rate(*prefill)}")
    note(f"decode   {rate(*decode)}")
    note(f"memory   {size(sum(entry['peak'] for entry in memory.values()))} at most on the device: {peak}")
    session_bytes = sum(value for value in session_memory.values() if isinstance(value, (int, float)))
    if session_bytes:
        note(f"session  {size(session_bytes)}")


def generate_ids(model: dsvk.Model, args: argparse.Namespace, options: dict[str, Any], load_seconds: float) -> None:
    """Token ids in, token ids out: for checkpoints without a tokenizer."""
    prompt = numbers(args.prompt)
    ends = end_ids(model.config)
    with model.session(context=args.context) as session:
        start = time.perf_counter()
        session.sync(prompt)
        prefilled = time.perf_counter()
        n = 0
        for ids in session.stream(args.max_tokens, stop=ends, **options):
            out(" ".join(map(str, ids)), end=" ")
            n += len(ids)
        out("")
        summary(model.device, load_seconds, (len(prompt), prefilled - start), (n, time.perf_counter() - prefilled),
                session.memory)


def generate_text(model: dsvk.Model, args: argparse.Namespace, options: dict[str, Any], load_seconds: float) -> None:
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    generation = model.generate(prompt, max_tokens=args.max_tokens, stream=True, stop=args.stop, bos=not args.no_bos, **options)
    with generation:
        try:
            if args.echo:
                out(prompt, end="")
            for piece in generation:
                out(piece, end="")
        finally:
            out("")
        summary(model.device, load_seconds, (len(generation.prompt_tokens), generation.prefill_seconds),
                (len(generation.tokens), generation.decode_seconds), generation.memory)


def generate(args: argparse.Namespace) -> None:
    options = sampling(args)
    if options["seed"] is None:
        options["seed"] = int.from_bytes(os.urandom(4), "little")
    start = time.perf_counter()
    with dsvk.Model(args.model, device=args.device, progress=sys.stderr.isatty(), cache=args.cache) as model:
        run = generate_ids if args.ids else generate_text
        run(model, args, options, time.perf_counter() - start)


# ---- chat ----

def chat(args: argparse.Namespace) -> None:
    tools = read_tools(args.tools) if args.tools else []
    with dsvk.Model(args.model, device=args.device, progress=sys.stderr.isatty(), cache=args.cache) as model, \
            dsvk.Scheduler(model, context=args.context, max_running=1) as scheduler, line_editing(args.history):
        context = args.context or model.config["max_positions"]
        talk = Conversation(model, scheduler, thinking=not args.no_think, effort=args.effort, system=args.system, tools=tools,
                            revision=args.revision, max_tokens=args.max_tokens, **sampling(args))
        name = dsvk.locate(args.model).resolve().name
        if sys.stdin.isatty():
            note(f"{name} on {model.device.info['name']}; /help lists the commands, Ctrl-D ends")
        Chat(talk, name, context).run()


# ---- plan, verify, tokenize ----

def show_plan(report: Plan) -> None:
    """A plan in three tables: purposes, layers, session memory by tokens."""
    out(text_table(report.purposes()))
    out(f"\nA token reads {size(report['bytes_per_token'])} of weights.\n")
    out(text_table(layer_kinds(report["layers"])) + "\n")
    out(text_table([{"tokens": row["tokens"], "session": size(row["bytes"])} for row in report["context"]]))
    if "fits" in report:
        out(f"\n{report['device']['name']}: {size(report['available'])} available, "
            f"{'it fits' if report['fits'] else 'it does not fit'}")


def plan(args: argparse.Namespace) -> None:
    device = dsvk.Device(args.device) if args.device is not None else None
    report = dsvk.plan(args.model, context=args.context, device=device, cache=args.cache)
    if args.json:
        out(json.dumps(report, indent=2))
    else:
        show_plan(report)


def pull(args: argparse.Namespace) -> None:
    out(str(dsvk.hub.pull(args.model, args.revision, sys.stderr.isatty(), args.offline)))


def verify(args: argparse.Namespace) -> None:
    report = dsvk.verify(args.model, progress=sys.stderr.isatty(), strict=args.strict)
    if args.json:
        out(json.dumps(report, indent=2))
    else:
        out("\n".join(f"{name:<14}{cell(value)}" for name, value in report.items()))


def tokenize(args: argparse.Namespace) -> None:
    tokenizer = dsvk.Tokenizer(dsvk.locate(args.model, files=["tokenizer.json"]))
    text = sys.stdin.read() if args.text == "-" else args.text
    if args.decode:
        out(tokenizer.decode(numbers(text)))
        return
    ids = tokenizer.encode(text, special=args.special)
    if args.json:
        out(json.dumps(ids))
    else:
        out(" ".join(map(str, ids)))


# ---- serve ----

def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 65535")
    return int(text)


def whole_number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2 ** 31:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, a number of at least 0")
    return value


def origin(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s*]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected the origin of a page, such as https://page.example")
    return text


def keys_in(path: str | None) -> list[str]:
    """The API keys of a file, one a line, in ASCII as a header has them."""
    if path is None:
        return []
    with open(path, "rb") as file:
        lines = [line.strip() for line in file]
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            raise dsvk.InvalidError(f"--key-file {path}: the key in line {number} has other than ASCII characters")
    keys = [line.decode() for line in lines if line]
    if not keys:
        raise dsvk.InvalidError(f"--key-file {path}: no key in it")
    return keys


def listener(host: str, port: int, guarded: bool) -> socket.socket:
    """A listening socket, on this machine's loopback only unless it is guarded by keys, or was told to be open."""
    kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if not guarded and not ipaddress.ip_address(address[0]).is_loopback:
        raise dsvk.InvalidError(f"--host {host}: not the loopback, and everybody could ask: give keys with --key-file, or say "
                                "--without-keys")
    return socket.create_server(address[:2], family=kind)


def allow_descriptors(wanted: int) -> None:
    """Every stream is one; most systems begin with 1,024, and let a program have more that asks."""
    try:
        import resource
    except ModuleNotFoundError:      # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(args: argparse.Namespace) -> None:
    try:
        from dsvk.server import Engine, Keeper, application, limits
        from dsvk.server.connections import server
    except ModuleNotFoundError as error:
        raise dsvk.UnsupportedError(f"{error.name} is not installed; the server needs: pip install 'dsvk[server]'") from None
    keys = keys_in(args.key_file)
    allow_descriptors(2 * limits.REQUESTS)

    def load(progress: Callback) -> dsvk.Model:
        def both(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            if display is not None:
                display(stage, done, total)
        with Shown(sys.stderr.isatty()) as display:
            return dsvk.Model(args.model, device=args.device, progress=both, cache=args.cache)

    def make(model: dsvk.Model) -> Engine:
        return Engine(model, args.name or dsvk.locate(args.model).resolve().name, context=args.context, max_tokens=args.max_tokens,
                      isolate=args.isolate, revision=args.revision, max_waiting=args.max_waiting, queue_timeout=args.queue_timeout,
                      any_model=args.any_model, strict_history=args.strict_history)

    with listener(args.host, args.port, bool(keys) or args.without_keys) as listening:
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        keeper = Keeper(load, make)
        serving = server(application(keeper, keys, args.allow_host, args.allow_origin, args.max_body << 20), args.drain,
                         lambda: note(f"ending: what runs has {args.drain:g} s; told again, it ends at once"))
        signal.signal(signal.SIGTERM, lambda *_: None)      # uvicorn raises it again when all is closed: that is success
        try:
            keeper.start(lambda engine: note(f"{engine.name} at {address}"), serving.end)
            serving.run(sockets=[listening])
        finally:
            keeper.close()
        if keeper.failure is not None:
            raise keeper.failure


# ---- connect ----

def connect(args: argparse.Namespace) -> None:
    connect_agent(args.agent, args.url, args.write, args.yes, out, note)


# ---- bench ----

def whole_numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of at least 1, with commas between them")
    return tuple(int(word) for word in words)


def synthetic(text: str) -> Synthetic:
    try:
        return Synthetic(text)
    except dsvk.InvalidError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def new_file(ending: str) -> Callable[[str], str]:
    """A place for results, looked at before the long work; "-" is stdout. `dsvk bench --json nano` means something else."""
    def check(text: str) -> str:
        if text == "-":
            return text
        if not text.endswith(ending):
            raise argparse.ArgumentTypeError(f"{text!r}: expected the name of a file that ends in {ending}")
        place = text if os.path.exists(text) else os.path.dirname(text) or "."
        if not os.access(place, os.W_OK) or os.path.isdir(text):
            raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
        return text
    return check


class Saying:
    """One line of stderr that says what is being done, where somebody watches."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self.shown:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        self("")


def bench(args: argparse.Namespace) -> None:
    quick = benchmark.QUICK if args.quick else benchmark.Workload()
    work = benchmark.Workload(args.contexts or quick.contexts, args.batches or quick.batches, quick.seconds, args.limit)
    try:
        benchmark.check(args.model, args.synthetic, work)
    except dsvk.InvalidError as error:
        args.wrong(str(error))
    say = Saying()
    try:
        device = dsvk.Device(args.device, matmul=args.matmul)
        report = benchmark.run(args.model, device, args.synthetic, work, sys.stderr.isatty(), say, args.line)
    finally:
        say.close()
    data = json.dumps(report, indent=1) + "\n"
    for path, text in ((args.json, data), (args.plot, report.svg() if args.plot else "")):
        if path and path != "-":    # before anything is printed: whoever reads that may have left
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    out(data if args.json == "-" else f"{report}\n", end="")


# ---- the command line ----

def add_device(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--device", metavar="D", help=f"index, UUID or part of a device's name ({what})")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0: always the most likely token")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--top-k", type=int, default=0, metavar="K")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P")
    parser.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same text")


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    return {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k, "min_p": args.min_p, "seed": args.seed}


def add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", choices=("native", "f32"), default="native", help="format of the KV cache")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dsvk", description="DeepSeek-V4 inference on any Vulkan device.")
    parser.add_argument("--version", action="version", version=f"dsvk {dsvk.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser("devices", help="every Vulkan device and whether it can be used")
    p.add_argument("--json", action="store_true")
    p.set_defaults(run=devices)

    p = commands.add_parser("generate", help="continue a text")
    p.add_argument("model", metavar="MODEL", help='a model folder, or "nano"')
    p.add_argument("prompt", metavar="PROMPT", help='the text to continue; "-" reads it from stdin')
    p.add_argument("--max-tokens", type=int, default=256, metavar="N")
    add_sampling(p)
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text (repeatable)")
    p.add_argument("--no-bos", action="store_true", help="no begin token before the prompt")
    p.add_argument("--echo", action="store_true", help="print the prompt too")
    p.add_argument("--ids", action="store_true", help="PROMPT is token ids, and ids are printed")
    p.add_argument("--context", type=int, default=0, metavar="N", help="most tokens, with --ids (0: the model's largest)")
    add_device(p, "default: the best")
    add_cache(p)
    p.set_defaults(run=generate)

    p = commands.add_parser("chat", help="talk with a model; /help lists what can be typed")
    p.add_argument("model", metavar="MODEL", help='a model folder, or "nano"')
    p.add_argument("--no-think", action="store_true", help="answer at once")
    p.add_argument("--effort", metavar="E", help="how much to think: low, high, max (the format's default)")
    p.add_argument("--system", default="", metavar="TEXT", help="a text in front of the conversation")
    p.add_argument("--tools", metavar="FILE", help="tools the model may call, a JSON list; their results are asked for")
    p.add_argument("--max-tokens", type=int, default=0, metavar="N", help="most tokens of an answer (0: what the context holds)")
    p.add_argument("--context", type=int, default=0, metavar="N", help="most tokens of the conversation (0: the model's largest)")
    p.add_argument("--history", metavar="FILE", help="keep the typed lines in this file (they are forgotten)")
    add_sampling(p)
    p.add_argument("--revision", choices=("preview", "0731"), help="of the prompt format (preview)")
    add_device(p, "default: the best")
    add_cache(p)
    p.set_defaults(run=chat)

    p = commands.add_parser("plan", help="what would be allocated where, from the configuration alone")
    p.add_argument("model", metavar="MODEL", help='a model folder, its config.json, or "nano"')
    p.add_argument("--context", type=int, default=0, metavar="N", help="tokens (0: the model's largest)")
    p.add_argument("--json", action="store_true")
    add_device(p, "default: none is opened")
    add_cache(p)
    p.set_defaults(run=plan)

    p = commands.add_parser("pull", help="fetch a repository's model into huggingface_hub's cache, and print its folder")
    p.add_argument("model", metavar="ORG/NAME", help="MODEL of other commands can be such a name too")
    p.add_argument("--revision", default="main", metavar="R", help="a branch, tag or commit (main)")
    p.add_argument("--offline", action="store_true", help="fetch nothing: print where it is, or fail")
    p.set_defaults(run=pull)

    p = commands.add_parser("verify", help="read and check every tensor")
    p.add_argument("model", metavar="MODEL", help='a model folder, or "nano"')
    p.add_argument("--strict", action="store_true", help="tensors the model does not know are an error")
    p.add_argument("--json", action="store_true")
    p.set_defaults(run=verify)

    p = commands.add_parser("tokenize", help="the token ids of a text")
    p.add_argument("model", metavar="MODEL", help='a folder with a tokenizer.json, that file, or "nano"')
    p.add_argument("text", metavar="TEXT", help='"-" reads it from stdin')
    p.add_argument("--special", action="store_true", help="text of special tokens becomes their ids")
    p.add_argument("--decode", action="store_true", help="TEXT is token ids; print their text")
    p.add_argument("--json", action="store_true")
    p.set_defaults(run=tokenize)

    p = commands.add_parser("serve", help="answer clients of OpenAI's and Anthropic's APIs")
    p.add_argument("model", metavar="MODEL", help='a model folder, or "nano"')
    p.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1); others than the loopback need keys")
    p.add_argument("--port", type=port, default=8000, help="0: any that is free (8000)")
    p.add_argument("--key-file", metavar="FILE", help="API keys, one a line, one of which clients need (none)")
    p.add_argument("--without-keys", action="store_true", help="with --host: everybody who can reach it may ask")
    p.add_argument("--allow-host", metavar="NAME", action="append", default=[],
                   help="a name or address in clients' URLs besides the loopback's (repeatable)")
    p.add_argument("--allow-origin", metavar="ORIGIN", type=origin, action="append", default=[],
                   help="web pages that may ask, such as https://page.example (repeatable; none)")
    p.add_argument("--name", help="the model's id for clients (the folder's name)")
    p.add_argument("--any-model", action="store_true", help="every model name is this one's; else unknown ones are refused")
    p.add_argument("--strict-history", action="store_true", help="refuse turns with tool calls that come back without their thoughts")
    p.add_argument("--context", type=int, default=0, metavar="N", help="most tokens of prompt and answer (0: the model's largest)")
    p.add_argument("--max-tokens", type=int, default=0, metavar="N", help="most tokens of an answer (0: what the context holds)")
    p.add_argument("--max-waiting", type=whole_number, default=4096, metavar="N", help="how many may wait beside those that run (4096)")
    p.add_argument("--max-body", type=whole_number, default=64, metavar="MIB", help="most of a request, in MiB (64)")
    p.add_argument("--queue-timeout", type=seconds, default=0, metavar="S", help="give up what has not begun after so long (0: never)")
    p.add_argument("--drain", type=seconds, default=30, metavar="S", help="for what runs when the server is told to end (30)")
    p.add_argument("--isolate", action="store_true", help="kept prefixes are found only by the user who made them")
    p.add_argument("--revision", choices=("preview", "0731"), help="of the prompt format (preview)")
    add_device(p, "default: the best")
    add_cache(p)
    p.set_defaults(run=serve)

    p = commands.add_parser("connect", help="point a coding agent at a running server: prints its configuration, or writes it")
    p.add_argument("agent", metavar="AGENT", choices=AGENTS, help=", ".join(AGENTS))
    p.add_argument("--url", default="http://127.0.0.1:8000", help="of the server (http://127.0.0.1:8000); its key: DSVK_API_KEY")
    p.add_argument("--write", action="store_true", help="into the agent's own file, after asking; a copy of it is kept")
    p.add_argument("--yes", action="store_true", help="don't ask")
    p.set_defaults(run=connect)

    p = commands.add_parser("bench", help="how fast it is, per op and per model, beside what the device can do")
    what = p.add_mutually_exclusive_group()
    what.add_argument("model", metavar="MODEL", nargs="?", help='a model folder, or "nano", which is the default')
    what.add_argument("--synthetic", type=synthetic, metavar="SPEC",
                      help="random weights at the widths of flash or pro: flash:layers=4,experts=32, flash:ratios=0/4/128")
    p.add_argument("--contexts", type=whole_numbers, metavar="N,N", help="tokens before decoding (256,1024)")
    p.add_argument("--batches", type=whole_numbers, metavar="N,N", help="sequences decoded together (1,8)")
    p.add_argument("--limit", type=seconds, default=60, metavar="S", help="leave out what takes longer to fill, in seconds (60)")
    p.add_argument("--quick", action="store_true", help="64 tokens, batches of 1 and 4, short runs")
    p.add_argument("--json", type=new_file(".json"), nargs="?", const="-", metavar="OUT.json", help="data: a file, or stdout")
    p.add_argument("--plot", type=new_file(".svg"), metavar="OUT.svg", help="a picture")
    p.add_argument("--matmul", metavar="WAY", help="how prefill multiplies: few, registers, columns, tiled, coopmat (the fastest)")
    add_device(p, "default: the best")
    p.set_defaults(run=bench, wrong=p.error)
    return parser


def main(argv: list[str] | None = None) -> int:
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    for stream in streams:
        stream.reconfigure(errors="replace")  # a character the terminal lacks is no reason to stop
    try:
        words = sys.argv[1:] if argv is None else argv
        args = arguments().parse_args(words)
        args.line = shlex.join(["dsvk", *words])
        args.run(args)
        return 0
    except KeyboardInterrupt:
        note("dsvk: stopped")
        return 130
    except BrokenPipeError:
        return 1
    except (dsvk.Error, OSError, ValueError, MemoryError) as error:
        note(f"dsvk: {type(error).__name__}: {error}" if not str(error) else f"dsvk: {error}")
        return 1
    finally:
        for stream in streams:
            try:
                stream.flush()
            except OSError:      # the reader left, the disk is full: what is left goes nowhere, or Python would end with 120 for it
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
