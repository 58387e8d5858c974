"""Matched cells in plain PyTorch, by pseudo-inverses in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pydream.ops.reference.crop import crop_resize, images_of_boxes


def matched_cells(
    images: list[Tensor],
    boxes: Tensor,
    image_index: Tensor | None,
    size: Sequence[int],
    enlarged: Sequence[int],
    inside: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Compute `pydream.ops.matched_cells`."""
    if image_index is None:
        image_index = images_of_boxes(images, boxes)
    anchors = crop_resize(
        images, boxes, enlarged, image_index, None, enlarged, None, None, torch.float32, False
    )
    rows, columns = (
        torch.linalg.pinv(enlargement(*axis, device=boxes.device))
        for axis in zip(size, enlarged, inside, strict=True)
    )
    cells: Tensor = (rows @ (anchors.double() - 0.5) @ columns.T + 0.5).clamp(0, 1)
    if dtype == torch.uint8:
        cells = (cells * 255 + 0.5).floor()
    return cells.to(dtype)


def enlargement(size: int, enlarged: int, inside: int, device: torch.device) -> Tensor:
    """Return U, (enlarged, inside), float64: ``U @ (line - 0.5) + 0.5`` is the line enlarged."""
    unit = torch.eye(size, dtype=torch.float64, device=device)[:inside, None]
    grown = F.interpolate(unit, size=enlarged, mode="linear", align_corners=False)[:, 0]
    return grown.transpose(0, 1)
