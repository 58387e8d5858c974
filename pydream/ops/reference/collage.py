"""The collage in plain PyTorch."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F


def _resize(patches: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (B, ch, h, w) by nearest neighbour; patches of the right size pass unchanged."""
    if tuple(patches.shape[2:]) == (height, width):
        return patches
    return F.interpolate(patches, size=(height, width), mode="nearest")


def collage(patches: torch.Tensor, factor: int, size: int) -> torch.Tensor:
    """Compute `pydream.ops.collage` cell by cell with ``interpolate``."""
    classes, ranked, channels, height, width = patches.shape
    images = ranked // factor**2
    cells = patches.view(classes, factor**2, images, channels, height, width)
    sides = [size // factor + (k < size % factor) for k in range(factor)]
    starts = [0, *accumulate(sides)]
    result = patches.new_empty((classes, images, channels, size, size))
    if result.numel() == 0:
        return result
    for k in range(factor**2):
        row, column = divmod(k, factor)
        cell = cells[:, k].reshape(-1, channels, height, width)
        resized = _resize(cell, sides[row], sides[column])
        result[..., starts[row] : starts[row + 1], starts[column] : starts[column + 1]] = (
            resized.view(classes, images, channels, sides[row], sides[column])
        )
    return result
