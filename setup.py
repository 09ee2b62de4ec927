"""Builds the extension by CMake, which has the only list of sources, and takes the version from core/dsvk.h.

The build directory (build/release) stays, so that a second build compiles what changed. `python setup.py build_ext
--configuration debug` builds another configuration; CMAKE_ARGS has more for CMake. A source distribution carries every kernel
compiled, so that building it needs no compiler of kernels.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
LIBRARIES = "jansson", "pcre2"  # linked by the extension; auditwheel puts them into a wheel for others


def version() -> str:
    header = (ROOT / "core" / "dsvk.h").read_text(encoding="utf-8")
    return ".".join(re.search(rf"#define DSVK_VERSION_{part} (\d+)", header)[1] for part in ("MAJOR", "MINOR", "PATCH"))


def build(target: str, configuration: str = "release") -> Path:
    """Builds a target of CMake's -> the build directory."""
    folder = ROOT / "build" / configuration
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), f"-DDSVK_CONFIGURATION={configuration}", "-DDSVK_PYTHON=ON",
                 f"-DPython3_EXECUTABLE={sys.executable}", *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
    cache = folder / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in cache.read_text(encoding="utf-8"):
        cache.unlink()      # of a clone that was moved or copied: CMake builds nowhere else
    if shutil.which("ninja") and not cache.exists():
        configure += ["-G", "Ninja"]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", str(folder), "--target", target, "--parallel"], check=True)
    return folder


def add_licences(folder: Path) -> None:
    """Writes the libraries' licences, as their Debian package or the one of Fedora and its like has them. Where there is none the wheel
    is for this machine alone: tools/try_packages refuses one that has a library without its licence."""
    for name in LIBRARIES:
        texts = sorted({*Path("/usr/share").glob(f"doc/lib{name}-dev/copyright"), *Path("/usr/share").glob(f"licenses/{name}*/*")})
        if texts:
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.txt").write_bytes(b"\n".join(text.read_bytes() for text in texts))


class CMakeBuild(build_ext):
    user_options = build_ext.user_options + [("configuration=", None, "debug, release or sanitize (release)")]

    def initialize_options(self):
        super().initialize_options()
        self.configuration = "release"

    def build_extension(self, extension):
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build("_dsvk", self.configuration) / "_dsvk.abi3.so", target)
        if not self.inplace:
            add_licences(target.parent / "licenses")


class SourceDistribution(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        folder = Path(base_dir, "shaders/spirv")
        for compiled in (build("spirv") / "spirv").glob("*.inc"):
            (folder / compiled.name).unlink(missing_ok=True)  # it may be a link to ours
            shutil.copyfile(compiled, folder / compiled.name)


setup(
    version=version(),
    packages=["dsvk", "dsvk.server"],
    package_dir={"": "python"},
    package_data={"dsvk": ["py.typed", "*.pyi", "nano/*", "families/*"], "dsvk.server": ["page/*"]},
    ext_modules=[Extension("dsvk._dsvk", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild, "sdist": SourceDistribution},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
