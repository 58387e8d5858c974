"""Matched cells: ours beside torchvision's crop and two matrix products with the pseudo-inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resized_crop

from benchmarks.timing import Work, compare, report, table
from pydream import ops

PHOTOGRAPHS, CROPS = 20, 5
ROUNDS = 7
# Two ways to sum in float32 put few values on the other side of a byte's edge.
MOST_APART = 1


def by_products(images: list[Tensor], boxes: Tensor, size: int, enlarged: int) -> Tensor:
    """Crop and resize one patch at a time, then multiply all by the pseudo-inverse."""
    unit = F.interpolate(torch.eye(size)[:, None], enlarged, mode="linear")[:, 0].T
    inverse: Tensor = torch.linalg.pinv(unit)
    anchors = torch.stack(
        [
            resized_crop(
                images[row // CROPS].permute(2, 0, 1).float(),
                *box,
                size=[enlarged, enlarged],
                antialias=True,
            )
            for row, box in enumerate(boxes.tolist())
        ]
    )
    return (inverse @ anchors @ inverse.T).round_().clamp_(0, 255).byte()


def random_photographs(height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(PHOTOGRAPHS, 3, height // 8, width // 8, generator=generator)
    images = F.interpolate(smooth, (height, width), mode="bilinear") * 255
    return list(images.byte().permute(0, 2, 3, 1).contiguous())


@pytest.mark.parametrize(
    ("photograph", "size", "enlarged"),
    [((375, 500), 112, 224), ((375, 500), 75, 224), ((32, 32), 16, 32)],
)
def test_matched_cells(
    benchmark: Any,
    record: dict[str, Any],
    photograph: tuple[int, int],
    size: int,
    enlarged: int,
) -> None:
    images = random_photographs(*photograph)
    sizes = torch.tensor([photograph] * PHOTOGRAPHS)
    boxes = ops.random_crop_boxes(sizes, CROPS, seed=0).reshape(-1, 4)

    def matched() -> Tensor:
        return ops.matched_cells(images, boxes, size, enlarged)

    calls: dict[str, Callable[[], Tensor]] = {
        "pydream": matched,
        "crop, then products with the pseudo-inverse": lambda: by_products(
            images, boxes, size, enlarged
        ),
    }
    ours, theirs = (call() for call in calls.values())
    assert (ours.int() - theirs.int()).abs().max() <= MOST_APART
    crop = "crop_resize of the enlarged patches"
    calls[crop] = lambda: ops.crop_resize(images, boxes, enlarged, dtype=torch.uint8)
    result = report(
        compare(calls, rounds=ROUNDS if benchmark.enabled else 1, threads=2),
        ours="pydream",
        limit=crop,
        items=len(boxes),
        unit="cell",
        work=Work(ours.nbytes),
    )
    if benchmark.enabled:
        name = f"crops of {photograph[0]} x {photograph[1]} to {size} for {enlarged}"
        record[name] = result
        print("\n" + table(f"{name}; a cell", result))
    benchmark(matched)
