"""Models by the name of a repository: a small hub on the loopback, huggingface_hub, the command, and what goes wrong. Nothing here
reaches beyond this machine."""
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dsvk

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "tests/nano"


class Hub(http.server.ThreadingHTTPServer):
    """Serves the package's nano as one repository, as much as huggingface_hub asks for. cut: bytes after which the
    next answer with weights ends too soon."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        nano = dsvk.locate("nano")
        self.files = {path.name: path.read_bytes() for path in nano.iterdir() if path.is_file()}
        self.files["training_notes.bin"] = b"x" * 100000            # nothing a model is read from
        self.asked, self.cut, self.claimed = [], None, {}
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self):
        if self.thread.is_alive():
            self.shutdown()
            self.server_close()
            self.thread.join()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_json(self, value, status=200, **headers):
        body = json.dumps(value).encode()
        self.send(status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}, body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, hub = self.path.split("?")[0], self.server
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if path in (f"/api/models/{REPOSITORY}/revision/main", f"/api/models/{REPOSITORY}"):
            return self.send_json({"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in hub.files]})
        if path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            return self.send_json([{"type": "file", "path": name, "size": hub.claimed.get(name, len(data)),
                                    "oid": hashlib.sha1(data).hexdigest()} for name, data in hub.files.items()])
        name = path.rsplit("/", 1)[1]
        if path != f"/{REPOSITORY}/resolve/{COMMIT}/{name}" or name not in hub.files:
            return self.send_json({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
        return self.send_file(hub, name)

    def send_file(self, hub, name):
        data, first = hub.files[name], 0
        if self.headers.get("Range"):
            first = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes",
                   "Content-Length": str(hub.claimed.get(name, len(data)) - first)}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        if hub.cut and self.command == "GET" and name == "model.safetensors":
            data, hub.cut, self.close_connection = data[:first + hub.cut], None, True
        self.send(206 if first else 200, headers, data[first:])


@pytest.fixture
def hub(tmp_path):
    server = Hub()
    yield server
    server.stop()


@pytest.fixture
def run(hub, tmp_path):
    """run(code) in a fresh interpreter whose hub is that one and whose cache is empty at first."""
    def go(code, *arguments, command=False, **environment):
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
                       "HF_HUB_DOWNLOAD_TIMEOUT": "10", "NO_PROXY": "127.0.0.1", **environment}
        line = [sys.executable, "-m", "dsvk", code, *arguments] if command else [sys.executable, "-c", "import dsvk\n" + code]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    return go


def fetched(hub):
    return [path.rsplit("/", 1)[1] for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]


def test_pull_fetches_once_and_only_what_is_read(hub, run):
    first = run("pull", REPOSITORY, command=True)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert folder.name == COMMIT and sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors",
                                                                                       "tokenizer.json"]
    for path in folder.iterdir():
        assert path.read_bytes() == hub.files[path.name]
    assert sorted(fetched(hub)) == ["config.json", "model.safetensors", "tokenizer.json"]
    hub.asked.clear()
    again = run("pull", REPOSITORY, command=True)
    assert again.stdout == first.stdout and fetched(hub) == []
    hub.asked.clear()
    for environment, arguments in (({"HF_HUB_OFFLINE": "1"}, ()), ({}, ("--offline",))):
        offline = run("pull", REPOSITORY, *arguments, command=True, **environment)
        assert (offline.stdout, hub.asked) == (first.stdout, []), offline.stderr


def test_only_what_is_asked_for(hub, run):
    """A plan needs the configuration alone, whatever the weights' size; tokens need the tokenizer."""
    hub.claimed["model.safetensors"] = 1 << 60
    assert run("plan", REPOSITORY, command=True).stdout.startswith("memory")
    assert fetched(hub) == ["config.json"]
    assert run("tokenize", REPOSITORY, "ROMEO", command=True).returncode == 0
    assert fetched(hub) == ["config.json", "tokenizer.json"]


def test_a_model_by_name(hub, run):
    """The model, its plan and tokenizer; after the hub has gone the cache does."""
    code = (f"print(dsvk.Model({REPOSITORY!r}).report['tensors'], dsvk.plan({REPOSITORY!r})['page_tokens'], "
            f"dsvk.Tokenizer(dsvk.locate({REPOSITORY!r})).vocab_size)")
    here = run(code)
    assert here.returncode == 0, here.stderr
    hub.stop()
    gone = run(code)
    assert gone.stdout == here.stdout, gone.stderr


def test_interrupted_download_goes_on(hub, run):
    hub.files["model.safetensors"] += bytes(24 << 20)           # the library writes 10 MB at a time
    hub.cut = 12 << 20
    result = run(f"print(dsvk.hub.pull({REPOSITORY!r}))")
    assert result.returncode == 0, result.stderr
    assert (Path(result.stdout.strip()) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert any(span and not span.startswith("bytes=0-") for _, path, span in hub.asked if path.endswith("model.safetensors"))


def test_progress_in_bytes(hub, run):
    result = run(f"seen = []\ndsvk.hub.pull({REPOSITORY!r}, progress=lambda *now: seen.append(now))\n"
                 "assert all(stage == 'download' and 0 <= done <= total for stage, done, total in seen)\n"
                 "assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)\nprint(seen[-1][1], seen[-1][2])")
    assert result.returncode == 0, result.stderr
    total = sum(len(hub.files[name]) for name in ("config.json", "tokenizer.json", "model.safetensors"))
    assert result.stdout.split() == [str(total)] * 2


def test_no_room_is_said_before_the_first_byte(hub, run):
    hub.claimed["model.safetensors"] = 1 << 60
    result = run("pull", REPOSITORY, command=True)
    assert result.returncode == 1
    assert "tests/nano: 1048576.0 TiB are to be downloaded, and " in result.stderr and " free" in result.stderr
    assert fetched(hub) == []


@pytest.mark.parametrize("name, environment, message", [
    ("tests/nothing", {}, r"tests/nothing \(main\): 404 Client Error\. Repository Not Found for url: http://127\S+, "
                          "and not all of it is in the cache .*/hf/hub"),
    (REPOSITORY, {"HF_HUB_OFFLINE": "1"}, r"tests/nano \(main\): nothing is fetched offline, and not all of it is in the cache .*/hf/hub"),
    (REPOSITORY, {"HF_ENDPOINT": "http://127.0.0.1:9"}, r"tests/nano \(main\): http://127\.0\.0\.1:9 cannot be reached \(ConnectError: "
                                                        r".*refused\), and not all of it is in the cache .*/hf/hub"),
    (REPOSITORY, {"HF_HOME": "/dev/null/x"}, r"tests/nano \(main\): \[Errno 20\] Not a directory: '/dev/null/x/.*'"),
    ("no name", {}, "'no name': expected the name of a repository, as in org/name"),
    ("tests/a--b", {}, r"tests/a--b \(main\): .*--.*"),
])
def test_what_cannot_be_had(run, name, environment, message):
    result = run("pull", name, command=True, **environment)
    assert result.returncode == 1 and re.fullmatch(f"dsvk: {message}\n", result.stderr), result.stderr


def test_a_proxy_that_refuses(hub, run):
    result = run("pull", REPOSITORY, command=True, HF_ENDPOINT="https://nowhere.invalid", HTTPS_PROXY=hub.address)
    assert re.fullmatch(r"dsvk: tests/nano \(main\): https://nowhere\.invalid cannot be reached \(ProxyError: 501 .*\)\n", result.stderr)


def test_without_the_library(run):
    result = run("import sys\nsys.modules['huggingface_hub'] = None\n"
                 "try:\n    dsvk.Model('some/model')\nexcept dsvk.UnsupportedError as error:\n    print(error)")
    assert result.stdout == "some/model: no such folder; for repositories of that name: pip install 'dsvk[hub]'\n"


def test_names_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dsvk.hub.is_name("org/name") and dsvk.hub.is_name("a/B_c.d-1")
    for path in ("name", "a/b/c", "/a/b", "./a/b", "../a", "~/a", "a/", "a b/c", "a/../b"):
        assert not dsvk.hub.is_name(path), path
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not dsvk.hub.is_name("org/name") and dsvk.locate("org/name") == Path("org/name")
