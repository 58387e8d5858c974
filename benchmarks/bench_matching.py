"""Distances of gradients, forward and backward: ours beside PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18

from benchmarks.timing import Work, compare, report, table
from pydream import ops
from pydream.models.convnet import ConvNet
from pydream.ops.reference import matching as reference

ROUNDS = {"ResNet-18": 10, "ConvNet-3": 60}
# Sums of 11 million terms in float32, in another order.
SAME_VALUE = 1e-4
SAME_SLOPES = 1e-4


def shapes(name: str) -> list[torch.Size]:
    model = resnet18() if name == "ResNet-18" else ConvNet(10, side=32, norm="instance")
    return [parameter.shape for parameter in model.parameters()]


def lists(name: str) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes(name)]
    return x, [torch.randn(shape, generator=generator) for shape in shapes(name)]


def agree(mine: Tensor, theirs: Tensor) -> None:
    scale = float(theirs.abs().max())
    torch.testing.assert_close(mine, theirs, rtol=SAME_VALUE, atol=SAME_SLOPES * scale)


def measure(name: str, metric: str, rounds: int) -> dict[str, Any]:
    x, y = lists(name)

    def forward_and_backward(distance: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            value = distance(x, y, metric)
            return (value.detach(), *torch.autograd.grad(value, x))

        return run

    ours = forward_and_backward(ops.gradient_distance)
    eager = forward_and_backward(reference.gradient_distance)
    for mine, theirs in zip(ours(), eager(), strict=True):
        if metric == "cos" and theirs.dim() == 1:
            continue  # rows of one value: what is left is the rounding of two equal parts
        agree(mine, theirs)
    size = sum(tensor.numel() for tensor in x)
    source, target = torch.randn(3 * size // 2), torch.empty(3 * size // 2)
    limit = "a copy of as many bytes as three lists have"
    rivals: dict[str, Callable[[], object]] = {
        "pydream": ours,
        "eager, layer by layer": eager,
        limit: lambda: target.copy_(source),
    }
    timings = compare(rivals, rounds=rounds, threads=2)
    # A difference, its square or part of a product, a sum; and a product for the derivative.
    work = Work(3 * 4 * size, 4 * size)
    return report(timings, ours="pydream", limit=limit, work=work)


@pytest.mark.parametrize("metric", ["mse", "l1", "l1_mean", "l2", "cos"])
@pytest.mark.parametrize("name", ROUNDS)
def test_forward_and_backward(
    benchmark: Any, record: dict[str, Any], name: str, metric: str
) -> None:
    result = measure(name, metric, ROUNDS[name] if benchmark.enabled else 1)
    if benchmark.enabled:
        record[f"{name}, {metric}"] = result
        print("\n" + table(f"{name}, {metric}", result))
    x, y = lists(name)
    benchmark(ops.gradient_distance, x, y, metric)
