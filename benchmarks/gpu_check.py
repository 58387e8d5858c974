"""All that a GPU is needed for, in under 9 minutes and without a network.

    make gpu-check    # or: python -m benchmarks.gpu_check [--out FOLDER] [--data FOLDER]

Builds with what is installed, runs the ops' tests on the GPU, once more a few of them under
compute-sanitizer, then the benchmarks; the last, RDED whole, needs photographs (--data, or
PYDREAM_DATA: a folder with imagenet-sample-200.zip). A step that fails does not stop the others;
the table comes last, and the record of it lies beside those of the benchmarks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LEAST_SETUPTOOLS = 77  # as pyproject.toml says
ON_CUDA = {"PYDREAM_TEST_DEVICE": "cuda"}
ON_GPU = ("tests/ops", "tests/data/test_device_jpeg.py")
# A few of every family: under the sanitizer each launch takes a hundred times as long.
FEW = "far_down or identity or canvas_and_cast or every_position or is_the_contract or loop_over"


@dataclass(frozen=True)
class Step:
    """A command, and how long it may take."""

    name: str
    command: list[str]
    limit: float  # seconds
    environment: dict[str, str] = field(default_factory=dict)


def steps(out: Path, data: Path | None) -> list[Step]:
    python = sys.executable
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    sanitizer = shutil.which("compute-sanitizer")
    checks = []
    if sanitizer is not None:
        for tool in ("memcheck", "racecheck", "synccheck"):
            watch = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
            command = [*watch, *pytest, "--maxfail=3", "-k", FEW, "tests/ops"]
            checks.append(Step(f"compute-sanitizer {tool}", command, 60, ON_CUDA))
    pipeline = []
    if data is not None:
        command = [python, "-m", "benchmarks.pipeline_cuda", "--data", str(data), "--out", str(out)]
        pipeline = [Step("RDED whole", command, 150)]
    return [
        Step("describe the package", [python, "setup.py", "-q", "egg_info"], 30),
        Step(
            "build",
            [python, "setup.py", "build_ext", "--inplace"],
            120,
            {"PYDREAM_CUDA": "on"},
        ),
        Step("tests of the ops on cuda", [*pytest, *ON_GPU], 120, ON_CUDA),
        Step(
            "benchmarks of the ops",
            [python, "-m", "benchmarks.cuda_ops", "--out", str(out)],
            60,
        ),
        *pipeline,
        *checks,
    ]


def run(step: Step) -> dict[str, Any]:
    """Run a step and print what it prints; its outcome in a word, seconds, and last lines."""
    print(f"\n=== {step.name}: {' '.join(step.command)}", flush=True)
    begun = time.perf_counter()
    process = subprocess.Popen(
        step.command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=step.limit)
        outcome = "passed" if process.returncode == 0 else f"failed ({process.returncode})"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        outcome = f"stopped at its limit of {step.limit:.0f} s"
    lines = output.splitlines()
    print("\n".join(lines[-60:]), flush=True)
    seconds = round(time.perf_counter() - begun, 1)
    return {"outcome": outcome, "seconds": seconds, "last_lines": lines[-12:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--data", type=Path, default=os.environ.get("PYDREAM_DATA"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    data = arguments.data.resolve() if arguments.data is not None else None
    import torch

    if int(version("setuptools").partition(".")[0]) < LEAST_SETUPTOOLS:
        raise SystemExit(f"the build needs setuptools {LEAST_SETUPTOOLS} or newer: install that")
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here: this check is for a machine with a GPU")
    results = {step.name: run(step) for step in steps(out, data)}
    print("\n=== outcome")
    for name, result in results.items():
        print(f"  {name:32s} {result['outcome']:12s} {result['seconds']:7.1f} s")
    if data is None:
        print("  RDED whole                       no photographs: give --data")
    if shutil.which("compute-sanitizer") is None:
        print("  compute-sanitizer                not installed")
    try:
        from benchmarks.timing import write_record

        print(write_record("gpu-check", results, out, torch.device("cuda", 0)))
    except ImportError as error:
        print(f"no record: {error}")
    if any(result["outcome"] != "passed" for result in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
