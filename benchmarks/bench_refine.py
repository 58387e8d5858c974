"""The steps of a refinement, beside the passes of the network alone that they cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.timing import Work, compare, report, table
from pydream.models import build_model, load_observer
from pydream.models.layers import LayerFeatures
from pydream.refinement.steps import Refined, Refiner

FACTOR = 2
STEPS = 5
ROUNDS = 7


def passes_alone(layer: LayerFeatures, pixels: Tensor, at_once: int) -> list[Tensor]:
    """Do what the network does in a step: anchors forward, and as many cells forward and back."""
    slopes = []
    for part in pixels.split(-(-len(pixels) // -(-len(pixels) // at_once))):
        with torch.no_grad():
            expected = layer(part)
        seen = part.detach().requires_grad_()
        (slope,) = torch.autograd.grad(layer(seen), seen, expected)
        slopes.append(slope)
    return slopes


@pytest.mark.parametrize(
    ("arch", "side", "ipc"),
    [("convnet3", 32, 10), ("resnet18-modified", 32, 10), ("resnet18", 224, 1)],
)
def test_refinement(benchmark: Any, record: dict[str, Any], arch: str, side: int, ipc: int) -> None:
    torch.manual_seed(0)
    network = build_model(arch, num_classes=10, side=side)
    observer = load_observer(network, arch=arch, side=side, precision="float32", device="cpu")
    layer, exactly = LayerFeatures(observer), observer.with_tile(ipc * FACTOR**2)
    cells = ipc * FACTOR**2
    images = torch.randint(256, (ipc, 3, side, side), dtype=torch.uint8)
    anchors = torch.randint(256, (FACTOR**2, ipc, 3, side, side), dtype=torch.uint8)
    refiner = Refiner([layer], steps=STEPS, learning_rate=0.01, factor=FACTOR, side=side, seed=0)
    pixels = torch.randn(cells, 3, side, side).to(memory_format=torch.channels_last)
    at_once = max(1, layer.tile // FACTOR**2) * FACTOR**2

    def passes() -> list[list[Tensor]]:
        return [passes_alone(layer, pixels, at_once) for _ in range(STEPS)]

    def refine() -> Refined:
        return refiner(images, anchors)

    def classify() -> list[Tensor]:
        return [exactly.logits(pixels) for _ in range(STEPS)]

    alone = "the network alone: anchors forward, cells forward and back"
    calls: dict[str, Callable[[], object]] = {
        "pydream": refine,
        alone: passes,
        "the whole network, forward, once for each cell": classify,
    }
    result = report(
        compare(calls, rounds=ROUNDS if benchmark.enabled else 1, threads=2),
        ours="pydream",
        limit=alone,
        items=STEPS,
        unit="step",
        work=Work(images.nbytes + anchors.nbytes),
    )
    if benchmark.enabled:
        name = f"{arch}, {cells} cells for {side}, until {layer.layer}"
        record[name] = result
        print("\n" + table(f"{name}; a step", result))
    benchmark.pedantic(refine, rounds=1)
