"""The steps of a refinement on a GPU, beside the passes of the network alone.

    python -m benchmarks.cuda_refine [--device cuda] [--out FOLDER]

The images are noise and the weights random; neither changes the time. Each case refines a group
of images whose cells fill a pass of the observer, in 20 steps. The projection to ImageNet-1K, of
224 pixels, counts the steps alone: 1000 classes, 10 images a class, 4 cells an image, 100 steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from benchmarks.bench_refine import FACTOR, passes_alone
from benchmarks.comparison import Case, Setting, measure
from benchmarks.cuda_events import seconds_on
from pydream.models import build_model, load_observer
from pydream.models.layers import LayerFeatures
from pydream.refinement.steps import Refiner

STEPS = 20
IMAGENET_SIDE = 224
IMAGENET_CELL_STEPS = 1000 * 10 * 4 * 100
ROUNDS = 3


def refine_case(
    setting: Setting, arch: str, side: int, images: int | None, steps: int, *, bidirectional: bool
) -> Case:
    """Refine a group of images, by default as many as fill a pass.

    The first time, which captures the step, is not counted.
    """
    torch.manual_seed(0)
    network = build_model(arch, num_classes=10, side=side)
    observer = load_observer(
        network, arch=arch, side=side, precision="float32", device=setting.device
    )
    layer = LayerFeatures(observer)
    refiner = Refiner(
        [layer],
        steps=steps,
        learning_rate=0.01,
        factor=FACTOR,
        side=side,
        seed=0,
        bidirectional=bidirectional,
    )
    images = images or max(1, layer.tile // FACTOR**2)
    cells = images * FACTOR**2
    shape = (images, 3, side, side)
    given = torch.randint(256, shape, dtype=torch.uint8)
    anchors = torch.randint(256, (FACTOR**2, *shape), dtype=torch.uint8)
    labels = [number * 10 // images for number in range(images)]
    seconds = []
    for _ in range(1 + ROUNDS):
        begun = time.perf_counter()
        refiner(given, anchors, labels)  # waits for the result
        seconds.append(time.perf_counter() - begun)
    whole = median(seconds[1:])
    pixels = torch.randn(cells, 3, side, side, device=setting.device)
    alone = seconds_on(
        setting.device,
        partial(passes_alone, layer, at_once=layer.tile),
        [pixels.contiguous(memory_format=torch.channels_last)],
        setting.least,
        captured=False,
    )
    return {
        "layer": layer.layer,
        "cells": cells,
        "steps": steps,
        "in a graph": [step._graph is not None for step in refiner._steps],
        "seconds": whole,
        "first_seconds": seconds[0],
        "cell_steps_per_second": cells * steps / whole,
        "share of the network alone": steps * alone.median / whole,
        "projected_imagenet_seconds": IMAGENET_CELL_STEPS * whole / (cells * steps)
        if side == IMAGENET_SIDE
        else None,
    }


def cases(setting: Setting) -> dict[str, Callable[[], Case]]:
    """Return every case by its name: small ones for a rehearsal."""
    found: dict[str, Callable[[], Case]] = {}
    sizes: list[tuple[str, int, int | None]] = (
        [("convnet1-w8", 16, 10)]
        if setting.small
        else [
            ("convnet3", 32, 100),
            ("resnet18-modified", 32, 100),
            ("resnet18", IMAGENET_SIDE, None),
        ]
    )
    steps = 2 if setting.small else STEPS
    for bidirectional in (False, True):  # the slow ones last, in case the time is up
        match = "features+gradients" if bidirectional else "features"
        for arch, side, images in sizes:
            found[f"{arch}, cells for {side}, {match}"] = partial(
                refine_case, setting, arch, side, images, steps, bidirectional=bidirectional
            )
    return found


if __name__ == "__main__":
    measure("cuda-refine", __doc__.splitlines()[0], cases, least=0.5)
