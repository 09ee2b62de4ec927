"""The server's connections: heads and bodies that are wrong, slow or never end, readers that are slow, pages of other origins, many
clients that come and go, the end of the server; and what Prometheus is told."""
import contextlib
import gzip
import json
import logging
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

import dsvk  # noqa: E402
from dsvk import chat  # noqa: E402
from dsvk.cli import main  # noqa: E402
from dsvk.server import Engine, Keeper  # noqa: E402
from dsvk.server.engine import CUT, printable  # noqa: E402
from dsvk.server.metrics import Watch  # noqa: E402
from serving import Script, served  # noqa: E402
from test_server import HELLO, OFF, create, engine, idle, official, scripted, url  # noqa: E402, F401

BODY = {"model": "nano", "messages": HELLO, **OFF}


def connected(url, **options):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60, **options)


def spoken(url, *pieces):
    """What comes back for these bytes until the connection is closed."""
    with connected(url) as client:
        answer = b""
        try:
            for piece in pieces:
                client.sendall(piece)
            while piece := client.recv(65536):
                answer += piece
        except ConnectionError:
            pass
        return answer


def post(fields, body=b"", version="1.1"):
    lines = [f"POST /v1/chat/completions HTTP/{version}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


GOOD = ["Host: localhost", "Content-Type: application/json"]


@pytest.mark.parametrize("request_bytes", [
    post([*GOOD, "Content-Length: 2", "Content-Length: 2"], b"{}"), post([*GOOD, "Content-Length: 2", "content-length : 3"], b"{}"),
    post([*GOOD, "Content-Length: 2, 2"], b"{}"), post([*GOOD, "Content-Length: 2\r\n , 2"], b"{}"),
    post([*GOOD, "Content-Length: 2", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    post([*GOOD, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    post([*GOOD, "Transfer-Encoding: chunked"], b"zz\r\n{}\r\n0\r\n\r\n"), post([*GOOD, "Transfer-Encoding: gzip"], b"{}"),
    post([*GOOD, "Content-Length: -1"]), post([*GOOD, "Content-Length: 1e3"]), post([*GOOD, "X: a\0b", "Content-Length: 0"]),
    post([*GOOD, "X: a\rb", "Content-Length: 0"]), post(GOOD[1:] + ["Content-Length: 0"]),
    post(GOOD[1:] + ["Content-Length: 0"], version="1.0"),
    post([*GOOD, "Host: localhost", "Content-Length: 0"]), post([*GOOD, "A" * 20000 + ": x"]), b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    post([*GOOD, *(f"X-{i}: y" for i in range(100)), "Content-Length: 0"])], ids=range(18))
def test_S04_an_ambiguous_head_is_400_and_the_end_of_the_connection(scripted, request_bytes):
    head, _, body = spoken(scripted.url, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"connection: close" in head.lower(), head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_S03_slow_heads_and_bodies_are_408_and_the_end_of_the_connection(scripted, monkeypatch):
    monkeypatch.setattr("dsvk.server.limits.HEAD_SECONDS", 0.2)
    answer = spoken(scripted.url, b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in answer
    assert spoken(scripted.url) == b""      # nothing said, nothing answered
    monkeypatch.setattr("dsvk.server.limits.BODY_SECONDS", 0.2)
    answer = spoken(scripted.url, post([*GOOD, "Content-Length: 1000"], b'{"model":'))
    assert answer.startswith(b"HTTP/1.1 408 ") and b"9 bytes in" in answer and b"connection: close" in answer.lower()
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x")
    assert httpx.post(scripted.url + "/v1/chat/completions", json=BODY).status_code == 200


def test_S03_a_body_after_its_answer_has_an_end_too(scripted, monkeypatch):
    monkeypatch.setattr("dsvk.server.limits.BODY_SECONDS", 0.5)
    with connected(scripted.url) as client:
        client.sendall(post([*GOOD, "Content-Length: 100000"], b"").replace(b"/v1/chat/completions", b"/nowhere"))
        end, heard = time.monotonic() + 20, b""
        client.settimeout(0.05)
        while time.monotonic() < end:      # a byte now and then
            try:
                client.sendall(b" ")
                came = client.recv(65536)
                heard += came
                if not came:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert heard.startswith(b"HTTP/1.1 404 ") and time.monotonic() < end


def test_S03_a_refusal_is_heard_by_who_still_sends(scripted):
    for _ in range(6):
        with connected(scripted.url) as client:
            client.sendall(post([*GOOD, "Content-Length: 99999999999"], b""))
            for _ in range(20):
                client.sendall(b" " * (1 << 20))
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 413 "), answer


def test_S03_a_body_that_says_it_is_too_large_is_413_before_it_comes(scripted):
    for more in ([], ["Expect: 100-continue"]):
        answer = spoken(scripted.url, post([*GOOD, "Content-Length: 99999999999", *more], b"{}"))
        assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower() and b"100 Continue" not in answer


def test_S04_what_comes_behind_another_request_is_looked_at_as_well(scripted):
    good, twice = json.dumps(BODY).encode(), ["Content-Length: 2", "Content-Length: 2"]
    for second in (post([*GOOD, *twice], b"{}"), post([*GOOD, *twice], b"{}").replace(b"\r\n", b"\n"), post([*GOOD, "X" * 17000 + ": y"])):
        scripted.scheduler.answers.clear()
        scripted.scheduler.say("x")
        answers = spoken(scripted.url, post([*GOOD, f"Content-Length: {len(good)}"], good) + second).split(b"HTTP/1.1 ")
        assert [answer[:3] for answer in answers] == [b"", b"200", b"400"], answers
        assert b"connection: close" in answers[2].lower()


def test_what_is_no_request_is_refused_in_its_dialect_with_an_id(scripted):
    for path, chunk in (("/v1/messages", b""), ("/anthropic", b""), ("/v1/messages?beta=true", b"zz\r\n"), ("/v1/chat/completions", b"")):
        fields = [*GOOD, "Transfer-Encoding: chunked"] if chunk else [*GOOD, "Content-Length: x"]
        answer = spoken(scripted.url, post(fields, chunk).replace(b"/v1/chat/completions", path.encode()))
        head, _, text = answer.partition(b"\r\n\r\n")
        body, headers = json.loads(text), dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:])
        assert head.startswith(b"HTTP/1.1 400 ") and headers[b"request-id"] == headers[b"x-request-id"] != b""
        assert body.get("request_id", "").encode() == (headers[b"request-id"] if "chat" not in path else b"")
        assert body["error"]["type"] == "invalid_request_error"


def test_S11_requests_beyond_the_limit_are_told_to_come_back_and_connections_are_not_counted(scripted, monkeypatch):
    monkeypatch.setattr("dsvk.server.limits.REQUESTS", 2)
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(("x", 60.0), ("x", 60.0))
    crowd = [connected(scripted.url) for _ in range(20)]
    body = json.dumps({**BODY, "stream": True}).encode()
    for client in crowd[:2]:
        client.sendall(post([*GOOD, f"Content-Length: {len(body)}"], body))
        assert client.recv(12) == b"HTTP/1.1 200"
    answer = httpx.post(scripted.url + "/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert answer.headers["retry-after"] and answer.headers["request-id"] and "more than 2 requests" in answer.text
    answer = httpx.post(scripted.url + "/v1/messages", json=BODY)
    assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")
    assert httpx.get(scripted.url + "/health").status_code == 200
    for client in crowd:
        client.close()
    until(lambda: httpx.get(scripted.url + "/v1/models").status_code == 200)


def test_S11_it_takes_as_many_descriptors_as_it_may():
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
    server = subprocess.Popen([sys.executable, "-m", "dsvk", "serve", "nano", "--port", "0"], stderr=subprocess.PIPE, text=True, preexec_fn=few)
    try:
        url = re.match(r"nano at (http://127\.0\.0\.1:\d+)/v1$", server.stderr.readline())[1]
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (300, 300)
        crowd = [connected(url) for _ in range(150)]
        assert httpx.get(url + "/health", timeout=60).status_code == 200
        for client in crowd:
            client.close()
    finally:
        server.kill()
        server.communicate()


def test_S11_without_descriptors_it_waits_and_goes_on():
    server = subprocess.Popen([sys.executable, "-m", "dsvk", "serve", "nano", "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        url = re.match(r"nano at (http://127\.0\.0\.1:\d+)/v1$", server.stderr.readline())[1]
        httpx.get(url + "/health")
        open_now = len(os.listdir(f"/proc/{server.pid}/fd"))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (open_now + 20, open_now + 20))
        crowd = [connected(url) for _ in range(60)]
        until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) >= open_now + 20)

        def cpu_seconds():
            with open(f"/proc/{server.pid}/stat", encoding="ascii") as file:
                return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")

        before = cpu_seconds()
        time.sleep(2)
        assert cpu_seconds() - before < 1      # it does not try again and again
        for client in crowd:
            client.close()
        until(lambda: httpx.get(url + "/health", timeout=60).status_code == 200)
        assert httpx.post(url + "/v1/chat/completions", json={**BODY, "max_tokens": 2}, timeout=60).status_code == 200
    finally:
        server.kill()
        said = server.stderr.read()
    assert said.count("no descriptors are left") == 1 and "Traceback" not in said and said.count("\n") == 1, said


def test_strangers_write_no_lines_into_the_log(scripted, caplog):
    log = logging.getLogger("uvicorn.error")
    log.addHandler(caplog.handler)
    try:
        assert spoken(scripted.url, b"\x16\x03\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        upgrade = post([*GOOD, "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 2"], b"{}")
        assert spoken(scripted.url, upgrade + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    finally:
        log.removeHandler(caplog.handler)
    assert caplog.records == []


def test_a_request_that_breaks_the_server_ends_its_connection_with_a_word(scripted, monkeypatch):
    monkeypatch.setattr("dsvk.server.names.listing", lambda engine: 1 / 0)
    with httpx.Client() as client:
        answer = client.get(scripted.url + "/v1/models")
        assert answer.status_code == 500 and answer.headers["connection"] == "close"
        assert client.get(scripted.url + "/health").status_code == 200


# ---- what takes long is done elsewhere ----

class Held:
    """A function that waits, once it is called, until go()."""

    def __init__(self, function):
        self.function, self.begun, self.may = function, threading.Event(), threading.Event()

    def __call__(self, *args, **options):
        self.begun.set()
        assert self.may.wait(60)
        return self.function(*args, **options)


def test_S06_S11_a_body_that_is_long_to_read_holds_up_nothing_else(scripted, monkeypatch):
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x", "x")
    for place in ("body.parse", "chat_completions.read"):
        module, name = place.split(".")
        held = Held(getattr(getattr(dsvk.server.app, module), name))
        monkeypatch.setattr(f"dsvk.server.{place}", held)
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(httpx.post, scripted.url + "/v1/chat/completions", json=BODY, timeout=60)
            assert held.begun.wait(60)
            try:
                assert httpx.get(scripted.url + "/health", timeout=30).status_code == 200
            finally:
                held.may.set()
            assert answer.result().status_code == 200
        monkeypatch.undo()


def test_S06_S11_long_prompts_hold_up_only_each_other(scripted, monkeypatch):
    """More of them than asyncio has threads."""
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(*["x"] * 5)
    prompt, read, come = dsvk.server.history.prompt, dsvk.server.body.read, []
    held = Held(prompt)

    async def counted(*args):
        come.append(await read(*args))
        return come[-1]

    monkeypatch.setattr("dsvk.server.limits.LONG_BYTES", 1000, raising=False)
    monkeypatch.setattr("dsvk.server.history.prompt", lambda engine, messages, *args, **options: (
        held if len(messages[-1].content) > 1000 else prompt)(engine, messages, *args, **options))
    monkeypatch.setattr("dsvk.server.body.read", counted)
    monkeypatch.setattr(scripted, "status", dict)
    monkeypatch.setattr(scripted.metrics, "text", bytes)
    small = {**BODY, "max_tokens": 1}
    long = {**small, "messages": [{"role": "user", "content": "word " * 1000}]}
    with ThreadPoolExecutor(42) as pool:
        answers = [pool.submit(httpx.post, scripted.url + "/v1/messages" + path, json=long, timeout=60)
                   for path in ["", ""] + ["/count_tokens"] * 40]
        try:
            until(lambda: len(come) == 42 and held.begun.is_set())
            for path in ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"):
                assert httpx.post(scripted.url + path, json=small, timeout=30).status_code == 200
            for path in ("/status", "/metrics"):
                assert httpx.get(scripted.url + path, timeout=30).status_code == 200
        finally:
            held.may.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_S11_a_prompt_that_is_far_too_long_is_refused_before_all_of_it_is_tokens(nano, monkeypatch):
    """With the usual error; counting counts it all."""
    encoded = []

    class Counting:
        def __getattr__(self, name):
            return getattr(nano.tokenizer, name)

        def encode(self, text):
            encoded.append(text)
            return nano.tokenizer.encode(text)

    def never(*args, **options):
        raise AssertionError("all of it")

    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer), context=4096)
    text = "word " * 200_000
    asks = [("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "stream": True}, "messages"),
            ("/v1/responses", {"input": text}, "input"), ("/v1/completions", {"prompt": text}, "prompt"),
            ("/v1/messages", {"messages": [{"role": "user", "content": text}], "max_tokens": 9}, None)]
    with served(engine) as url:
        counted = httpx.post(url + "/v1/messages/count_tokens", json={"model": "nano", **asks[3][1]}, timeout=60).json()["input_tokens"]
        assert counted == len(chat.encode_ids(nano.tokenizer, asks[0][1]["messages"])) > 200_000
        monkeypatch.setattr(engine, "tokenizer", Counting())
        monkeypatch.setattr("dsvk.chat.encode_ids", never)
        monkeypatch.setattr("dsvk.Model.prompt_tokens", never)
        for path, body, param in asks:
            encoded.clear()
            answer = httpx.post(url + path, json={"model": "nano", **body}, timeout=60)
            error = answer.json()["error"]
            numbers = [int(number) for number in re.findall(r"\b\d+\b", error["message"])]
            assert (answer.status_code, error.get("param")) == (400, param) and 4096 in numbers and 4096 < max(numbers) < 50_000, error
            assert error.get("code", "context_length_exceeded") == "context_length_exceeded" and 0 < sum(map(len, encoded)) < 100_000


@pytest.mark.parametrize("content", [
    "Some words, 1234 of them.\n  if (x) {\n\treturn 'y';  \n}\n", "中文，和 English words。 日本語の、テキスト\n", "word "])
def test_S11_pieces_of_a_prompt_have_the_tokens_of_the_whole(nano, content):
    text = content * 50
    places = [match.end() for match in CUT.finditer(text)]
    assert len(places) >= 50
    pieces = [nano.tokenizer.encode(text[begin:end]) for begin, end in zip([0, *places], [*places, len(text)])]
    assert sum(pieces, []) == nano.tokenizer.encode(text)


def test_S20_grammars_that_are_long_to_compile_hold_up_only_each_other(nano, monkeypatch):
    constrain = pytest.importorskip("dsvk.constrain")
    pytest.importorskip("llguidance")
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer))
    engine.scheduler.say(*["{}"] * 13)
    held = Held(constrain.Grammars.answer)
    monkeypatch.setattr(constrain.Grammars, "answer", lambda self, *args, **options: held(self, *args, **options))
    with served(engine) as url, ThreadPoolExecutor(12) as pool:
        wanted = {**BODY, "response_format": {"type": "json_object"}}
        answers = [pool.submit(httpx.post, url + "/v1/chat/completions", json=wanted, timeout=60) for _ in range(12)]
        assert held.begun.wait(60)
        until(lambda: engine.compilers._work_queue.qsize() == 10)      # no more than two have a thread
        try:
            assert httpx.get(url + "/v1/models", timeout=30).status_code == 200
            assert httpx.post(url + "/v1/chat/completions", json=BODY, timeout=30).status_code == 200
        finally:
            held.may.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_S03_bodies_have_a_number_of_values_and_packed_ones_a_size(scripted, monkeypatch):
    monkeypatch.setattr("dsvk.server.body.JSON_VALUES", 12_000)
    monkeypatch.setattr("dsvk.server.body.JSON_OBJECTS", 1000)

    def ask(text, **headers):
        scripted.scheduler.answers.clear()
        scripted.scheduler.say("x")
        answer = httpx.post(scripted.url + "/v1/chat/completions", content=text, timeout=60,
                            headers={"content-type": "application/json", **headers})
        return answer.status_code, answer.text

    good = json.dumps(BODY).encode()[:-1]
    for text, words in ((b',"x":[' + b"0," * 12_000 + b"0]}", "12000 values"), (b',"x":[' + b"[]," * 6_000 + b"0]}", "12000 values"),
                        (b',"x":[' + b'"\\"\\\\",' * 12_000 + b"0]}", "12000 values"),
                        (b',"x":[' + b"{}," * 1000 + b"{}]}", "1000 objects")):
        status, said = ask(good + text)
        assert status == 413 and words in said, said
        written = text.replace(b"\\", b"").replace(b'"', b"")
        assert ask(good + b',"x":"' + written + b'"}')[0] == 200      # in a text these are no values
    spaces = gzip.compress(good + b" " * (8 << 20) + b"}")
    status, said = ask(spaces, **{"content-encoding": "gzip"})
    assert status == 413 and f"the body of {len(spaces)} bytes is larger than" in said and "unpacked" in said
    assert ask(gzip.compress(good + b" " * (1 << 20) + b"}"), **{"content-encoding": "gzip"})[0] == 200


def test_S06_a_queue_that_is_really_full_is_429(nano):
    engine = Engine(nano, "nano", scheduler=dsvk.Scheduler(nano, max_running=1, max_waiting=1))
    end = nano.tokenizer.id("<｜end▁of▁sentence｜>")
    long = {**BODY, "stream": True, "max_tokens": 3900, "temperature": 0.01, "seed": 1, "logit_bias": {str(end): -100}}
    with served(engine) as url, contextlib.ExitStack() as stack:
        for count in (1, 2):      # one that runs, one that waits
            client = stack.enter_context(httpx.Client(timeout=60))
            stack.enter_context(client.stream("POST", url + "/v1/chat/completions", json=long))
            until(lambda: sum(engine.scheduler.report[name] for name in ("running", "waiting")) == count)
            until(lambda: engine.scheduler.report["running"] == 1)
        for path, type in (("/v1/chat/completions", "rate_limit_error"), ("/v1/messages", "rate_limit_error")):
            answer = httpx.post(url + path, json=long)
            assert (answer.status_code, answer.json()["error"]["type"]) == (429, type) and int(answer.headers["retry-after"]) > 0
        assert httpx.get(url + "/health").status_code == 200


def test_S10_a_reader_that_takes_nothing_ends_its_own_stream(scripted, monkeypatch):
    monkeypatch.setattr("dsvk.server.limits.STALLED_SECONDS", 0.3)
    cancelled = []
    monkeypatch.setattr("serving.Told.cancel", lambda self: cancelled.append(self))
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("long " * 4000)
    body = json.dumps({**BODY, "stream": True, "max_tokens": 10 ** 6, "seed": 1}).encode()
    monkeypatch.setattr("dsvk.server.stream.EventStream.line", lambda self, event: b"data: " + b"x" * 20000 + b"\n\n")
    with connected(scripted.url) as client:
        client.sendall(post([*GOOD, f"Content-Length: {len(body)}"], body))
        end = time.monotonic() + 60
        while not cancelled:
            assert time.monotonic() < end
            time.sleep(0.05)
        answer = b""
        try:
            while piece := client.recv(1 << 20):
                answer += piece
        except ConnectionError:
            pass
        assert b"[DONE]" not in answer and len(answer) < 4000 * 20000


def test_S10_an_answer_that_nobody_takes_ends_with_its_connection(scripted, monkeypatch):
    """Also when it is all made, and the connection was to be kept."""
    monkeypatch.setattr("dsvk.server.limits.STALLED_SECONDS", 0.3)

    async def long(reply):
        return {"x": "y" * (16 << 20)}

    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x", "x")
    monkeypatch.setattr("dsvk.server.chat_completions.Reply.whole", long)
    body = json.dumps(BODY).encode()
    with connected(scripted.url) as client:
        client.sendall(post([*GOOD, f"Content-Length: {len(body)}"], body))
        ended = select.poll()
        ended.register(client, 0)      # a reset is told without being asked for
        assert ended.poll(60_000)
    answer = httpx.post(scripted.url + "/v1/chat/completions", json=BODY, timeout=60)
    assert len(answer.content) > 16 << 20      # who reads it gets it


def test_S10_what_nobody_reads_pauses_and_goes_on(nano):
    """Only this request, without an influence on its tokens, and its cancelling still ends it."""
    with dsvk.Scheduler(nano, max_running=2) as scheduler:
        wanted = [id for event in scheduler.submit("ROMEO:\n", 80, temperature=0) for id in event.ids]
        slow = scheduler.submit("ROMEO:\n", 80, temperature=0, backlog=4)
        others = [scheduler.submit("KING:\n", 20, temperature=0) for _ in range(2)]
        texts = ["".join(event.text for event in other) for other in others]
        assert texts[0] == texts[1] and not slow.finished and len(slow._events) <= 8
        held = scheduler.submit("A", 300, temperature=0, backlog=2), scheduler.submit("B", 300, temperature=0, backlog=2)
        assert [id for event in slow for id in event.ids] == wanted
        end = time.monotonic() + 60
        while not all(request._paused for request in held):
            assert time.monotonic() < end
            time.sleep(0.01)
        steps = scheduler.report["steps"]
        assert scheduler.report["steps"] - steps <= 1      # nobody spins
        waiting = scheduler.submit("C", 2, temperature=0)
        held[0].cancel()
        assert [event.finish for event in waiting if event.finish] == ["length"]
        assert [event.finish for event in held[0] if event.finish] == ["cancelled"]


def test_S11_clients_that_come_and_go_leave_nothing(scripted):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    httpx.get(scripted.url + "/health")
    before = descriptors()
    for i in range(10000 if os.environ.get("DSVK_TEST_LONG") else 300):
        with connected(scripted.url) as client:
            if i % 3:
                client.sendall(post([*GOOD, "Content-Length: 100"], b"{" if i % 2 else b""))
    crowd = [connected(scripted.url) for _ in range(100)]
    assert httpx.get(scripted.url + "/health").status_code == 200
    for client in crowd:
        client.close()
    end = time.monotonic() + 60
    while descriptors() > before + 2:
        assert time.monotonic() < end, descriptors()
        time.sleep(0.05)


def test_S15_pages_of_listed_origins_may_ask(nano):
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer))
    with served(engine, keys=["key"], origins=["https://page.example"]) as url:
        page, other = {"origin": "https://page.example"}, {"origin": "https://page.example.evil"}
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        may = httpx.options(url + "/v1/chat/completions", headers={**page, **asked})
        assert may.status_code == 204 and may.headers["access-control-allow-origin"] == "https://page.example"
        assert "authorization" in may.headers["access-control-allow-headers"] and "POST" in may.headers["access-control-allow-methods"]
        engine.scheduler.say("x")
        answer = httpx.post(url + "/v1/chat/completions", json=BODY, headers={**page, "authorization": "Bearer key"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://page.example"
        assert answer.headers["vary"] == "origin" and "access-control-allow-credentials" not in answer.headers
        assert httpx.post(url + "/v1/chat/completions", json=BODY, headers=page).status_code == 401
        for headers in ({**other, **asked}, {"origin": "null"}, {"origin": "*"}):
            refused = httpx.options(url + "/v1/chat/completions", headers=headers)
            assert refused.status_code == 403 and not any(name.startswith("access-control") for name in refused.headers)
        assert httpx.options(url + "/v1/models").status_code == 401


@pytest.mark.parametrize("options, words", [
    (["--allow-origin", "*"], "expected the origin of a page"), (["--allow-origin", "https://page.example/x"], "'https://page.example/x'"),
    (["--queue-timeout", "-1"], "expected seconds"), (["--drain", "soon"], "'soon'")])
def test_options_that_are_wrong_say_so(capsys, options, words):
    with pytest.raises(SystemExit) as end:
        main(["serve", "nano", *options])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_S18_strangers_texts_are_escaped_and_short_in_the_log(scripted, caplog):
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x", "x")
    kind = "strange\n\x1b[2J\u202e" + "y" * 500
    with caplog.at_level(logging.WARNING, "dsvk.server"):
        for _ in range(2):
            asked = {"model": "nano", "input": [{"role": "user", "content": "x"}, {"type": kind}]}
            assert httpx.post(scripted.url + "/v1/responses", json=asked).status_code == 200
    line, = [record.getMessage() for record in caplog.records if record.name == "dsvk.server"]
    assert "strange" in line and line.isprintable() and line.isascii() and len(line) <= 256
    assert printable("a\n\u202e" * 300).isprintable() and len(printable("\n" * 300)) <= 256


def test_what_has_not_begun_in_time_is_given_up(scripted, monkeypatch):
    monkeypatch.setattr(scripted, "queue_timeout", 0.05)
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(("x", 30.0), ("x", 30.0))
    answer = httpx.post(scripted.url + "/v1/chat/completions", json=BODY)
    assert answer.status_code == 503 and "not begun within 0.05 s" in answer.text and answer.headers["retry-after"]
    answer = httpx.post(scripted.url + "/v1/chat/completions", json={**BODY, "stream": True})
    assert json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "server_is_overloaded"


def test_S07_S19_what_waits_for_its_grammar_is_told_that_the_server_ends(nano, monkeypatch):
    engine = Engine(nano, "nano")
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(engine.grammars, "answer", lambda *args, **options: begun.set() or go_on.wait())
    try:
        with ThreadPoolExecutor(1) as pool:
            with served(engine, drain=0.2) as url:
                answer = pool.submit(httpx.post, url + "/v1/chat/completions", timeout=60,
                                     json={**BODY, "response_format": {"type": "json_object"}})
                assert begun.wait(60)
            given = answer.result()
    finally:
        go_on.set()
    assert given.status_code == 503 and given.json()["error"]["code"] == "server_is_overloaded", given.text


def test_S19_told_to_end_it_drains_and_says_so_and_told_again_it_ends(nano):
    end = nano.tokenizer.id("<｜end▁of▁sentence｜>")
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}      # stderr keeps what it could not write

    def start(*options):
        server = subprocess.Popen([sys.executable, "-m", "dsvk", "serve", "nano", "--port", "0", *options],
                                  stderr=subprocess.PIPE, text=True, env=usual)
        return server, re.match(r"nano at (http://127\.0\.0\.1:\d+)/v1$", server.stderr.readline())[1]

    def long(client):
        stream = create(client, thinking=False, max_tokens=3900, temperature=0.01, stream=True,
                        extra_body={"seed": 1, "logit_bias": {str(end): -100}})
        assert next(iter(stream)).choices
        return stream

    def tell(server):
        server.send_signal(signal.SIGTERM)
        assert re.match(r"ending: what runs has [\d.]+ s; told again, it ends at once$", server.stderr.readline())

    for heard in (True, False):     # nobody reads what it says: no reason to break the answer off in another way
        server, url = start("--drain", "0.2")
        try:
            stream = long(official(url))
            if heard:
                tell(server)
            else:
                server.stderr.close()
                server.terminate()
            with pytest.raises(openai.APIError, match="shutting down"):
                for _ in stream:
                    continue
            assert server.wait(60) == 0
        finally:
            server.kill()
    server, url = start("--drain", "1000")
    try:
        stream = long(official(url))
        tell(server)
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    finally:
        server.kill()


def until(holds):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it never came to be")


def test_S07_while_the_model_is_loaded_clients_are_told_to_come_back():
    begun, go_on = threading.Event(), threading.Event()

    def load(progress):
        progress("weights", 250, 1000)
        begun.set()
        assert go_on.wait(60)
        return dsvk.Model("nano", progress=progress)

    keeper = Keeper(load, lambda model: Engine(model, "nano"))
    with served(keeper) as url, httpx.Client(timeout=60) as http:
        answer = http.post(url + "/v1/chat/completions", json=BODY)
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the model is being loaded")     # and before it begins
        keeper.start()
        assert begun.wait(60)
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"):
            answer = http.post(url + path, json={**BODY, "max_tokens": 5})
            assert answer.status_code == (529 if "messages" in path else 503) and int(answer.headers["retry-after"]) > 0
            assert "the model is being loaded: weights, 25 %" in answer.text
        assert [http.get(url + path).status_code for path in ("/health", "/ready", "/metrics", "/v1/models")] == [200, 503, 503, 503]
        go_on.set()
        until(lambda: http.get(url + "/ready").status_code == 200)
        assert http.post(url + "/v1/chat/completions", json={**BODY, "max_tokens": 5}).status_code == 200


def test_S07_a_load_ends_with_the_server_and_a_failed_one_ends_it():
    loading = threading.Event()

    def endless(progress):
        while True:
            progress("weights", 1, 2)
            loading.set()
            time.sleep(0.01)

    keeper = Keeper(endless, lambda model: Engine(model, "nano"))
    keeper.start()
    assert loading.wait(60)
    keeper.close()
    assert isinstance(keeper.failure, dsvk.CancelledError)

    failed = threading.Event()
    keeper = Keeper(lambda progress: dsvk.Model("/no/such/folder"), lambda model: Engine(model, "nano"))
    keeper.start(failed=failed.set)
    assert failed.wait(60) and isinstance(keeper.failure, dsvk.FileError)
    keeper.close()


def test_S07_a_lost_device_is_opened_again(caplog):
    opened, refusals = [], [dsvk.NoDeviceError("no Vulkan device"), dsvk.DeviceLostError("and lost once more")]

    def load(progress):
        if opened and refusals:
            raise refusals.pop(0)
        return dsvk.Model("nano")

    keeper = Keeper(load, lambda model: Engine(model, "nano", scheduler=Script(model.tokenizer)), pauses=[0, 0.01, 1])
    with served(keeper) as url, httpx.Client(timeout=60) as http:
        keeper.start(opened.append)
        until(lambda: opened)
        engine = opened[0]
        engine.turns.put("call_1", [1, 2, 3], ["call_1"])
        lost, model = engine.scheduler, engine.model
        lost.say(("Some", dsvk.DeviceLostError("gone")))
        answer = http.post(url + "/v1/chat/completions", json=BODY)
        assert answer.json()["choices"][0]["finish_reason"] == "insufficient_system_resource"
        until(lambda: http.get(url + "/ready").status_code == 503)
        answer = http.post(url + "/v1/chat/completions", json=BODY)
        assert answer.status_code == 503 and answer.headers["retry-after"] and "the device was lost" in answer.text
        until(lambda: len(opened) == 2)
        assert opened[1] is engine and lost.closed and model.closed and not refusals
        answer = http.post(url + "/v1/chat/completions", json={**BODY, "max_tokens": 5})
        assert answer.status_code == 200 and engine.turns.find([("call_1", ["call_1"])]) == {"call_1": [1, 2, 3]}
        samples = http.get(url + "/metrics").text
        assert re.search(r'dsvk:request_success_total{.*finished_reason="error".*} 1.0', samples)
        assert re.search(r'dsvk:request_success_total{.*finished_reason="length".*} 1.0', samples)
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
            "the device was lost; it is opened again", "attempt 1 to open the model again: no Vulkan device",
            "attempt 2 to open the model again: and lost once more"]
        engine.seen(dsvk.DeviceLostError("of the one before, told late"), lost)
        assert engine.ready and len(opened) == 2
        engine.scheduler.close()      # a device lost as a prompt is handed in
        engine.scheduler = Script(engine.tokenizer)
        engine.scheduler.refusal = dsvk.DeviceLostError("gone")
        assert http.post(url + "/v1/chat/completions", json=BODY).status_code == 503
        until(lambda: len(opened) == 3)
    assert engine.model.closed


def test_prometheus_is_told_under_vllms_names(engine, url):
    from prometheus_client.parser import text_string_to_metric_families as families

    def read():
        text = httpx.get(url + "/metrics").text
        return {(sample.name, *(value for name, value in sample.labels.items() if name != "model_name")): sample.value
                for family in families(text) for sample in family.samples}

    before = read()
    create(official(url), [{"role": "user", "content": "Count me. " * 30}], thinking=False, max_tokens=7, temperature=0)
    create(official(url), [{"role": "user", "content": "Count me. " * 30}], thinking=False, max_tokens=7, temperature=0, stream=False)
    after = read()
    grown = {key: value - before.get(key, 0) for key, value in after.items()}
    assert grown["dsvk:generation_tokens_total",] == 14 and grown["dsvk:request_success_total", "length"] == 2
    assert grown["dsvk:prompt_tokens_total",] == grown["dsvk:prefix_cache_queries_total",] > grown["dsvk:prefix_cache_hits_total",] > 0
    assert grown["dsvk:time_to_first_token_seconds_count",] == grown["dsvk:e2e_request_latency_seconds_count",] == 2
    assert grown["dsvk:request_generation_tokens_sum",] == 14
    assert after["dsvk:num_requests_running",] == after["dsvk:num_requests_waiting",] == 0
    assert 0 < after["dsvk:kv_cache_usage_perc",] < 1 and ("dsvk:num_preemptions_total",) in after

    watch = Watch(engine.metrics)      # tokens that come together: those of a choice's first step have nothing before them
    for choice, tokens in ((0, 2), (0, 3), (1, 1), (0, 1)):
        watch.tokens(choice, tokens)
    between = "dsvk:inter_token_latency_seconds_count"
    assert read()[between,] - after[between,] == 4
