"""DSA's augmentations, forward and backward: ours beside the published chain of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.published.dsa import augment
from benchmarks.timing import Work, compare, report, table
from pydream import ops

# Some positions of bilinear reads are rounded otherwise, between pixels up to 3 apart.
SAME_PIXELS = 1e-4
IMAGES = 256
# Each value: four reads blended, and colours; about as much again in the backward pass.
OPERATIONS = 24
CASES = {
    "crop": "color_crop_cutout",
    "scale": "color_scale_cutout",
    "rotate": "color_rotate_cutout",
}


def measure(kind: str, shared: bool, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(IMAGES, 3, 32, 32, generator=generator).requires_grad_()
    upstream = torch.randn(x.shape, generator=generator)
    parameters = ops.random_augment(1 if shared else IMAGES, 32, CASES[kind])

    def forward_and_backward(
        augmented_by: Callable[..., Tensor],
    ) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            augmented = augmented_by()
            return (augmented.detach(), *torch.autograd.grad(augmented, x, upstream))

        return run

    ours = forward_and_backward(lambda: ops.diff_augment(x, parameters))
    theirs = forward_and_backward(lambda: augment(x, parameters, kind))
    for mine, other in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.0, atol=SAME_PIXELS)
    source, target = torch.randn(2 * x.numel()), torch.empty(2 * x.numel())
    limit = "a copy of as many bytes as both passes move"
    rivals: dict[str, Callable[[], object]] = {
        "pydream": ours,
        "published chain of operations": theirs,
        limit: lambda: target.copy_(source),
    }
    timings = compare(rivals, rounds=rounds, threads=2)
    work = Work(4 * 4 * x.numel(), OPERATIONS * x.numel())
    return report(timings, ours="pydream", limit=limit, items=IMAGES, unit="image", work=work)


@pytest.mark.parametrize("shared", [False, True], ids=["a row each", "one row"])
@pytest.mark.parametrize("kind", CASES)
def test_forward_and_backward(
    benchmark: Any, record: dict[str, Any], kind: str, shared: bool
) -> None:
    result = measure(kind, shared, 30 if benchmark.enabled else 1)
    if benchmark.enabled:
        name = f"{kind}, {'one row' if shared else 'a row each'}"
        record[name] = result
        print("\n" + table(name, result))
    x, parameters = torch.randn(IMAGES, 3, 32, 32), ops.random_augment(IMAGES, 32)
    benchmark(ops.diff_augment, x, parameters)
