"""What the compiler made of the CUDA kernels, and what a model expects of them. Needs no GPU.

    python -m benchmarks.sass [NAME...] [--keep]

Compiles csrc/*/*_cuda.cu, or those files whose path contains a NAME, for an H100, and prints for
every kernel what it needs and what its inner loop does, beside the baseline. `--keep` makes what is
found the baseline. docs/cuda-model.md explains the model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.sass_code import (
    GLOBAL,
    KINDS,
    Instruction,
    Resources,
    functions,
    hot_loop,
    launch_bounds,
    loops,
    resources,
)
from benchmarks.sass_model import (
    MATRIX_OPERATIONS,
    blocks_on_multiprocessor,
    busiest,
    cycles,
    expected,
    loop_of,
    memory_cycles,
    moved,
    work_of,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "build_support"))

import cuda_toolkit  # noqa: E402  (beside the build backend)

BASELINE = ROOT / "benchmarks" / "sass_baseline.json"
# Those of CMakeLists.txt, and CMake's own of a release; none changes the code of kernels but -O3.
FLAGS = ("-arch=sm_90", "-O3", "-DNDEBUG", "-std=c++17", "-lineinfo", "-Xptxas=-v", "-cubin")
THREADS = 256  # of a block without __launch_bounds__
Kernel = dict[str, Any]


def tool(name: str) -> str:
    """Find a program of the toolkit: on PATH, beside nvcc, or in a wheel.

    Triton's wheel, which PyTorch brings for CUDA, has cuobjdump, too.
    """
    found = shutil.which(name)
    if found:
        return found
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [Path(home) / "bin" / name] if home else []
    for place in sys.path:
        places += sorted(Path(place).glob(f"nvidia/*/bin/{name}"))
        places.append(Path(place) / "triton" / "backends" / "nvidia" / "bin" / name)
    for candidate in places:
        if candidate.is_file():
            return str(candidate)
    raise SystemExit(f"no {name}: put it on PATH, set CUDA_HOME, or pip install nvidia-cuda-{name}")


def nvcc() -> str:
    """Find the compiler."""
    found = cuda_toolkit.find_nvcc()
    if found is None:
        wheels = " ".join(repr(wheel) for wheel in cuda_toolkit.WHEELS)
        raise SystemExit(f"no nvcc: put it on PATH, set CUDA_HOME, or pip install {wheels}")
    return str(found)


def run(*command: str, text: str | None = None) -> tuple[str, str]:
    """Return what a command prints, and its messages; end with them if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout, done.stderr


def short_name(demangled: str) -> str:
    """Leave parameters and namespaces out: ``crop_kernel<BFloat16, 3>``."""
    name = demangled.replace("(anonymous namespace)::", "").replace("pydream::", "")
    depth = 0
    for place, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and not depth:
            name = name[:place]
            break
    return name.removeprefix("void ").strip()


def compile_file(source: Path) -> dict[str, Kernel]:
    """Compile a file, and describe its kernels by their names."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "code.cubin")
        log = run(nvcc(), *FLAGS, f"-I{ROOT / 'csrc'}", "-o", cubin, str(source))[1]
        code = functions(run(tool("cuobjdump"), "-sass", cubin)[0])
        threads = launch_bounds(run(tool("cuobjdump"), "-elf", cubin)[0])
    needed = resources(log)
    names = run("c++filt", text="\n".join(code))[0].splitlines()
    found = {
        short_name(name): describe(
            short_name(name), code[mangled], needed[mangled], threads.get(mangled, THREADS)
        )
        for mangled, name in zip(code, names, strict=True)
    }
    return dict(sorted(found.items()))


def describe(name: str, code: Sequence[Instruction], needed: Resources, threads: int) -> Kernel:
    """Describe a kernel: what is kept in the baseline, and printed."""
    work = work_of(name)
    dynamic = work.shared if work else 0
    widths = {
        kind: dict(sorted(Counter(each.bits for each in code if each.kind == kind).items()))
        for kind in GLOBAL
    }
    kernel: Kernel = {
        "registers": needed.registers,
        "spills": needed.spills,
        "stack": needed.stack,
        "shared": needed.shared + dynamic,
        "blocks": blocks_on_multiprocessor(needed, threads, dynamic),
        "instructions": len(code),
        **{
            f"{kind} bits": {str(bits): count for bits, count in of_kind.items()}
            for kind, of_kind in widths.items()
            if of_kind
        },
    }
    found = loops(code, work.rare) if work else loops(code)
    hot = (loop_of(work.phases[0], found) if work else None) or hot_loop(found)
    if hot:
        kernel["loop"] = {"all": len(hot.code), **{k: hot.kinds[k] for k in KINDS if hot.kinds[k]}}
        kernel["unit"], busy = busiest(cycles(hot.code))
        kernel["cycles"] = round(busy, 1)
        kernel["memory"] = round(memory_cycles(moved(hot.code)), 1)
    if work:
        reached = expected(work, code, kernel["blocks"] * math.ceil(threads / 32))
        kernel["expected"] = "unknown: the code has changed, sass_model.py has not"
        if reached:
            products = reached[0] * MATRIX_OPERATIONS[work.bits] / 1e12 if work.operations else 0
            rate = f" ({products:.0f} TFLOP/s)" if products else ""
            kernel["expected"] = (
                f"{reached[0]:.0%} of the limit{rate}, by {reached[1]}; {work.case}"
            )
    return kernel


def lines(kernel: Kernel, before: Kernel | None) -> Iterator[str]:
    """Lay a kernel out, each figure with the one of the baseline where they differ."""
    old = kernel if before is None else before

    def both(key: str) -> str:
        now, then = kernel.get(key, "none"), old.get(key, "none")
        return f"{now}" if now == then else f"{then} → {now}"

    def mapping(key: str) -> str:
        now, then = kernel.get(key, {}), old.get(key, {})
        parts = []
        for name in dict.fromkeys((*now, *then)):
            a, b = then.get(name, 0), now.get(name, 0)
            parts.append(f"{name} {b}" if a == b else f"{name} {a} → {b}")
        return ", ".join(parts) or "none"

    yield (
        f"registers {both('registers')}, spills {both('spills')}, stack {both('stack')}, shared "
        f"{both('shared')}, blocks an SM {both('blocks')}, instructions {both('instructions')}"
    )
    either = {**old, **kernel}
    widths = [f"{kind}: {mapping(f'{kind} bits')}" for kind in GLOBAL if f"{kind} bits" in either]
    if widths:
        yield "bits of a lane, " + "; ".join(widths)
    if "loop" in kernel:
        yield f"inner loop: {mapping('loop')}"
        yield (
            f"of a round of a warp: {both('unit')} {both('cycles')} cycles, "
            f"memory {both('memory')} if no cache helps"
        )
    if "expected" in kernel:
        yield f"expected: {both('expected')}"


def print_kernels(
    found: Mapping[str, Mapping[str, Kernel]], baseline: Mapping[str, Mapping[str, Kernel]]
) -> None:
    """Print all kernels, file by file, and which ones differ from the baseline."""
    changed = []
    for file, kernels in found.items():
        print(f"\n{file}")
        old = baseline.get(file, {})
        for name, kernel in kernels.items():
            state = "" if name in old else " (new)"
            if name not in old or old[name] != kernel:
                changed.append(f"{file}: {name}{state}")
            print(f"  {name}{state}")
            for line in lines(kernel, old.get(name)):
                print(f"    {line}")
        changed += [f"{file}: {name} (gone)" for name in old if name not in kernels]
    print(f"\n{len(changed)} kernels differ from the baseline")
    for each in changed:
        print(f"  {each}")


def write_baseline(path: Path, compiler: str, found: Mapping[str, Mapping[str, Kernel]]) -> None:
    """Write a line a kernel, so that a change shows in a diff."""
    files = []
    for file, kernels in sorted(found.items()):
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kernels[name])}" for name in kernels)
        files.append(f" {json.dumps(file)}: {{\n{rows}\n }}")
    text = f'{{\n "compiler": {json.dumps(compiler)},\n' + ",\n".join(files) + "\n}\n"
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, print, compare, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of the paths of files; all without")
    parser.add_argument("--keep", action="store_true", help="make what is found the baseline")
    given = parser.parse_args(arguments)
    sources = [
        path
        for path in sorted((ROOT / "csrc").glob("*/*_cuda.cu"))
        if not given.names or any(name in str(path.relative_to(ROOT)) for name in given.names)
    ]
    if not sources:
        raise SystemExit(f"no file of csrc/ has {' or '.join(given.names)} in its path")
    version = re.search(r"release [\d.]+, V([\d.]+)", run(nvcc(), "--version")[0])
    compiler = f"nvcc {version[1] if version else 'of unknown version'}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kernels = list(pool.map(compile_file, sources))
    found = {
        path.relative_to(ROOT / "csrc").as_posix(): each
        for path, each in zip(sources, kernels, strict=True)
    }
    baseline = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.is_file() else {}
    if baseline and baseline["compiler"] != compiler:
        print(f"the baseline was made by {baseline['compiler']}, this is {compiler}")
    if given.keep:
        kept = {name: each for name, each in baseline.items() if (ROOT / "csrc" / name).is_file()}
        write_baseline(BASELINE, compiler, {**kept, **found})
    print_kernels(found, baseline)


if __name__ == "__main__":
    main()
