"""Norm, ReLU and average pool of a ConvNet block: ours beside PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable
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


def measure(side: int, statistics: Statistics, passes: str, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def drawn(size: int) -> Tensor:
        values = torch.randn(IMAGES, WIDTH, size, size, generator=generator)
        return values.to(memory_format=torch.channels_last)

    images, slope, second = drawn(side), drawn(side // 2), drawn(side)
    leaves = [images, torch.ones(WIDTH), torch.zeros(WIDTH)]
    if passes != "forward":
        leaves = [leaf.requires_grad_() for leaf in leaves]
    upstream = slope.requires_grad_()

    def run_by(block: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            pooled = block()
            if passes == "forward":
                return (pooled,)
            twice = passes == PASSES[2]
            found = torch.autograd.grad(pooled, leaves, upstream, create_graph=twice)
            if twice:
                return torch.autograd.grad(found[0], (images, upstream), second)
            return found

        return run

    images, weight, bias = leaves
    batch = statistics == "batch"
    ours = run_by(lambda: ops.norm_relu_pool(images, weight, bias, statistics))
    eager = run_by(lambda: reference.norm_relu_pool(images, weight, bias, batch, 1e-5))
    for mine, theirs in zip(ours(), eager(), strict=True):
        # A value that is rounded across the kink of the ReLU has the other slope.
        apart = (mine - theirs).abs() > SAME * theirs.abs().max()
        assert apart.double().mean() < SAME
    moved = {"forward": 5, "and backward": 14, "and second backward": 28}[passes]
    source = torch.randn(images.numel() * moved // 8)  # in quarters, read and written
    target = torch.empty_like(source)
    limit = "a copy of as many bytes as the passes move once"
    rivals: dict[str, Callable[[], object]] = {
        "pydream": ours,
        "eager": eager,
        limit: lambda: target.copy_(source),
    }
    timings = compare(rivals, rounds=rounds, threads=2)
    # Forward: mean, variance, scale, shift, ReLU, pool, about ten of each value; derivatives of it.
    passes_of_ten = 1 + PASSES.index(passes)
    work = Work(images.nbytes * moved // 4, 10 * passes_of_ten * images.numel())
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
