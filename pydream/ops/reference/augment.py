"""DSA's augmentations in plain PyTorch: draws, images, and the adjoint by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pydream.ops.reference.philox import WORD_MASK, philox4x32

STREAM_AUGMENT = 3
COLUMNS = 13
BRIGHTNESS, SATURATION, CONTRAST = 0, 1, 2
AFFINE = slice(3, 9)
CUTOUT_TOP, CUTOUT_LEFT, CUTOUT_HEIGHT, CUTOUT_WIDTH = 9, 10, 11, 12
SPATIAL = ("crop", "flip", "scale", "rotate")
"""The spatial augmentations, in the order of the kernels' `Spatial`."""

CROP_SHARE = 0.125
MOST_SCALE = 1.2
MOST_DEGREES = 15.0
CUTOUT_SHARE = 0.5


def random_augment(
    count: int, size: Sequence[int], color: bool, spatial: Sequence[str], cutout: bool, seed: int
) -> Tensor:
    """See `pydream.ops.random_augment`."""
    row = torch.arange(count, device="cpu")
    (b, s, c, choice), (first, second, down, across) = (
        philox4x32(seed, (row & WORD_MASK, row >> 32, block, STREAM_AUGMENT << 16))
        for block in (0, 1)
    )
    drawn = torch.zeros(count, COLUMNS, dtype=torch.float64, device="cpu")
    drawn[:, SATURATION : CONTRAST + 1] = 1.0
    if color:
        drawn[:, BRIGHTNESS] = _unit(b) - 0.5
        drawn[:, SATURATION] = 2.0 * _unit(s)
        drawn[:, CONTRAST] = _unit(c) + 0.5
    drawn[:, AFFINE] = drawn.new_tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    for number, name in enumerate(spatial):
        rows = _below(choice, len(spatial)) == number
        drawn[rows, AFFINE] = _affine(name, size, first[rows], second[rows])
    if cutout:
        extent = [int(side * CUTOUT_SHARE + 0.5) for side in size]
        for column, word, side, share in zip((0, 1), (down, across), size, extent, strict=True):
            drawn[:, CUTOUT_TOP + column] = _below(word, side + 1 - share % 2) - share // 2.0
            drawn[:, CUTOUT_HEIGHT + column] = share
    return drawn.float()


def _unit(word: Tensor) -> Tensor:
    return word.double() * 2.0**-32


def _below(word: Tensor, n: int) -> Tensor:
    return word * n >> 32


def _affine(name: str, size: Sequence[int], first: Tensor, second: Tensor) -> Tensor:
    """Draw (P, 6) maps, float64."""
    height, width = size
    one = torch.ones_like(first, dtype=torch.float64)
    zero = torch.zeros_like(one)
    if name == "crop":
        x, y = (
            (_below(word, 2 * most + 1) - most).double()
            for word, most in (
                (first, int(width * CROP_SHARE + 0.5)),
                (second, int(height * CROP_SHARE + 0.5)),
            )
        )
        return torch.stack([one, zero, x, zero, one, y], 1)
    if name == "flip":
        mirrored = _below(first, 2).double()
        return torch.stack([1 - 2 * mirrored, zero, mirrored * (width - 1), zero, one, zero], 1)
    if name == "scale":
        least = 1 / MOST_SCALE
        across, down = (least + (MOST_SCALE - least) * _unit(word) for word in (first, second))
        linear = across, zero, zero, down
    else:
        angle = math.radians(MOST_DEGREES) * (2.0 * _unit(first) - 1.0)
        linear = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    a, b, c, d = linear
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    tx = middle_x - a * middle_x - b * middle_y
    ty = middle_y - c * middle_x - d * middle_y
    return torch.stack([a, b, tx, c, d, ty], 1)


def diff_augment(x: Tensor, parameters: Tensor) -> Tensor:
    """Compute `pydream.ops.diff_augment`, in float32 or wider."""
    if x.numel() == 0:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    rows = parameters.detach().to(wide.dtype)
    rows = rows.repeat_interleave(x.shape[0] // parameters.shape[0], 0)
    return _erase(_warp(_colour(wide, rows), rows), rows).to(x.dtype)


def diff_augment_adjoint(upstream: Tensor, parameters: Tensor) -> Tensor:
    """Compute the derivative with respect to the images."""
    # vjp works where gradients are switched off, as within an op. Inference mode also forbids
    # saving its tensors for a derivative; clones of them can be saved.
    with torch.inference_mode(False):
        rows, slope = parameters.clone(), upstream.clone(memory_format=torch.contiguous_format)
        pull: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(
            lambda x: diff_augment(x, rows), torch.zeros_like(slope)
        )[1]
        return pull(slope)[0]


def _colour(x: Tensor, rows: Tensor) -> Tensor:
    brightness, saturation, contrast = rows[:, :3, None, None, None].unbind(1)
    x = x + brightness
    mean = x.mean(1, keepdim=True)
    x = saturation * (x - mean) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return contrast * (x - mean) + mean


def _warp(x: Tensor, rows: Tensor) -> Tensor:
    """Read every output pixel at its mapped position, bilinearly, with zeros outside."""
    _, channels, height, width = x.shape
    a, b, tx, c, d, ty = rows[:, AFFINE, None, None].unbind(1)
    down = torch.arange(height, device=x.device, dtype=x.dtype)[:, None]
    across = torch.arange(width, device=x.device, dtype=x.dtype)
    # A bilinear read reaches at most one pixel of zeros around the image.
    at_x = (a * across + b * down + tx).nan_to_num(nan=-1.0).clamp(-1, width)
    at_y = (c * across + d * down + ty).nan_to_num(nan=-1.0).clamp(-1, height)
    flat = torch.nn.functional.pad(x, (1, 2, 1, 2)).flatten(2)
    left, top = at_x.floor(), at_y.floor()
    result = torch.zeros_like(x, memory_format=torch.contiguous_format)
    for row, share_y in ((top, 1 - (at_y - top)), (top + 1, at_y - top)):
        for column, share_x in ((left, 1 - (at_x - left)), (left + 1, at_x - left)):
            index = ((row.long() + 1) * (width + 3) + column.long() + 1).flatten(1)
            found = flat.gather(2, index[:, None].expand(-1, channels, -1)).view_as(x)
            result = result + (share_y * share_x)[:, None] * found
    return result


def _erase(x: Tensor, rows: Tensor) -> Tensor:
    top, left, height, width = rows[:, CUTOUT_TOP:, None].unbind(1)
    down = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)
    across = torch.arange(x.shape[3], device=x.device, dtype=x.dtype)
    inside_y = (down >= top) & (down < top + height)
    inside_x = (across >= left) & (across < left + width)
    erased = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(erased, torch.zeros((), dtype=x.dtype, device=x.device), x)
