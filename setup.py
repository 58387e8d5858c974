"""Builds ``pydream._C`` with CMake and Ninja; all other settings live in pyproject.toml.

Torch is neither imported nor linked here: the kernels take pointers and sizes,
so one build serves every torch version and build isolation stays on.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_support"))

import cmake_cache  # noqa: E402  (beside the build backend)
import cuda_toolkit  # noqa: E402
import environment  # noqa: E402

WITHOUT_CUDA = ["-DPYDREAM_CUDA=OFF"]


def cuda_options() -> list[str]:
    """Return CMake's options for CUDA, as PYDREAM_CUDA and what is installed say."""
    mode = cuda_toolkit.mode()
    nvcc = None if mode == "off" else cuda_toolkit.find_nvcc()
    if nvcc is None:
        if mode == "on":
            raise SystemExit(
                "PYDREAM_CUDA=on, but there is no nvcc: put it on PATH, set CUDA_HOME, or "
                f"pip install {' '.join(repr(wheel) for wheel in cuda_toolkit.WHEELS)}"
            )
        return WITHOUT_CUDA
    return [
        "-DPYDREAM_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={cuda_toolkit.architectures()}",
    ]


class CMakeBuild(build_ext):  # type: ignore[misc]  # setuptools is untyped here
    """Configures and builds the CMake project, and leaves the module where setuptools asks."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        options = cuda_options()
        try:
            self.configure(build, target, options)
        except subprocess.CalledProcessError:
            if options == WITHOUT_CUDA or cuda_toolkit.mode() == "on":
                raise
            print(
                "warning: this nvcc does not work with this compiler, so pydream is built without "
                "CUDA; PYDREAM_CUDA=on makes that an error, PYDREAM_CUDA=off leaves it out",
                file=sys.stderr,
            )
            shutil.rmtree(build)
            build.mkdir()
            self.configure(build, target, WITHOUT_CUDA)
        subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)

    def configure(self, build: Path, target: Path, options: list[str]) -> None:
        build_type = "Debug" if self.debug else os.environ.get("PYDREAM_BUILD_TYPE", "Release")
        configure = [
            "cmake",
            "-S", str(ROOT),
            "-B", str(build),
            "-G", "Ninja",
            f"-DCMAKE_BUILD_TYPE={build_type}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPYDREAM_WERROR={environment.choice('PYDREAM_WERROR', 'off', 'on')}",
            *options,
            # Never otherwise: it throws away what is compiled.
            *(["--fresh"] if cmake_cache.names_what_is_gone(build) else []),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.run(configure, check=True)


setup(ext_modules=[Extension("pydream._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
