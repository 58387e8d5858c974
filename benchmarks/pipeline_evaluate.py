"""A student trained on a distilled set, beside the published training loop.

    python -m benchmarks.pipeline_evaluate --data DIR

RDED distils CIFAR-10 to ten images a class first. Every rival trains a ConvNet-3 in a process of
its own, in turns: the observer asked at every step, stored labels, and the loop as published. All
seconds include the tests that each has by default. One run has a busy process beside it, which
computes in one thread all the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.pipeline import LOADERS, print_run, rivals_here, run_in_turns, summary
from benchmarks.published import student as published
from benchmarks.published.convnet import published as as_published
from benchmarks.records import RESULTS, write_record
from pydream.data import open_source
from pydream.data.resized import load_split
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel
from pydream.models import build_model, load_observer, read_weights
from pydream.rded import RdedConfig, distill

ARCH, SIDE = "convnet3", 32


def observer_file(data: Path) -> str:
    return str(data / "observers" / "cifar10_convnet3_batchnorm.safetensors")


def run_ours(arguments: argparse.Namespace, labels: str, precision: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        result = evaluate_set(
            EvaluateConfig(
                set=arguments.set,
                observer=observer_file(arguments.data),
                labels=(labels,),
                epochs=arguments.epochs,
                precision=precision,  # type: ignore[arg-type]
                out=Path(out),
                device="cpu",
            )
        )
    run = result.rows[0].runs[0]
    return {
        "seconds": run.train_seconds + run.test_seconds,
        "test_seconds": run.test_seconds,
        "top1": run.last.top1,
        "best": run.best.top1,
    }


def run_beside(arguments: argparse.Namespace) -> dict[str, float]:
    """Train as `run_ours` does, beside a process that computes all the time."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return run_ours(arguments, "online", "float32")
    finally:
        busy.kill()
        busy.wait()


def run_published(arguments: argparse.Namespace, workers: int) -> dict[str, float]:
    torch.manual_seed(0)
    weights, _ = read_weights(observer_file(arguments.data))
    observer = build_model(ARCH, num_classes=10, side=SIDE)
    observer.load_state_dict(weights)
    student = as_published(build_model(ARCH, num_classes=10, side=SIDE))
    known = load_observer(observer_file(arguments.data), device="cpu")
    settings = published.Settings(
        epochs=arguments.epochs,
        batch_size=50,
        factor=1,
        side=SIDE,
        mean=known.mean,
        std=known.std,
        workers=workers,
    )
    source = open_source(arguments.data / "cifar10.zip", "test")
    test = load_split(source, SIDE, workers=2, device=torch.device("cpu"))
    images = torch.cat([known.views(rows) for rows in test.images.split(published.TEST_BATCH)])
    return published.train(
        arguments.set / "images",
        student,
        as_published(observer),
        settings,
        (images.contiguous(), test.labels),
    )


IN_BFLOAT16 = "pydream, bfloat16"
BESIDE = "pydream, beside a busy process"
RIVALS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "pydream": lambda arguments: run_ours(arguments, "online", "float32"),
    "pydream, from stored labels": lambda arguments: run_ours(arguments, "stored", "float32"),
    BESIDE: run_beside,
    IN_BFLOAT16: lambda arguments: run_ours(arguments, "online", "bfloat16"),
    "published loop": lambda arguments: run_published(arguments, 0),
    f"published loop, {LOADERS}": lambda arguments: run_published(arguments, 2),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> float:
    """Distil the set and store its labels; return the seconds that these took."""
    source, observer = str(arguments.data / "cifar10.zip"), observer_file(arguments.data)
    distill(RdedConfig(source=source, observer=observer, ipc=10, out=arguments.set, device="cpu"))
    begun = time.perf_counter()
    relabel(
        RelabelConfig(set=arguments.set, observer=observer, epochs=arguments.epochs, device="cpu")
    )
    return time.perf_counter() - begun


def main() -> None:
    arguments = parse()
    if arguments.run is not None:
        torch.set_num_threads(2)
        print_run(RIVALS[arguments.run](arguments))
        return
    with tempfile.TemporaryDirectory() as place:
        arguments.set = Path(place) / "set"
        relabelling = prepare(arguments)
        given = [*sys.argv[1:], "--set", str(arguments.set)]
        rivals = rivals_here(RIVALS, IN_BFLOAT16)
        runs = run_in_turns("benchmarks.pipeline_evaluate", rivals, given, arguments.rounds)
    for name, of_rival in runs.items():
        for last in of_rival[-1:]:
            print(f"{name:34s} top-1 {last['top1']:.1%}")
    label = (
        f"a student of 100 CIFAR-10 images by RDED, {ARCH}, {arguments.epochs} epochs, observer's "
        "labels"
    )
    found = summary(runs, ours="pydream", label=label)
    results = {
        "student": {
            "setting": {"epochs": arguments.epochs, "images": 100, "student": ARCH},
            "storing labels, seconds": relabelling,
            **found,
        }
    }
    print(json.dumps(found["times_as_fast"]))
    print(write_record("evaluate", results, arguments.out))


if __name__ == "__main__":
    main()
