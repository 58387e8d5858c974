"""Collages: ours beside PyTorch's own operations, for patches that fit and patches that do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from pydream import ops

CLASSES = 10
IMAGES = 10


def torch_cells(patches: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    """Interpolate and assign one cell of all images at a time, for sides that factor divides."""
    classes, ranked, channels, height, width = patches.shape
    images = ranked // factor**2
    side = size // factor
    cells = patches.view(classes, factor**2, images, channels, height, width)
    result = patches.new_empty((classes, images, channels, size, size))
    for k in range(factor**2):
        top, left = k // factor * side, k % factor * side
        cell = cells[:, k]
        if (height, width) != (side, side):
            cell = F.interpolate(cell.flatten(0, 1), (side, side)).unflatten(0, (classes, images))
        result[..., top : top + side, left : left + side] = cell
    return result


def torch_cat(patches: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    """Concatenate patches to rows and rows to images, one image at a time."""
    images = patches.shape[1] // factor**2
    side = size // factor
    if patches.shape[-1] != side:
        patches = F.interpolate(patches.flatten(0, 1), (side, side)).unflatten(0, patches.shape[:2])
    result = []
    for of_class in patches:
        for i in range(images):
            own = of_class[i::images]
            rows = [torch.cat(list(own[k : k + factor]), 2) for k in range(0, len(own), factor)]
            result.append(torch.cat(rows, 1))
    return torch.stack(result).unflatten(0, (patches.shape[0], images))


RIVALS: dict[str, Callable[..., torch.Tensor]] = {
    "pydream": ops.collage,
    "torch, cell by cell": torch_cells,
    "torch.cat, image by image": torch_cat,
}


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("side", [112, 100])
def test_collage(benchmark: BenchmarkFixture, side: int, dtype: torch.dtype, rival: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (CLASSES, IMAGES * 4, 3, side, side)
    patches = torch.randint(0, 256, shape, generator=generator).to(dtype)
    assert RIVALS[rival](patches, 2, 224).equal(ops.collage(patches, 2, 224))
    benchmark.group = f"collage, patches of {side}, {dtype}"
    benchmark(RIVALS[rival], patches, 2, 224)
