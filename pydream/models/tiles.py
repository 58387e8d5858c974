"""Tiles: the batches of one size in which an observer sees its images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

# Largest number of rows in a tile, and of bytes in its largest activation. On the CPU, glibc
# requests buffers of 32 MiB and more from the kernel at every call, page by page, and smaller tiles
# stay in the cache. Images per second on two cores of a Xeon (AVX-512, float32), by tile:
#   ConvNet-3 at 32²     8: 1617, 16: 2003, 32: 1766, 64: 1531, 128: 1281, 512: 1314
#   ResNet-18 at 224²    2: 58, 4: 65, 8: 70, 16: 59, 32: 52
#   the same, modified, at 32²    8: 104, 16: 135, 32: 157, 64: 158, 128: 106, 256: 142
# (ConvNet-3 not folded, contiguous, 500 rows at a time: 513.) The rule gives 32, 8 and 64.
_TILE_ON_CPU = (64, 32 << 20)
_TILE_ELSEWHERE = (512, 1 << 30)


@torch.no_grad()
def choose_tile(model: nn.Module, side: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return the most rows, a power of two, whose largest activation stays within the limit.

    Parameters
    ----------
    model
        The classifier.
    side
        Height and width of the images, in pixels.
    dtype, device
        Dtype and device of the weights and of the images.
    """
    image = torch.zeros(1, 3, side, side, device=device, dtype=dtype)
    bytes_per_row = image.nbytes

    def note(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal bytes_per_row
        if isinstance(output, torch.Tensor):
            bytes_per_row = max(bytes_per_row, output.nbytes)

    leaves = [module for module in model.modules() if not any(module.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        model.forward(image)  # the original, in case it is compiled
    finally:
        for hook in hooks:
            hook.remove()
    most_rows, most_bytes = _TILE_ON_CPU if image.is_cpu else _TILE_ELSEWHERE
    fitting = max(1, (most_bytes - 1) // bytes_per_row)
    return min(most_rows, 1 << (fitting.bit_length() - 1))


@torch.no_grad()
def filled_tile(
    images: torch.Tensor, rows: int, side: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Bring up to `rows` images into one tile, as a network takes it; the rest is zeros.

    Parameters
    ----------
    images
        (B, 3, H, W), normalised, on any device.
    rows
        Number of rows of the tile, at least B.
    side
        Side of the network's input, in pixels: images of another one are resized, bilinearly and
        with antialiasing.
    dtype, device
        Dtype and device of the tile.

    Returns
    -------
    Tensor
        (rows, 3, side, side), channels last.
    """
    if images.shape[2:] != (side, side):
        images = functional.interpolate(
            images.to(device).float(), size=(side, side), mode="bilinear", antialias=True
        )
    if len(images) < rows:
        images = torch.cat([images, images.new_zeros(rows - len(images), *images.shape[1:])])
    return images.to(device, dtype).contiguous(memory_format=torch.channels_last)
