"""Builds the extension by CMake, which has the only list of sources, and takes the version from core/dsvk.h.

The build directory (build/release) stays, so that a second build compiles what changed. `python setup.py build_ext
--configuration debug` builds another configuration.
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def version() -> str:
    header = (ROOT / "core" / "dsvk.h").read_text(encoding="utf-8")
    return ".".join(re.search(rf"#define DSVK_VERSION_{part} (\d+)", header)[1] for part in ("MAJOR", "MINOR", "PATCH"))


class CMakeBuild(build_ext):
    user_options = build_ext.user_options + [("configuration=", None, "debug, release or sanitize (release)")]

    def initialize_options(self):
        super().initialize_options()
        self.configuration = "release"

    def build_extension(self, extension):
        build = ROOT / "build" / self.configuration
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), f"-DDSVK_CONFIGURATION={self.configuration}",
                     "-DDSVK_PYTHON=ON", f"-DPython3_EXECUTABLE={sys.executable}"]
        if shutil.which("ninja") and not (build / "CMakeCache.txt").exists():
            configure += ["-G", "Ninja"]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_dsvk", "--parallel"], check=True)
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / "_dsvk.abi3.so", target)


setup(
    version=version(),
    packages=["dsvk", "dsvk.server"],
    package_dir={"": "python"},
    package_data={"dsvk": ["py.typed", "*.pyi", "nano/*", "families/*"], "dsvk.server": ["page/*"]},
    ext_modules=[Extension("dsvk._dsvk", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
