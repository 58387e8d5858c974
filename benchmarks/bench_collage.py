"""Collages: ours beside PyTorch's operations, for patches that fit and patches that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Work, compare, report, table
from pydream import ops
from pydream.allocator import in_large_pages

CLASSES, IMAGES, FACTOR, SIZE = 10, 10, 2, 224
ROUNDS = 7
CALLS = 5  # in a row, as in bench_score.py


def by_cells(patches: Tensor) -> Tensor:
    """Interpolate and assign one cell of all images at a time."""
    classes, _, channels, height, width = patches.shape
    side = SIZE // FACTOR
    cells = patches.view(classes, FACTOR**2, IMAGES, channels, height, width)
    result = patches.new_empty((classes, IMAGES, channels, SIZE, SIZE))
    for k in range(FACTOR**2):
        top, left = k // FACTOR * side, k % FACTOR * side
        cell = cells[:, k]
        if (height, width) != (side, side):
            cell = F.interpolate(cell.flatten(0, 1), (side, side)).unflatten(0, (classes, IMAGES))
        result[..., top : top + side, left : left + side] = cell
    return result


def by_images(patches: Tensor) -> Tensor:
    """Concatenate patches to rows and rows to images, one image at a time."""
    side = SIZE // FACTOR
    if patches.shape[-1] != side:
        resized = F.interpolate(patches.flatten(0, 1), (side, side))
        patches = resized.unflatten(0, patches.shape[:2])
    images = []
    for of_class in patches:
        for i in range(IMAGES):
            own = list(of_class[i::IMAGES])
            rows = [torch.cat(own[k : k + FACTOR], 2) for k in range(0, len(own), FACTOR)]
            images.append(torch.cat(rows, 1))
    collages: Tensor = torch.stack(images).unflatten(0, (len(patches), IMAGES))
    return collages


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            call()

    return run


def measure(patches: Tensor, rounds: int) -> dict[str, Any]:
    rivals: dict[str, Callable[[], Tensor]] = {
        "pydream": lambda: ops.collage(patches, FACTOR, SIZE),
        "interpolate and assign, cell by cell": lambda: by_cells(patches),
        "interpolate and cat, image by image": lambda: by_images(patches),
    }
    expected = rivals["pydream"]()
    for name, rival in rivals.items():
        assert rival().equal(expected), f"{name} makes other images"
    limit = "copy of the images, the limit"

    def copied() -> Tensor:
        return in_large_pages(torch.empty_like(expected)).copy_(expected)

    timings = compare(
        {name: repeated(call) for name, call in {**rivals, limit: copied}.items()},
        rounds=rounds,
        threads=2,
    )
    return report(
        timings,
        ours="pydream",
        limit=limit,
        items=CALLS * CLASSES * IMAGES,
        unit="image",
        work=Work(CALLS * 2 * expected.nbytes),
    )


@pytest.mark.parametrize("side", [112, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_collage(benchmark: Any, record: dict[str, Any], dtype: torch.dtype, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (CLASSES, IMAGES * FACTOR**2, 3, side, side)
    patches = torch.randint(0, 256, shape, generator=generator).to(dtype)
    result = measure(patches, ROUNDS if benchmark.enabled else 1)
    if benchmark.enabled:
        name = f"patches of {side}, {str(dtype).removeprefix('torch.')}"
        record[name] = result
        print("\n" + table(f"{name}; an image", result))
    benchmark(ops.collage, patches, FACTOR, SIZE)
