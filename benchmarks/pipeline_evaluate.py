"""A student trained on a distilled set, beside the published training loop.

    python -m benchmarks.pipeline_evaluate --data DIR

RDED distils CIFAR-10 to ten images a class first. Every rival trains a ConvNet-3 in a process of
its own, in turns: the observer asked at every step, stored labels, and the loop as published.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.published import student as published
from benchmarks.published.convnet import published as as_published
from benchmarks.timing import RESULTS, write_record
from pydream.data import open_source
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel
from pydream.evaluate.measure import measure
from pydream.evaluate.real import load_test_images
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
                labels=(labels,),  # type: ignore[arg-type]
                epochs=arguments.epochs,
                eval_every=arguments.epochs,
                precision=precision,  # type: ignore[arg-type]
                out=Path(out),
            )
        )
    run = result.rows[0].runs[0]
    return {"seconds": run.train_seconds, "top1": run.last.top1}


def run_published(arguments: argparse.Namespace, workers: int) -> dict[str, float]:
    torch.manual_seed(0)
    weights, _ = read_weights(observer_file(arguments.data))
    observer = build_model(ARCH, num_classes=10, side=SIDE)
    observer.load_state_dict(weights)
    student = as_published(build_model(ARCH, num_classes=10, side=SIDE))
    known = load_observer(observer_file(arguments.data))
    settings = published.Settings(
        epochs=arguments.epochs,
        batch_size=50,
        factor=1,
        side=SIDE,
        mean=known.mean,
        std=known.std,
        workers=workers,
    )
    seconds = published.train(arguments.set / "images", student, as_published(observer), settings)
    source = open_source(arguments.data / "cifar10.zip", "test")
    test = load_test_images(source, SIDE, workers=2, device=torch.device("cpu"))
    accuracy = measure(student, test, mean=known.mean, std=known.std, precision="float32")
    return {"seconds": seconds, "top1": accuracy.top1}


RIVALS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "pydream, online labels": lambda arguments: run_ours(arguments, "online", "auto"),
    "pydream, stored labels": lambda arguments: run_ours(arguments, "stored", "auto"),
    "published loop": lambda arguments: run_published(arguments, 0),
    "published loop, 2 loader workers": lambda arguments: run_published(arguments, 2),
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
    distill(RdedConfig(source=source, observer=observer, ipc=10, out=arguments.set))
    begun = time.perf_counter()
    relabel(RelabelConfig(set=arguments.set, observer=observer, epochs=arguments.epochs))
    return time.perf_counter() - begun


def main() -> None:
    arguments = parse()
    if arguments.run is not None:
        torch.set_num_threads(2)
        print(json.dumps(RIVALS[arguments.run](arguments)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in RIVALS}
    with tempfile.TemporaryDirectory() as place:
        arguments.set = Path(place) / "set"
        relabelling = prepare(arguments)
        for _ in range(arguments.rounds):
            for name, of_rival in runs.items():
                command = [sys.executable, "-m", "benchmarks.pipeline_evaluate", *sys.argv[1:]]
                command += ["--set", str(arguments.set), "--run", name]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                of_rival.append(json.loads(done.stdout.splitlines()[-1]))
                last = of_rival[-1]
                print(f"{name:34s} {last['seconds']:7.1f} s   {last['top1']:.1%}", flush=True)
    medians = {name: statistics.median(each["seconds"] for each in of) for name, of in runs.items()}
    best = min(seconds for name, seconds in medians.items() if name.startswith("published"))
    results = {
        "setting": {"epochs": arguments.epochs, "images": 100, "student": ARCH},
        "runs": runs,
        "median": medians,
        "storing labels, seconds": relabelling,
        "published over pydream": {
            name: best / medians[name] for name in medians if name.startswith("pydream")
        },
    }
    print(json.dumps(results["published over pydream"]))
    print(write_record("evaluate", results, arguments.out))


if __name__ == "__main__":
    main()
