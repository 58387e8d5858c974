"""One outer iteration of DC, DSA, DM or MTT beside the published loop.

    python -m benchmarks.pipeline_frameworks --framework dsa --data DIR

Both take the same images, network, steps and threads, in turns, each in a process of its own; an
iteration is timed after one that is not. On a GPU that captures a step, which a run does once.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pipeline import Runs, print_run, run_in_turns, summary, wait_for
from benchmarks.published import dc, dm, mtt
from benchmarks.published.convnet import published as as_published
from benchmarks.records import RESULTS, GrowingRecord
from pydream.arithmetic import repeatable_float32
from pydream.data import open_source
from pydream.data.subset import Subset
from pydream.dream.config import DreamConfig
from pydream.dream.experts import Experts, write_description, write_expert
from pydream.dream.loop import MatchingLoop
from pydream.dream.real import ClassImages, load_class_images
from pydream.dream.resolved import ResolvedConfig, fill_in
from pydream.dream.synthetic import SyntheticImages
from pydream.models.registry import construct

LEFT_OUT = ("data", "out", "run", "framework")  # of a record's settings
RATE, STEP = 0.01, 0.02  # of a student, and of the weights from an expert's start to its end


def prepare(arguments: argparse.Namespace) -> tuple[ResolvedConfig, ClassImages]:
    source = Subset(
        open_source(arguments.data / "cifar10.zip"),
        range(arguments.classes),
        arguments.images_per_class,
    )
    mtt_only: dict[str, Any] = {}
    if arguments.framework == "mtt":
        mtt_only = {"experts": Path("experts"), "student_steps": arguments.student_steps}
    config = DreamConfig(
        "cifar10.zip",
        framework=arguments.framework,
        sampler=arguments.sampler,
        ipc=arguments.ipc,
        arch=arguments.arch,
        batch_real=arguments.batch_real,
        inner_loop=1 if arguments.framework in ("dm", "mtt") else arguments.inner_loop,
        device="cpu",
        **mtt_only,
    )
    if arguments.framework in ("dc", "dsa"):
        config = dataclasses.replace(config, synthetic_epochs=arguments.synthetic_epochs)
    device = torch.device(arguments.device)
    real, _ = load_class_images(source, 32, device=device, workers=2, allow_skipped=0.0)
    return fill_in(config, 32, arguments.classes), real


def make_network(arguments: argparse.Namespace) -> Any:
    return construct(arguments.arch, num_classes=arguments.classes, side=32)


def weights_of_an_expert(arguments: argparse.Namespace) -> Tensor:
    """Weights at the start and at the end of some epochs, (2, P): what they are costs no time."""
    torch.manual_seed(0)
    start = nn.utils.parameters_to_vector(make_network(arguments).parameters()).detach()
    return torch.stack([start, start + STEP * torch.randn(len(start))])


def run_ours(arguments: argparse.Namespace, config: ResolvedConfig, real: ClassImages) -> float:
    with tempfile.TemporaryDirectory() as folder, repeatable_float32():
        experts = None
        if arguments.framework == "mtt":
            weights = weights_of_an_expert(arguments)
            description = {
                "count": 1,
                "arch": arguments.arch,
                "parameters": weights.shape[1],
                "source": "random images",
                "source_fingerprint": "",
                "settings": {"epochs": 1, "side": 32, "exif": "ignore"},
            }
            write_description(Path(folder), description)
            write_expert(Path(folder), 0, weights)
            experts = Experts.open(Path(folder))
            config = dataclasses.replace(config, max_start=1, expert_epochs=1, start="noise")
        loop = MatchingLoop(config, real, lambda: make_network(arguments), experts=experts)
        values, _ = loop.initial()
        rate = torch.tensor([RATE, 0.0], device=values.device) if experts else None
        synthetic = SyntheticImages(values, config.learning_rate, rate=rate)
        loop.iterate(synthetic, 0)
        wait_for(values.device)
        begun = time.perf_counter()
        for iteration in range(arguments.iterations):
            loop.iterate(synthetic, 1 + iteration)
        wait_for(values.device)
        return time.perf_counter() - begun


def run_published(
    arguments: argparse.Namespace, config: ResolvedConfig, real: ClassImages
) -> float:
    classes = [
        real.normalise(real.take(torch.arange(begin, end)))
        for begin, end in zip(real.offsets, real.offsets[1:], strict=False)
    ]
    device = real.pixels.device
    images = torch.randn(len(classes), config.ipc, *classes[0].shape[1:], device=device)
    images.requires_grad_()
    rate = torch.tensor(RATE, device=device, requires_grad=True)
    optimizers = [
        torch.optim.SGD([images], lr=config.learning_rate, momentum=0.5),
        torch.optim.SGD([rate], lr=1e-7, momentum=0.5),
    ]
    start, target = weights_of_an_expert(arguments).to(device)

    def iteration() -> None:
        network = as_published(make_network(arguments)).to(device)
        if arguments.framework == "mtt":
            steps = arguments.student_steps
            batch = config.batch_synthetic
            mtt.outer_iteration(network, (start, target), images, rate, optimizers, steps, batch)
        elif arguments.framework == "dm":
            dm.outer_iteration(network, classes, images, optimizers[0], config.batch_real)
        else:
            settings = dc.Settings(
                batch_real=config.batch_real,
                inner_loop=config.inner_loop,
                synthetic_epochs=config.synthetic_epochs,
                augmented=arguments.framework == "dsa",
            )
            dc.outer_iteration(network, classes, images, optimizers[0], settings)

    iteration()
    wait_for(device)
    begun = time.perf_counter()
    for _ in range(arguments.iterations):
        iteration()
    wait_for(device)
    return time.perf_counter() - begun


RIVALS = {"pydream": run_ours, "published loop": run_published}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", choices=("dc", "dsa", "dm", "mtt"), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.zip")
    parser.add_argument("--rounds", type=int, default=3, help="times each of the two runs")
    parser.add_argument("--iterations", type=int, default=1, help="outer iterations that are timed")
    parser.add_argument("--sampler", choices=("random", "representative"), default="random")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images-per-class", type=int, default=1000)
    parser.add_argument("--arch", default="convnet3-instance")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--batch-real", type=int, default=256)
    parser.add_argument("--inner-loop", type=int, default=2, help="steps of DC and DSA")
    parser.add_argument("--synthetic-epochs", type=int, default=10, help="between them")
    parser.add_argument("--student-steps", type=int, default=10, help="of MTT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--run", choices=RIVALS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.run is not None:
        torch.set_num_threads(2)
        config, real = prepare(arguments)
        print_run({"seconds": RIVALS[arguments.run](arguments, config, real)})
        return
    label = (
        f"{arguments.framework.upper()}, {arguments.iterations} iterations: {arguments.classes} "
        f"classes of {arguments.images_per_class} CIFAR-10 images, {arguments.ipc} images a class, "
        f"{arguments.arch}"
    )
    settings = {name: str(value) for name, value in vars(arguments).items() if name not in LEFT_OUT}
    device = torch.device(arguments.device)
    on_gpu = device if device.type == "cuda" else None
    record = GrowingRecord(f"dream-{arguments.framework}", arguments.out, on_gpu)

    def write(runs: Runs) -> None:
        found = summary(runs, ours="pydream", label=label, unit="iteration")
        record.add("iteration", {"setting": settings, **found})

    run_in_turns(
        "benchmarks.pipeline_frameworks", RIVALS, sys.argv[1:], arguments.rounds, after=write
    )
    for rival, times in record.results["iteration"]["times_as_fast"].items():
        print(f"pydream is {times:.2f} times as fast as {rival}")
    print(record.path)


if __name__ == "__main__":
    main()
