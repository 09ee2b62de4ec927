"""README.md is true: its programs run and print what they should, its conversation is as printed, and its tree is the
repository's. So are the programs of lua/README.md."""
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import dsvk

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def tracked():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the tree is compared with git's list of files, and this is no clone")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if name]


def tree():
    """The patterns of the tree, by their place: "core/ops/*.c"."""
    text = README[README.index("## The tree"):]
    block = re.search(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    return [line.split()[0] for line in block.splitlines()]


def covers(pattern, name):
    """A pattern's last part may have a *; it stays within its folder, and "folder/*" holds all below it."""
    if pattern.endswith("/*"):
        return name.startswith(pattern[:-1])
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def test_every_file_is_in_the_tree():
    names, patterns = tracked(), tree()
    assert [name for name in names if not any(covers(pattern, name) for pattern in patterns)] == []


def test_every_entry_of_the_tree_exists():
    names, patterns = tracked(), tree()
    assert [pattern for pattern in patterns if not any(covers(pattern, name) for name in names)] == []
    assert len(set(patterns)) == len(patterns)


def test_every_path_in_the_text_exists():
    for path in set(re.findall(r"`((?:core|shaders|bindings|python|lua|examples|docs|tests|tools|bench|\.ci)/[\w./]*)`", README)):
        assert (ROOT / path).exists(), path


def test_the_three_programs_print_the_same(tmp_path):
    python = blocks("python")[0]
    lua, = blocks("lua")
    program, = blocks("c")
    compile_line = next(block for block in blocks("sh") if block.startswith("cc example.c -o"))
    if not (ROOT / "build/release/libdsvk.a").exists():
        pytest.skip("the C program links build/release/libdsvk.a, which is not built here")
    from_python = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=600)
    assert from_python.returncode == 0, from_python.stderr
    assert program == (ROOT / "examples/hello.c").read_text(encoding="utf-8")
    (tmp_path / "example.c").write_text(program, encoding="utf-8")
    line = compile_line.replace("example.c", str(tmp_path / "example.c")).replace("-o example", f"-o {tmp_path}/example")
    compiled = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert compiled.returncode == 0, compiled.stderr
    from_c = subprocess.run([tmp_path / "example", dsvk.locate("nano")], capture_output=True, text=True, timeout=600)
    assert from_c.returncode == 0, from_c.stderr
    assert from_c.stdout == from_python.stdout and len(from_c.stdout) > 20
    (tmp_path / "example.lua").write_text(lua, encoding="utf-8")
    line = next(block for block in blocks("sh") if block.startswith("LUA_CPATH=")).replace("example.lua", str(tmp_path / "example.lua"))
    from_lua = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert from_lua.returncode == 0, from_lua.stderr
    assert from_lua.stdout == from_python.stdout
    failed = subprocess.run([tmp_path / "example", tmp_path / "no model"], capture_output=True, text=True, timeout=600)
    assert failed.returncode == 1 and "no model" in failed.stderr


def test_the_lua_programs_run_one_after_another(tmp_path):
    """Those of lua/README.md, where one goes on with the names of the ones before; each writes something."""
    if shutil.which("lua5.4") is None or not (ROOT / "build/release/dsvk.so").exists():
        pytest.skip("lua5.4 or build/release/dsvk.so is not here")
    text = (ROOT / "lua/README.md").read_text(encoding="utf-8")
    program = 'io.write("\\0")\n'.join(blocks("lua", text))
    (tmp_path / "program.lua").write_text(program, encoding="utf-8")
    paths = {"LUA_CPATH": f"{ROOT}/build/release/?.so"}
    ran = subprocess.run(["lua5.4", tmp_path / "program.lua"], env={**os.environ, **paths}, capture_output=True, text=True, timeout=600)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    written = ran.stdout.split("\0")
    assert len(written) == text.count("```lua") >= 4 and all(one.strip() for one in written)
    products = [sum(i * (32 * row + i) for i in range(1, 33)) for row in range(2)]
    assert [one for one in written if one.split() == [f"{n:.1f}" for n in products]]
    version = next(line for line in "".join(blocks("sh", text)).splitlines() if "lua5.4 -e" in line).replace("build/lua", "build/release")
    said = subprocess.run(version, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (said.stderr, said.stdout) == ("", dsvk.__version__ + "\n")


def test_many_at_once_answer_as_one_by_one(nano):
    program = blocks("python")[1]
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    answers = [nano.generate(f"{name}:\n", 24, temperature=0, stop="\n\n") for name in ("ROMEO", "JULIET", "KING HENRY")]
    assert re.fullmatch(re.escape("\n--\n".join(answers)) + r"\n\d+ tokens\n", ran.stdout), ran.stdout


def test_the_conversation_is_as_printed():
    section = README[README.index("## Conversations"):]
    shown = re.search(r"^prints\n\n```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]
    ran = subprocess.run([sys.executable, "-c", blocks("python")[2]], capture_output=True, text=True, timeout=600)
    assert (ran.stderr, ran.stdout) == ("", shown)


def test_the_ops_run():
    ran = subprocess.run([sys.executable, "-c", blocks("python")[3]], capture_output=True, text=True, timeout=600)
    assert (ran.stderr, ran.stdout) == ("", "(5, 32) int32 [1. 1. 1. 1. 1.]\n")


def test_the_server_answers_the_client():
    pytest.importorskip("uvicorn"), pytest.importorskip("starlette"), pytest.importorskip("pydantic")
    pytest.importorskip("prometheus_client"), pytest.importorskip("openai")
    block = next(block for block in blocks("sh") if "dsvk serve" in block)
    _, serve, ask = block.splitlines()
    with subprocess.Popen([sys.executable, "-m", *serve.replace("8000", "0").split()], stderr=subprocess.PIPE, text=True) as server:
        try:
            address = re.match(r"nano at (http://127\.0\.0\.1:\d+/v1)$", server.stderr.readline())
            line = ask.replace("http://127.0.0.1:8000/v1", address[1]).replace("python", sys.executable, 1)
            asked = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=600)
        finally:
            server.terminate()
        said = server.stderr.read()
    assert server.wait() == 0, said
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("ChatCompletion(id='chatcmpl-") and "finish_reason=" in asked.stdout


def test_the_help_texts_name_every_command():
    usage = subprocess.run([sys.executable, "-m", "dsvk", "--help"], capture_output=True, text=True, timeout=60).stdout
    for command in ("devices", "generate", "chat", "pull", "plan", "verify", "tokenize", "serve", "connect", "bench"):
        assert command in usage and f"\ndsvk {command} " in README
    assert os.access(ROOT / "tools/test", os.X_OK) and os.access(ROOT / "tools/demo", os.X_OK)
