"""What many clients cost the server: nano behind `dsvk serve`, on loopback.

    python bench/serving.py load [--streams 500] [--tokens 24]    all at once, every answer compared with the model's own
    python bench/serving.py idle [--streams 2500] [--seconds 30]  streams that wait behind others, each with signs of life
    python bench/serving.py soak [--seconds 3600]                 mixed requests of four formats, some given up on the way
    python bench/serving.py hit [--tokens 100000]                 a prompt that is found kept, beside running it (no server)

Each prints JSON, and fails when an answer is wrong, a stream is silent or something is left behind.
"""
import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dsvk
from state import state

NAMES = ["ROMEO", "JULIET", "KING HENRY", "GLOUCESTER", "MENENIUS", "PAULINA", "LEONTES", "PROSPERO", "BRUTUS", "CAPULET"]
BODIES = {      # path: what asks for a few tokens
    "/v1/completions": lambda text: {"prompt": text},
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/responses": lambda text: {"input": text},
    "/v1/messages": lambda text: {"messages": [{"role": "user", "content": text}]}}


@contextlib.contextmanager
def serving(model="nano"):
    """A server in a process of its own: its port and its process."""
    server = subprocess.Popen([sys.executable, "-m", "dsvk", "serve", model, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        yield int(re.search(r":(\d+)/v1$", server.stderr.readline())[1]), server
    finally:
        server.terminate()
        server.wait(60)


def resident(server):
    """MiB of the server's process."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)


async def post(port, path, body):
    """The reader and writer of a connection on which a request was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    text = json.dumps({"model": "nano", **body}).encode()
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                 f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
    await writer.drain()
    return reader, writer


async def lines(reader):
    """Lines of the body; the sizes of chunks stand between them and are not told from them."""
    status = await reader.readline()
    assert b" 200 " in status, status
    while line := await reader.readline():
        yield line.rstrip(b"\r\n")


async def answered(port, path, body):
    """A whole answer's JSON."""
    reader, writer = await post(port, path, body)
    text = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert text[0].startswith(b"HTTP/1.1 200 "), text
    return json.loads(text[2])


async def metric(port, name):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return float(re.search(rf"^dsvk:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)[1])


async def until_idle(port):
    while await metric(port, "num_requests_running") + await metric(port, "num_requests_waiting") > 0:
        await asyncio.sleep(0.2)


def percentiles(values):
    ordered = statistics.quantiles(values, n=100, method="inclusive")      # none beyond what was seen
    return {"p50": round(ordered[49], 3), "p99": round(ordered[98], 3)}


def watch_health(port, over, seconds):
    """Puts how long each /health took, asked every quarter of a second on a connection of its own, into a pipe when it is over."""
    taken = []
    while not over.wait(0.25):
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        connection.close()
        taken.append(time.monotonic() - began)
    seconds.send(taken)


@contextlib.contextmanager
def health_watched(port):
    """Fills a dictionary at the end: how long /health took (fault S11), seen from a process that does nothing else."""
    spawn, report = multiprocessing.get_context("spawn"), {}
    seconds, far = spawn.Pipe(duplex=False)
    over = spawn.Event()
    process = spawn.Process(target=watch_health, args=(port, over, far), daemon=True)
    process.start()
    far.close()      # or a process that failed would be waited for
    try:
        yield report
    finally:
        over.set()
        taken = seconds.recv()
        process.join()
        report["health_s"] = {**percentiles(taken), "most": round(max(taken), 3), "asked": len(taken)} if len(taken) > 1 else None


# ---- many at once ----

async def one_stream(port, prompt, n):
    """Text, seconds to the first token."""
    began, first, text = time.monotonic(), None, ""
    reader, writer = await post(port, "/v1/completions", {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True})
    async for line in lines(reader):
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            first = first or time.monotonic() - began
            text += chunk["choices"][0]["text"]
    assert line == b"" or line == b"0", line
    writer.close()
    return text, first


async def load(args):
    n = args.tokens
    prompts = [f"{name}:\n{word}" for name in NAMES for word in ("O", "My lord", "What", "No", "I")]
    with dsvk.Model("nano") as model:
        expected = {prompt: model.generate(prompt, n, temperature=0) for prompt in prompts}
    with serving() as (port, server):
        await one_stream(port, "warm", 2)
        before, began = resident(server), time.monotonic()
        asked = [prompts[i % len(prompts)] for i in range(args.streams)]
        with health_watched(port) as health:
            answers = await asyncio.gather(*(one_stream(port, prompt, n) for prompt in asked))
            seconds = time.monotonic() - began
        wrong = [prompt for prompt, (text, _) in zip(asked, answers) if text != expected[prompt]]
        await until_idle(port)
        return {"streams": args.streams, "wrong": len(wrong), "seconds": round(seconds, 3),
                "tokens_per_s": round(args.streams * n / seconds, 1),
                "first_token_s": percentiles([first for _, first in answers]), **health, "mib_before": before,
                "mib_after": resident(server)}


# ---- many that wait ----

async def idle(args):
    """Nobody gets on before everybody is there: the first sequences have long answers. Signs of life of those that wait are counted."""
    signs = [0] * args.streams

    async def wait(i, port):
        reader, writer = await post(port, "/v1/completions", {"prompt": "A", "max_tokens": 3900, "temperature": 0.01, "seed": i,
                                                              "stream": True})
        try:
            async for line in lines(reader):
                signs[i] += line.startswith((b": keep-alive", b"data: "))
        finally:
            writer.close()

    with serving() as (port, server):
        await one_stream(port, "warm", 2)
        before = resident(server)
        tasks = []
        for i in range(args.streams):
            tasks.append(asyncio.create_task(wait(i, port)))
            if i % 50 == 49:
                await asyncio.sleep(0.1)
        while await metric(port, "num_requests_running") + await metric(port, "num_requests_waiting") < args.streams:
            await asyncio.sleep(0.5)
        there, counted, began = resident(server), list(signs), time.monotonic()
        with health_watched(port) as health:
            await asyncio.sleep(args.seconds)
        heard = [now - then for now, then in zip(signs, counted)]
        watched = time.monotonic() - began
        report = {"streams": args.streams, "silent": sum(n < args.seconds // 10 for n in heard), "fewest_signs": min(heard),
                  "kib_per_stream": round((there - before) * 1024 / args.streams, 1), "mib_before": before, "mib_waiting": there,
                  **health, "watched_s": round(watched, 1), "died": sum(task.done() for task in tasks)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gone = time.monotonic()
        await until_idle(port)
        return {**report, "wrong": report["silent"] + report["died"], "free_again_s": round(time.monotonic() - gone, 1),
                "mib_after": resident(server)}


# ---- for a long time ----

async def soak(args):
    """Memory after the first tenth of the time, and at the end; what prefixes keep lies in it where the device is the CPU."""
    chance, counts = random.Random("soak"), {"answered": 0, "streamed": 0, "given_up": 0, "wrong": 0}
    known, until = {}, time.monotonic() + args.seconds

    async def client(port):
        while time.monotonic() < until:
            path, text = chance.choice(list(BODIES)), f"{chance.choice(NAMES)}:\n" + "so " * chance.choice([0, 3, 40, 200])
            limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
            n = chance.choice([1, 4, 12])
            body = {**BODIES[path](text), limit: n, "temperature": 0}
            kind = chance.random()
            if kind < 0.5:
                answer = await answered(port, path, body)
                said = json.dumps([answer.get(name) for name in ("choices", "content")] + [answer["usage"].get(name) for name in (
                    "completion_tokens", "output_tokens")] + [[item["content"] for item in answer.get("output", [])]])
                said = re.sub(r'"logprobs": \[\]', "", said)
                counts["wrong"] += known.setdefault((path, text, n), said) != said
                counts["answered"] += 1
                continue
            reader, writer = await post(port, path, {**body, "stream": True, **({limit: 300} if kind > 0.75 else {})})
            if kind > 0.75:
                await asyncio.sleep(chance.random() * 0.3)
                counts["given_up"] += 1
            else:
                last = b"".join([line async for line in lines(reader) if line][-6:])
                ends = b"[DONE]", b"response.incomplete", b"response.completed", b"message_stop"
                counts["wrong"] += not any(end in last for end in ends)
                counts["streamed"] += 1
            writer.close()

    with serving() as (port, server):
        await one_stream(port, "warm", 2)
        clients = [asyncio.create_task(client(port)) for _ in range(24)]
        await asyncio.sleep(args.seconds / 10)
        async def memory():
            return {"mib": resident(server), "mib_of_prefixes": round(await metric(port, "prefix_cache_bytes") / 2 ** 20, 1)}

        early = await memory()
        await asyncio.gather(*clients)
        await until_idle(port)
        return {"seconds": args.seconds, **counts, "early": early, "end": await memory()}


# ---- a prefix that is kept ----

async def hit(args):
    """nano with room for so many positions: its answers mean nothing there, its work is the same."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "nano"
        shutil.copytree(dsvk.locate("nano"), place)
        config = json.loads((place / "config.json").read_text())
        config["max_position_embeddings"] = args.tokens + 4096
        (place / "config.json").write_text(json.dumps(config))
        chance = random.Random("hit")
        with dsvk.Model(str(place)) as model, dsvk.Scheduler(model) as scheduler:
            def first_token(prompt):
                began = time.monotonic()
                *_, last = scheduler.submit(prompt, 1, temperature=0)
                return time.monotonic() - began, last.cached_tokens

            vocabulary = model.config["vocab_size"]
            prompt = [chance.randrange(20, vocabulary) for _ in range(args.tokens)]
            first_token(prompt[::-1][:2000])      # kernels are compiled
            cold, _ = first_token(prompt)
            hits, longer = ([first_token(prompt + more) for more in ends] for ends in ([[]] * 3, [[30 + i] * 4 for i in range(3)]))
            best, more = min(hits), min(longer)
            return {"tokens": args.tokens, "cold_s": round(cold, 2), "hit_s": round(best[0], 4), "hit_and_4_more_s": round(more[0], 4),
                    "one_over": round(cold / best[0]), "wrong": sum(cached != args.tokens for _, cached in hits + longer)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name, run, options in (("load", load, {"--streams": 500, "--tokens": 24}), ("idle", idle, {"--streams": 2500, "--seconds": 30}),
                               ("soak", soak, {"--seconds": 3600}), ("hit", hit, {"--tokens": 100000})):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        for option, default in options.items():
            command.add_argument(option, type=int, default=default)
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000), hard))
    report = asyncio.run(args.run(args))
    print(json.dumps({"what": args.what, **state(), **report}))
    sys.exit(report["wrong"] > 0)


if __name__ == "__main__":
    main()
