"""The ops of matching on a GPU, beside PyTorch, torch.compile and the limit of the memory.

    python -m benchmarks.cuda_matching [--device cuda] [--out FOLDER]

The limit is the bandwidth of a copy on that card in the same run. `benchmarks.cuda_events` says how
time is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import bench_augment, bench_block, bench_matching
from benchmarks.bench_multi_formation import OPERATIONS as FORMATION_OPERATIONS
from benchmarks.comparison import (
    Case,
    Rival,
    Setting,
    by_compile,
    compare_bytes,
    measure,
    within,
)
from benchmarks.cuda_events import copies
from benchmarks.published.dsa import augment
from benchmarks.timing import Work
from pydream import ops
from pydream.ops.block import Statistics
from pydream.ops.matching import distance_and_slopes
from pydream.ops.reference import matching as reference

# Weights that PyTorch rounds in float32, and sums of sixteen products.
SAME_FORMED = 1e-3


def eager_formation(images: Tensor) -> Tensor:
    rows = images.chunk(2, -2)
    cells = [cell for row in rows for cell in row.chunk(2, -1)]
    size = list(images.shape[-2:])
    return torch.cat([F.interpolate(cell, size, mode="bilinear") for cell in cells])


def formation_case(setting: Setting, count: int, side: int, *, backward: bool) -> Case:
    """Images doubled by factor 2: the result, or that and the derivative by the images."""

    def with_slope(form: Callable[[Tensor], Tensor]) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
        def run(given: tuple[Tensor, Tensor]) -> Tensor:
            images, upstream = given
            if not backward:
                return form(images)
            images = images.detach().requires_grad_()
            return torch.autograd.grad(form(images), images, upstream)[0]

        return run

    size = 5 * count * 3 * side**2 * 4
    inputs = [
        (
            torch.rand(count, 3, side, side, device=setting.device),
            torch.randn(4 * count, 3, side, side, device=setting.device),
        )
        for _ in range(copies(size, setting.device))
    ]
    passes = 2 if backward else 1
    return compare_bytes(
        setting,
        with_slope(lambda images: ops.multi_formation(images, 2, side)),
        {
            "chunk, interpolate, cat": Rival(with_slope(eager_formation)),
            "torch.compile": Rival(with_slope(by_compile(setting, eager_formation))),
        },
        inputs,
        within(SAME_FORMED),
        items=4 * count,
        work=Work(passes * size, passes * FORMATION_OPERATIONS * 4 * count * 3 * side**2),
    )


def augment_case(setting: Setting, kind: str) -> Case:
    """Forward and backward at a step's batch, beside the published chain with its draws given."""
    shape, size, device = (256, 3, 32, 32), 256 * 3 * 32**2 * 4, setting.device
    parameters = ops.random_augment(256, 32, bench_augment.CASES[kind]).to(device)
    inputs = [
        (torch.randn(shape, device=device).requires_grad_(), torch.randn(shape, device=device))
        for _ in range(copies(2 * size, device))
    ]

    def both_ways(augmented_by: Callable[[Tensor], Tensor]) -> Callable[[Any], tuple[Tensor, ...]]:
        def run(given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            augmented = augmented_by(given[0])
            return (augmented.detach(), *torch.autograd.grad(augmented, *given))

        return run

    def chain(x: Tensor) -> Tensor:
        return augment(x, parameters, kind)

    return compare_bytes(
        setting,
        both_ways(lambda x: ops.diff_augment(x, parameters)),
        {
            "published chain of operations": Rival(both_ways(chain)),
            "torch.compile of that": Rival(both_ways(by_compile(setting, chain))),
        },
        inputs,
        within(bench_augment.SAME_PIXELS),
        items=len(parameters),
        work=Work(4 * size, bench_augment.OPERATIONS * inputs[0][0].numel()),
    )


def _run_block(
    block: Callable[..., Tensor], passes: str, given: bench_block.Inputs
) -> tuple[Tensor, ...]:
    return bench_block.run(block, given, passes)


def block_case(
    setting: Setting, count: int, side: int, statistics: Statistics, passes: str
) -> Case:
    """A block of a ConvNet behind its convolution, at a step's batch."""
    size = count * bench_block.WIDTH * side**2
    moved = size * bench_block.MOVED[passes]  # float32, in quarters
    ours = bench_block.by_pydream(statistics)
    theirs = {
        "norm, ReLU and pool of PyTorch": bench_block.by_pytorch(statistics),
        "torch.compile": by_compile(setting, bench_block.by_pytorch(statistics)),
    }
    return compare_bytes(
        setting,
        partial(_run_block, ours, passes),
        {name: Rival(partial(_run_block, block, passes)) for name, block in theirs.items()},
        [
            bench_block.drawn(count, side, setting.device, seed)
            for seed in range(copies(3 * size * 4, setting.device))
        ],
        bench_block.agree,
        items=count,
        work=Work(moved, bench_block.OPERATIONS[passes] * size),
    )


def distance_case(setting: Setting, network: str, metric: str) -> Case:
    """The distance of two lists of gradients, and its derivative by the first."""
    device, shapes = setting.device, bench_matching.shapes(network)
    size = sum(shape.numel() for shape in shapes)

    def drawn() -> list[Tensor]:
        return [torch.randn(shape, device=device) for shape in shapes]

    inputs = [
        ([layer.requires_grad_() for layer in drawn()], drawn())
        for _ in range(copies(3 * 4 * size, device))
    ]

    def both_ways(distance: Callable[..., Tensor]) -> Callable[[Any], tuple[Tensor, ...]]:
        def run(given: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, ...]:
            value = distance(*given, metric)
            return (value.detach(), *torch.autograd.grad(value, given[0]))

        return run

    def together(given: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, ...]:
        value, slopes = distance_and_slopes(*given, metric)  # as DREAM's loop takes them
        return (value, *slopes)

    def agree(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
        for ours, other in zip(mine, theirs, strict=True):
            if metric != "cos" or other.dim() != 1:  # rows of one value: the rest of two equals
                bench_matching.agree(ours, other)

    return compare_bytes(
        setting,
        together,
        {
            "pydream, by autograd": Rival(both_ways(ops.gradient_distance)),
            "layer by layer": Rival(both_ways(reference.gradient_distance)),
            "torch.compile": Rival(both_ways(by_compile(setting, reference.gradient_distance))),
        },
        inputs,
        agree,
        items=1,
        work=Work(3 * 4 * size, 4 * size),
    )


def cases(setting: Setting) -> dict[str, Callable[[], Case]]:
    """Return every case by its name: small ones for a rehearsal."""
    small = setting.small
    found: dict[str, Callable[[], Case]] = {
        "copy": lambda: {"bytes_per_second": setting.limits.copy_bytes},
    }
    for count, side in ((10, 32),) if small else ((100, 32), (40, 224)):
        for backward in (False, True):
            name = f"multi_formation, {count} of {side}, factor 2" + ", backward too" * backward
            found[name] = partial(formation_case, setting, count, side, backward=backward)
    for kind in ("crop", "rotate"):
        name = f"diff_augment, (256, 3, 32, 32) float32, {kind}"
        found[name] = partial(augment_case, setting, kind)
    batch = 4 if small else 256
    blocks: list[tuple[int, Statistics, str]] = [
        *((32, "instance", passes) for passes in bench_block.PASSES),
        (8, "instance", bench_block.PASSES[2]),
        (32, "batch", bench_block.PASSES[1]),
    ]
    for side, statistics, passes in blocks:
        name = f"norm_relu_pool, {batch} x 128 x {side} x {side}, {statistics}, {passes}"
        found[name] = partial(block_case, setting, batch, side, statistics, passes)
    for network in ("ConvNet-3",) if small else ("ResNet-18", "ConvNet-3"):
        for metric in ("mse", "l2", "cos"):
            name = f"gradient_distance, {network}, {metric}, and the derivative"
            found[name] = partial(distance_case, setting, network, metric)
    return found


if __name__ == "__main__":
    measure("cuda-matching", __doc__.splitlines()[0], cases, least=0.3)
