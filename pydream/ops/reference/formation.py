"""Multi-formation in plain PyTorch, differentiable any number of times."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_formation(images: Tensor, factor: int, size: int, padding: float) -> Tensor:
    """Compute `pydream.ops.multi_formation`: pad, slice, interpolate, concatenate."""
    *batches, count, channels, height, width = images.shape
    result = (*batches, factor**2 * count, channels, size, size)
    if images.numel() == 0:
        return images.new_zeros(result)
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), value=padding)
    cells = torch.cat(
        [cell for row in padded.chunk(factor, -2) for cell in row.chunk(factor, -1)], -4
    )
    wide = cells.float() if cells.dtype in (torch.float16, torch.bfloat16) else cells
    grown = F.interpolate(wide.reshape(-1, *cells.shape[-3:]), (size, size), mode="bilinear")
    return grown.reshape(result).to(images.dtype)


def multi_formation_backward(gradient: Tensor, factor: int, height: int, width: int) -> Tensor:
    """Compute the derivative with respect to the images from that with respect to the result."""
    *batches, count, channels, size, _ = gradient.shape
    images = gradient.new_zeros((*batches, count // factor**2, channels, height, width))
    if gradient.numel() == 0:
        return images
    # vjp works where gradients are switched off, as within an op.
    pull: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(
        lambda x: multi_formation(x, factor, size, 0.0), images
    )[1]
    return pull(gradient)[0]
