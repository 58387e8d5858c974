from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import pytest
from filelock import FileLock

from pydream import _C
from pydream.processors import usable_processors

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
COMPILER = shutil.which("g++")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
LANGUAGE = ["-std=c++17", "-fPIC", "-fvisibility=hidden"]
# Words read through other types are what a kernel does, and mean what they say there.
OPTIONS = ["-O1", "-g", "-fno-strict-aliasing"]
# Products and sums fused as nvcc fuses them, where the processor can: GCC does so behind -O1 only
# with expensive optimizations.
FUSED = (
    ["-mfma", "-ffp-contract=fast", "-fexpensive-optimizations"]
    if "avx2" in _C.available_isas()
    else []
)
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]

# The families of ops whose tests run with CUDA kernels. A process takes seconds to load PyTorch
# under the sanitizers: there are two of them, which take about the same time.
FAMILIES = (
    ("kmeans",),
    (
        *("augment", "crop", "multi_formation", "score"),
        *("matching", "collage", "cells", "block", "dispatch"),
    ),
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of families of ops once for every process of theirs."""
    if "families" in metafunc.fixturenames:
        metafunc.parametrize("families", FAMILIES, ids=["kmeans", "others"])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the families, which take minutes, so that processes end at nearly one time."""

    def turn(item: pytest.Item) -> int:
        call = getattr(item, "callspec", None)
        families = call and call.params.get("families")
        return FAMILIES.index(families) if families in FAMILIES else len(FAMILIES)

    items.sort(key=turn)


# Without a kernel, and left without sanitizers, with which they take most of the time of a build.
BINDINGS = [REPOSITORY / "csrc/bindings_cuda.cpp", HERE / "module.cpp"]


def sources() -> list[Path]:
    """Return what is compiled, those first that take longest."""
    kernels = [path for path in REPOSITORY.glob("csrc/*/*_cuda.cu") if path.stem != "device_cuda"]
    return [*BINDINGS, *sorted(kernels), HERE / "broken.cu", HERE / "fibers.cpp"]


def library(name: str) -> str:
    """Return where g++ has a library; its bare name where it has none."""
    return subprocess.run(
        [str(COMPILER), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def build(place: Path) -> Path:
    """Compile the kernels for the CPU with g++, under AddressSanitizer and UBSan."""
    includes = [
        HERE / "include",
        HERE,
        REPOSITORY / "csrc",
        sysconfig.get_path("include"),
        pybind11.get_include(),
    ]
    flags = [*LANGUAGE, *WARNINGS, *(f"-I{folder}" for folder in includes)]

    def compile_one(source: Path) -> Path:
        target = place / f"{source.parent.name}-{source.stem}.o"
        checked = [] if source in BINDINGS else [*OPTIONS, *FUSED, *SANITIZE]
        subprocess.run(
            [str(COMPILER), "-x", "c++", *flags, *checked, "-c", str(source), "-o", str(target)],
            check=True,
        )
        return target

    with ThreadPoolExecutor(usable_processors()) as pool:
        objects = list(pool.map(compile_one, sources()))
    module = place / "_cuda_on_cpu.so"
    subprocess.run(
        [str(COMPILER), "-shared", *SANITIZE, *map(str, objects), "-o", str(module)], check=True
    )
    return module


@pytest.fixture(scope="session")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels as a module for the CPU, built once for all processes of a run of the tests."""
    if COMPILER is None or platform.machine() != "x86_64":
        pytest.skip("needs g++ on x86-64")
    if not Path(library("libasan.so")).is_absolute():
        pytest.skip("needs g++'s sanitizers: install libasan")
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cuda_on_cpu"
    place.mkdir(exist_ok=True)
    with FileLock(place / "lock"):
        module = place / "_cuda_on_cpu.so"
        return module if module.exists() else build(place)


@pytest.fixture(scope="session")
def run_python(module_path: Path) -> Run:
    """Run Python with the sanitizers loaded and the kernels at hand; not checked for success."""
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
        "PYDREAM_TEST_DEVICE": "cuda-on-cpu",
        "PYDREAM_CUDA_ON_CPU": str(module_path),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY)]),
    }

    def run(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
