"""Norm, ReLU and average pool of a ConvNet block: ours beside PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.timing import Work, compare, report, table
from pydream import ops
from pydream.ops.block import Statistics
from pydream.ops.reference import block as reference

IMAGES, WIDTH = 64, 128  # what a student trains on at once, and the published width
# Means of 1024 values, and of 65,536 in a batch, in another order; both are of order 1 to 10.
SAME = 1e-4
PASSES = ("forward", "and backward", "and second backward")


# Bytes that the passes move once, in quarters of those of the images.
MOVED = {"forward": 5, "and backward": 14, "and second backward": 28}
# Forward: mean, variance, scale, shift, ReLU, pool, about ten of each value; derivatives of it.
OPERATIONS = {passes: 10 * (1 + number) for number, passes in enumerate(PASSES)}
Inputs = tuple[Tensor, ...]


def drawn(count: int, side: int, device: torch.device, seed: int) -> Inputs:
    """Draw images, with weight, bias, the slope of their result, and that of their own slope."""
    generator = torch.Generator(device).manual_seed(seed)
    images, slope, second = (
        torch.randn(count, WIDTH, size, size, generator=generator, device=device)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
        for size in (side, side // 2, side)
    )
    parameters = (torch.ones(WIDTH, device=device), torch.zeros(WIDTH, device=device))
    return (images, *(leaf.requires_grad_() for leaf in parameters), slope, second)


def run(block: Callable[..., Tensor], inputs: Inputs, passes: str) -> tuple[Tensor, ...]:
    """Run a block of images, weight and bias, and its derivatives up to some pass."""
    *leaves, upstream, second = inputs
    if passes == "forward":
        with torch.no_grad():
            return (block(*leaves),)
    twice = passes == PASSES[2]
    found = torch.autograd.grad(block(*leaves), leaves, upstream, create_graph=twice)
    if not twice:
        return found
    return torch.autograd.grad(found[0], (leaves[0], upstream), second)


def agree(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """Compare results, but for values that are rounded across the kink of the ReLU."""
    for ours, other in zip(mine, theirs, strict=True):
        apart = (ours - other).abs() > SAME * other.abs().max()
        assert apart.double().mean() < SAME


def by_pydream(statistics: Statistics) -> Callable[..., Tensor]:
    """Return the op for `run`."""
    return lambda images, weight, bias: ops.norm_relu_pool(images, weight, bias, statistics)


def by_pytorch(statistics: Statistics) -> Callable[..., Tensor]:
    """Return PyTorch's operations for `run`."""
    batch = statistics == "batch"
    return lambda images, weight, bias: reference.norm_relu_pool(images, weight, bias, batch, 1e-5)


def measure(side: int, statistics: Statistics, passes: str, rounds: int) -> dict[str, Any]:
    inputs = drawn(IMAGES, side, torch.device("cpu"), 0)
    ours, eager = (
        partial(run, block, inputs, passes)
        for block in (by_pydream(statistics), by_pytorch(statistics))
    )
    agree(ours(), eager())
    images = inputs[0]
    source = torch.randn(images.numel() * MOVED[passes] // 8)  # in quarters, read and written
    target = torch.empty_like(source)
    limit = "a copy of as many bytes as the passes move once"
    rivals: dict[str, Callable[[], object]] = {
        "pydream": ours,
        "eager": eager,
        limit: lambda: target.copy_(source),
    }
    timings = compare(rivals, rounds=rounds, threads=2)
    work = Work(images.nbytes * MOVED[passes] // 4, OPERATIONS[passes] * images.numel())
    return report(timings, ours="pydream", limit=limit, items=IMAGES, unit="image", work=work)


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("statistics", ["instance", "batch"])
@pytest.mark.parametrize("side", [32, 8])
def test_block(
    benchmark: Any, record: dict[str, Any], side: int, statistics: Statistics, passes: str
) -> None:
    result = measure(side, statistics, passes, 7 if benchmark.enabled else 1)
    if benchmark.enabled:
        name = f"{side} x {side}, {statistics}, {passes}"
        record[name] = result
        print("\n" + table(name, result))
    images = torch.randn(IMAGES, WIDTH, side, side).to(memory_format=torch.channels_last)
    benchmark(ops.norm_relu_pool, images, torch.ones(WIDTH), torch.zeros(WIDTH), statistics)
