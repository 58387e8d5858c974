"""One outer iteration of DREAM+ beside the published loop.

    python -m benchmarks.pipeline_dream --data DIR

Both take the same images, network, steps and threads, in turns, each in a process of its own; an
iteration is timed after a short one that is not. What a run does once is not timed either: on a
GPU, the capture of a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pipeline import Runs, print_run, run_in_turns, summary, wait_for
from benchmarks.published import dream as published
from benchmarks.published.convnet import published as as_published
from benchmarks.records import RESULTS, GrowingRecord
from pydream.arithmetic import repeatable_float32
from pydream.data import open_source
from pydream.data.subset import Subset
from pydream.dream.config import DreamConfig
from pydream.dream.loop import MatchingLoop
from pydream.dream.real import ClassImages, load_class_images
from pydream.dream.resolved import ResolvedConfig, fill_in
from pydream.dream.synthetic import SyntheticImages
from pydream.models.registry import construct

LEFT_OUT = ("data", "out", "run")  # of a record: where things lie


def prepare(arguments: argparse.Namespace) -> tuple[ResolvedConfig, ClassImages]:
    source = Subset(
        open_source(arguments.data / "cifar10.zip"),
        range(arguments.classes),
        arguments.images_per_class,
    )
    config = fill_in(
        DreamConfig(
            "cifar10.zip",
            ipc=arguments.ipc,
            arch=arguments.arch,
            batch_real=arguments.batch_real,
            inner_loop=arguments.inner_loop,
            network_images=arguments.network_images,
            exact=arguments.exact,
            device="cpu",
        ),
        32,
        arguments.classes,
    )
    device = torch.device(arguments.device)
    real, _ = load_class_images(source, 32, device=device, workers=2, allow_skipped=0.0)
    return config, real


def make_network(arguments: argparse.Namespace) -> Any:
    return construct(arguments.arch, num_classes=arguments.classes, side=32)


def run_ours(
    arguments: argparse.Namespace, config: ResolvedConfig, real: ClassImages, start: Tensor
) -> dict[str, float]:
    loop = MatchingLoop(config, real, lambda: make_network(arguments))
    synthetic = SyntheticImages(start.clone(), config.learning_rate)
    with repeatable_float32():  # as `pydream dream` computes
        loop.capture(synthetic)
        return timed(lambda: sum(loop.iterate(synthetic, 0)), start.device)


def run_published(
    arguments: argparse.Namespace, config: ResolvedConfig, real: ClassImages, start: Tensor
) -> dict[str, float]:
    classes = [
        real.take(torch.arange(begin, end))
        for begin, end in zip(real.offsets, real.offsets[1:], strict=False)
    ]
    synthetic = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=config.learning_rate, momentum=0.5)
    settings = published.Settings(
        factor=config.factor,
        batch_real=arguments.batch_real,
        inner_loop=arguments.inner_loop,
        network_images=arguments.network_images,
        learning_rate=config.learning_rate,
        pretrain=True,
    )
    torch.manual_seed(0)
    network = as_published(make_network(arguments)).to(start.device)
    return timed(
        lambda: published.outer_iteration(network, classes, synthetic, optimizer, settings),
        start.device,
    )


def timed(iteration: Callable[[], float], device: torch.device) -> dict[str, float]:
    """Return the seconds of an iteration, with all that it starts on a GPU, and its loss."""
    wait_for(device)
    begun = time.perf_counter()
    loss = iteration()
    wait_for(device)
    return {"seconds": time.perf_counter() - begun, "loss": loss}


RIVALS = {"pydream": run_ours, "published loop": run_published}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--rounds", type=int, default=3, help="times each of the two runs")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images-per-class", type=int, default=1000)
    parser.add_argument("--arch", default="convnet3-w64-instance")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--batch-real", type=int, default=64)
    parser.add_argument("--inner-loop", type=int, default=10)
    parser.add_argument("--network-images", type=int, default=500)
    parser.add_argument("--exact", action="store_true", help="ours one class after the other, too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--run", choices=RIVALS, help=argparse.SUPPRESS)
    return parser.parse_args()


def one_run(arguments: argparse.Namespace) -> dict[str, float]:
    """Do two iterations in this process, and return what the second took."""
    torch.set_num_threads(2)
    config, real = prepare(arguments)
    with repeatable_float32():
        start, _ = MatchingLoop(config, real, lambda: make_network(arguments)).initial()
    run = RIVALS[arguments.run]
    short = argparse.Namespace(**{**vars(arguments), "inner_loop": 1})
    run(short, dataclasses.replace(config, inner_loop=1), real, start)
    return run(arguments, config, real, start)


def main() -> None:
    arguments = parse()
    if arguments.run is not None:
        print_run(one_run(arguments))
        return
    label = (
        f"DREAM+, one iteration: {arguments.classes} classes of {arguments.images_per_class} "
        f"CIFAR-10 images, {arguments.arch}, {arguments.inner_loop} steps"
    )
    settings = {name: str(value) for name, value in vars(arguments).items() if name not in LEFT_OUT}
    device = torch.device(arguments.device)
    record = GrowingRecord("dream", arguments.out, device if device.type == "cuda" else None)

    def write(runs: Runs) -> None:
        found = summary(runs, ours="pydream", label=label, unit="iteration")
        record.add("iteration", {"setting": settings, **found})

    run_in_turns("benchmarks.pipeline_dream", RIVALS, sys.argv[1:], arguments.rounds, after=write)
    for rival, times in record.results["iteration"]["times_as_fast"].items():
        print(f"pydream is {times:.2f} times as fast as {rival}")
    print(record.path)


if __name__ == "__main__":
    main()
