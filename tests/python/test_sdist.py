"""The source distribution carries every kernel compiled, from the sources it carries, and is built without a compiler of kernels; what a
wheel carries of others goes with its licence.
tools/try_packages installs it, the wheel and the others."""
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest

from test_spirv import words

ROOT = Path(__file__).resolve().parents[2]
GLSLANG = shutil.which("glslangValidator") or shutil.which("glslang")


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    made = run(sys.executable, "setup.py", "-q", "sdist", "-d", folder, cwd=ROOT)
    if made.returncode and "No module named" in made.stderr:
        pytest.skip(made.stderr.strip().splitlines()[-1])
    assert made.returncode == 0, made.stdout + made.stderr
    archive, = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    unpacked, = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.mark.skipif(GLSLANG is None, reason="glslangValidator is not installed")
def test_words_are_what_the_sources_compile_to(source, tmp_path):
    kernels = sorted((source / "shaders").glob("*.comp"))
    assert [path.stem for path in kernels] == sorted(path.stem for path in (source / "shaders/spirv").glob("*.inc"))

    def compare(kernel):
        kept = ROOT / f"shaders/spirv/{kernel.stem}.inc"  # those that an older compiler cannot: tests/python/test_spirv.py
        made = kept if kept.exists() else tmp_path / kept.name
        if made is not kept:
            done = run(GLSLANG, "-V", "--target-env", "vulkan1.3", "--quiet", f"-I{source}/shaders", f"-I{source}/core/device",
                       "--vn", f"spirv_{kernel.stem}", "-o", made, kernel)
            assert done.returncode == 0, done.stdout
        assert words(made) == words(source / f"shaders/spirv/{kernel.stem}.inc"), kernel.name

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compare, kernels))


def test_kernels_need_no_compiler(source, tmp_path):
    assert run("cmake", "-S", source, "-B", tmp_path, "-DGLSLANG=OFF").returncode == 0
    done = run("cmake", "--build", tmp_path, "--target", "spirv")
    assert done.returncode == 0 and (tmp_path / "spirv/topk.inc").exists(), done.stdout + done.stderr
    clone = run("cmake", "-S", ROOT, "-B", tmp_path / "clone", "-DGLSLANG=OFF")
    assert clone.returncode != 0 and "install glslang" in clone.stderr


def test_licences_of_the_libraries_are_installed():
    """auditwheel puts jansson and PCRE2 into a wheel for others: their licences are in every wheel built where they can be found."""
    sources = [Path(f"/usr/share/doc/lib{name}-dev/copyright") for name in ("jansson", "pcre2")]
    if not all(path.exists() for path in sources):
        pytest.skip("this system keeps no licences where Debian does")
    for path, owner in zip(sources, ("Petri Lehtinen", "University of Cambridge")):
        installed = files("dsvk") / "licenses" / f"{path.parent.name.removeprefix('lib').removesuffix('-dev')}.txt"
        text = installed.read_text(encoding="utf-8")
        assert owner in text and text == path.read_text(encoding="utf-8")
