"""DSA's augmentations, forward and backward: ours beside the published chain of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import compare, report, table
from pydream import ops

# Some positions of bilinear reads are rounded otherwise, between pixels up to 3 apart.
SAME_PIXELS = 1e-4
IMAGES = 256
CASES = {
    "crop": "color_crop_cutout",
    "scale": "color_scale_cutout",
    "rotate": "color_rotate_cutout",
}


def published(x: Tensor, parameters: Tensor, kind: str) -> Tensor:
    """The chain of DSA's code, with its random numbers given."""
    rows = parameters.expand(len(x), -1)
    brightness, saturation, contrast = rows[:, :3, None, None, None].unbind(1)
    x = x + brightness
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * saturation + mean
    mean = x.mean(dim=[1, 2, 3], keepdim=True)
    x = (x - mean) * contrast + mean
    x = shifted(x, rows) if kind == "crop" else turned(x, rows)
    return erased(x, rows)


def shifted(x: Tensor, rows: Tensor) -> Tensor:
    """DSA's rand_crop: padding, and a gather by indices."""
    size = x.shape[2]
    image, down, across = torch.meshgrid(
        *(torch.arange(each, device=x.device) for each in (len(x), size, size)), indexing="ij"
    )
    down = torch.clamp(down + rows[:, 8].long().view(-1, 1, 1) + 1, 0, size + 1)
    across = torch.clamp(across + rows[:, 5].long().view(-1, 1, 1) + 1, 0, size + 1)
    padded = F.pad(x, [1, 1, 1, 1])
    return padded.permute(0, 2, 3, 1).contiguous()[image, down, across].permute(0, 3, 1, 2)


def turned(x: Tensor, rows: Tensor) -> Tensor:
    """DSA's rand_scale and rand_rotate: maps about the centre of a square image."""
    a, b, _, c, d, _ = rows[:, 3:9].unbind(1)
    zero = torch.zeros_like(a)
    theta = torch.stack([a, b, zero, c, d, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def erased(x: Tensor, rows: Tensor) -> Tensor:
    """DSA's rand_cutout: a mask filled by indices."""
    size, extent = x.shape[2], x.shape[2] // 2
    image, down, across = torch.meshgrid(
        *(torch.arange(each, device=x.device) for each in (len(x), extent, extent)), indexing="ij"
    )
    down = torch.clamp(down + rows[:, 9].long().view(-1, 1, 1), 0, size - 1)
    across = torch.clamp(across + rows[:, 10].long().view(-1, 1, 1), 0, size - 1)
    mask = torch.ones(len(x), size, size, dtype=x.dtype, device=x.device)
    mask[image, down, across] = 0
    return x * mask.unsqueeze(1)


def measure(kind: str, shared: bool, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(IMAGES, 3, 32, 32, generator=generator).requires_grad_()
    upstream = torch.randn(x.shape, generator=generator)
    parameters = ops.random_augment(1 if shared else IMAGES, 32, CASES[kind])

    def forward_and_backward(augment: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            augmented = augment()
            return (augmented.detach(), *torch.autograd.grad(augmented, x, upstream))

        return run

    ours = forward_and_backward(lambda: ops.diff_augment(x, parameters))
    theirs = forward_and_backward(lambda: published(x, parameters, kind))
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
    return report(timings, ours="pydream", limit=limit, items=IMAGES)


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
