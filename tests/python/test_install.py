"""What `cmake --install` gives C and Lua users: the examples build against it by pkg-config and by find_package, wherever it was moved
to, and run; the shared library shows what dsvk.h declares."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dsvk import chat

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/release"
EXAMPLES = ROOT / "examples"
HEADER = (ROOT / "core/dsvk.h").read_text(encoding="utf-8")
STRICT = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror"]
TEXT = "27 + 35. Ones: 7 + 5 = 12, write 2, carry 1."  # what nano goes on with in the README's program


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An installation, moved after it was made."""
    if not (BUILD / "libdsvk.so").exists():
        pytest.skip("build/release has no libdsvk.so to install")
    folder = tmp_path_factory.mktemp("install")
    for component in ("c", "lua", "nano"):
        run("cmake", "--install", BUILD, "--prefix", folder / "first", "--component", component)
    (folder / "first").rename(folder / "moved")
    return folder / "moved"


@pytest.fixture(scope="module")
def pkg_config(prefix):
    found, = prefix.rglob("dsvk.pc")

    def ask(*options):
        return run("pkg-config", *options, "dsvk", env={**os.environ, "PKG_CONFIG_PATH": str(found.parent)}).split()
    return ask


@pytest.fixture(scope="module")
def by_pkg_config(prefix, pkg_config, tmp_path_factory):
    """by_pkg_config(name, *more) -> the built example."""
    folder = tmp_path_factory.mktemp("pkg-config")

    def build(name, *more):
        flags = pkg_config("--cflags", "--libs")
        directory, = [flag[2:] for flag in flags if flag.startswith("-L")]
        run("cc", *STRICT, EXAMPLES / f"{name}.c", "-o", folder / name, *more, *flags, f"-Wl,-rpath,{directory}")
        return folder / name
    return build


@pytest.fixture(scope="module")
def by_cmake(prefix, tmp_path_factory):
    """The folder of all examples, built by find_package."""
    folder = tmp_path_factory.mktemp("cmake")
    run("cmake", "-S", EXAMPLES, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_C_FLAGS={' '.join(STRICT[2:])}")
    run("cmake", "--build", folder)
    return folder


@pytest.fixture(scope="module")
def weights(pkg_config):
    folder, = pkg_config("--variable=nano")
    return Path(folder)


def test_version_and_files(prefix, pkg_config):
    parts = dict(re.findall(r"#define DSVK_VERSION_(MAJOR|MINOR|PATCH) (\d+)", HEADER))
    assert pkg_config("--modversion") == [f"{parts['MAJOR']}.{parts['MINOR']}.{parts['PATCH']}"]
    library, = prefix.rglob("libdsvk.so.*.*.*")
    assert f"SONAME: [libdsvk.so.{parts['MAJOR']}.{parts['MINOR']}]" in re.sub(r"Library soname", "SONAME", run("readelf", "-d", library))
    assert (prefix / "include/dsvk.h").read_text(encoding="utf-8") == HEADER
    rockspec, = (ROOT / "lua").glob("*.rockspec")
    assert rockspec.name == f"dsvk-{parts['MAJOR']}.{parts['MINOR']}.{parts['PATCH']}-1.rockspec"


def test_the_library_shows_what_the_header_declares(prefix):
    library, = prefix.rglob("libdsvk.so.*.*.*")
    shown = {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}
    declared = set(re.findall(r"^DSVK_API [^;(]*?\b(dsvk_\w+)\(", HEADER, re.MULTILINE))
    assert shown == declared and len(declared) > 50


def test_the_archive_defines_names_of_its_own(prefix):
    """Whatever a program links libdsvk.a with, their names do not meet."""
    library, = prefix.rglob("libdsvk.a")
    names = {line.split()[-1] for line in run("nm", "-g", "--defined-only", library).splitlines() if len(line.split()) == 3}
    assert len(names) > 200 and [name for name in sorted(names) if not name.startswith("dsvk_")] == []


def test_hello_by_pkg_config(by_pkg_config, weights):
    assert run(by_pkg_config("hello"), weights).startswith(TEXT)
    missing = subprocess.run([by_pkg_config("hello"), weights / "no"], capture_output=True, text=True, timeout=600)
    assert missing.returncode == 1 and "no" in missing.stderr


def test_hello_by_find_package(by_cmake, weights):
    assert "libdsvk.so" in run("ldd", by_cmake / "hello") and "libdsvk" not in run("ldd", by_cmake / "hello_static")
    assert run(by_cmake / "hello_static", weights).startswith(TEXT)


def test_chat_answers_as_python_does(by_cmake, weights, nano):
    messages, expected = [], ""
    for line in 'Hello "you"', "And\twho is that?":
        messages.append({"role": "user", "content": line})
        with nano.session() as session:
            session.sync(chat.encode_ids(nano.tokenizer, messages, reasoning_effort="none"))
            parser = chat.Parser("chat")
            events = [event for token in session.decode(12) for event in parser.push(nano.tokenizer, token)] + list(parser.finish())
        messages.append({"role": "assistant", "content": "".join(event.text for event in events if event.kind == "content")})
        expected += messages[-1]["content"] + "\n"
    assert run(by_cmake / "chat", weights, 12, input="".join(f"{m['content']}\n" for m in messages[::2])) == expected


def test_frames_write_the_same(by_cmake, weights):
    text = run(by_cmake / "frames", weights, 8).strip()
    assert TEXT.startswith(text) and len(text) >= 8


def test_A16_a_program_draws_and_generates_on_one_device(by_cmake, weights):
    if not (by_cmake / "host_device").exists():
        pytest.skip("Vulkan's loader for linking or glslangValidator is not installed")
    layer = Path("/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json")
    settings = {"VK_INSTANCE_LAYERS": "VK_LAYER_KHRONOS_validation"} if layer.exists() else {}
    done = subprocess.run([by_cmake / "host_device", weights], capture_output=True, text=True, timeout=600, env={**os.environ, **settings})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(TEXT) and "Validation" not in done.stdout + done.stderr
    frames = re.fullmatch(r"(\d+) frames while text was generated, 0 different\n", done.stderr)
    assert frames and int(frames[1]) >= 16, done.stderr


def test_lua_finds_the_module_and_nano(prefix):
    lua = shutil.which("lua5.4")
    if lua is None:
        pytest.skip("lua5.4 is not installed")
    module, = prefix.rglob("lua/5.4/dsvk.so")
    program = ('local dsvk = require "dsvk" local model = assert(dsvk.model("nano"))'
               'print(model:generate("ROMEO:", { max_tokens = 8, temperature = 0 }))')
    paths = {"LUA_CPATH": f"{module.parent}/?.so", "LUA_PATH": f"{prefix}/share/lua/5.4/?.lua"}
    assert len(run(lua, "-e", program, env={**os.environ, **paths})) > 10
