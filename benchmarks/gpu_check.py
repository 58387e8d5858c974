"""All that a GPU is needed for, in under 9 minutes and without a network.

    make gpu-check    # or: python -m benchmarks.gpu_check [--out FOLDER] [--data FOLDER]

Builds with what is installed, runs the ops' tests on the GPU and the other tests that use one, the
benchmarks, and a few tests once more under compute-sanitizer. The benchmark of RDED whole needs
photographs (--data, PYDREAM_DATA or ../shared/data: a folder with imagenet-sample-200.zip). A step
that fails does not stop the others; the table comes last, and the record of it lies beside those of
the benchmarks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
BESIDE = REPOSITORY.parent / "shared" / "data"
SAMPLE = "imagenet-sample-200.zip"
CIFAR = "cifar10.zip"
# Of DREAM+ on CIFAR-10, but for a tenth of the steps.
PUBLISHED_SIZE = {
    "--images-per-class": "5000",
    "--arch": "convnet3-instance",
    "--batch-real": "128",
    "--network-images": "2000",
    "--inner-loop": "10",
    "--rounds": "2",
}
LEAST_SETUPTOOLS = 77  # as pyproject.toml says
SECONDS = 520  # of all steps; what is left of nine minutes is for the start and the record
ON_CUDA = {"PYDREAM_TEST_DEVICE": "cuda"}
# Tests of more than the ops that use a GPU where there is one.
ON_GPU = (
    "tests/data/test_device_jpeg.py",
    "tests/rded/test_on_gpu.py",
    "tests/dream/test_dream_on_gpu.py",
    "tests/dream/test_replay.py",
    "tests/test_doctor.py",
)
# A few of every family: under the sanitizer each launch takes a hundred times as long.
FEW = (
    "far_down or identity or canvas_and_cast or every_position or is_the_contract or loop_over"
    " or as_alone or given_centroids_of_each"
)


@dataclass(frozen=True)
class Step:
    """A command, and how long it may take."""

    name: str
    command: list[str]
    limit: float  # seconds
    environment: dict[str, str] = field(default_factory=dict)


def steps(out: Path, data: Path | None) -> list[Step]:
    """List the steps, those first that the others need or that say most."""
    python = sys.executable
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    build = [python, "setup.py", "build_ext", "--inplace"]
    benchmark = [python, "-m", "benchmarks.cuda_ops", "--out", str(out)]
    kmeans = [python, "-m", "benchmarks.cuda_kmeans", "--out", str(out)]
    pipeline, checks = [], []
    if data is not None:
        command = [python, "-m", "benchmarks.pipeline_cuda", "--data", str(data), "--out", str(out)]
        pipeline = [Step("RDED whole", command, 150)]
        if (data / CIFAR).is_file():
            dream = [python, "-m", "benchmarks.pipeline_dream", "--device", "cuda"]
            size = [word for option in PUBLISHED_SIZE.items() for word in option]
            command = [*dream, *size, "--data", str(data), "--out", str(out)]
            pipeline.append(Step("an iteration of DREAM+", command, 90))
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is not None:
        for tool in ("memcheck", "racecheck", "synccheck"):
            watch = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
            command = [*watch, *pytest, "--maxfail=3", "-k", FEW, "tests/ops"]
            checks.append(Step(f"compute-sanitizer {tool}", command, 60, ON_CUDA))
    return [
        Step("describe the package", [python, "setup.py", "-q", "egg_info"], 30),
        Step("build", build, 120, {"PYDREAM_CUDA": "on"}),
        Step("tests of the ops on cuda", [*pytest, "tests/ops"], 120, ON_CUDA),
        Step("other tests that use a GPU", [*pytest, *ON_GPU], 90),
        Step("benchmarks of the ops", benchmark, 90),
        Step("benchmarks of k-means", kmeans, 60),
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
        start_new_session=True,  # so that a step is stopped with all that it has started
    )
    try:
        output, _ = process.communicate(timeout=step.limit)
        outcome = "passed" if process.returncode == 0 else f"failed ({process.returncode})"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        outcome = f"stopped after {step.limit:.0f} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    lines = output.splitlines()
    print("\n".join(lines[-60:]), flush=True)
    seconds = round(time.perf_counter() - begun, 1)
    return {"outcome": outcome, "seconds": seconds, "last_lines": lines[-12:]}


def run_all(planned: Iterable[Step], deadline: float) -> dict[str, dict[str, Any]]:
    """Run the steps one after another, none of them beyond the deadline (of time.monotonic)."""
    results = {}
    for step in planned:
        left = deadline - time.monotonic()
        if left < 1:
            results[step.name] = {"outcome": "no time left", "seconds": 0.0, "last_lines": []}
            continue
        limited = Step(step.name, step.command, min(step.limit, left), step.environment)
        results[step.name] = run(limited)
    return results


def check_setuptools() -> dict[str, dict[str, Any]]:
    """Return a failed step with advice where setuptools is missing or too old for the build."""
    try:
        found = version("setuptools")
    except PackageNotFoundError:
        found = "none"
    major = found.partition(".")[0]
    if major.isdigit() and int(major) >= LEAST_SETUPTOOLS:
        return {}
    advice = f"the build needs setuptools {LEAST_SETUPTOOLS} or newer, found {found}: install that"
    return {"setuptools": {"outcome": "failed", "seconds": 0.0, "last_lines": [advice]}}


def find_photographs(given: Path | None) -> Path | None:
    """Return the folder with the photographs, given or beside the repository, if it has them."""
    folder = BESIDE if given is None else given
    return folder.resolve() if (folder / SAMPLE).is_file() else None


def show(results: dict[str, dict[str, Any]], data: Path | None) -> None:
    """Print the table."""
    print("\n=== outcome")
    for name, result in results.items():
        advice = f"   {result['last_lines'][-1]}" if name == "setuptools" else ""
        print(f"  {name:32s} {result['outcome']:20s} {result['seconds']:7.1f} s{advice}")
    if data is None:
        print(f"  {'RDED whole':32s} no {SAMPLE}: give --data")
    if shutil.which("compute-sanitizer") is None:
        print(f"  {'compute-sanitizer':32s} not installed")


def main() -> None:
    deadline = time.monotonic() + SECONDS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--data", type=Path, default=os.environ.get("PYDREAM_DATA"))
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here: this check is for a machine with a GPU")
    out, data = arguments.out.resolve(), find_photographs(arguments.data)
    results = check_setuptools() | run_all(steps(out, data), deadline)
    try:
        from benchmarks.records import write_record

        print(write_record("gpu-check", results, out, torch.device("cuda", 0)))
    except ImportError as error:
        print(f"no record: {error}")
    show(results, data)
    if any(result["outcome"] != "passed" for result in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
