"""DSA's augmentations (Zhao and Bilen, ICML 2021) as the chain of operations of its code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pydream.ops import random_augment


def augment(x: Tensor, parameters: Tensor, kind: str) -> Tensor:
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


def augment_one(x: Tensor, rows: Tensor) -> Tensor:
    """The one operation of a call, as DSA's default mode has it: the others would do nothing.

    Parameters
    ----------
    x
        (B, C, S, S).
    rows
        (1, 13) for all images or (B, 13), all of one operation, as the rows of
        `pydream.ops.random_augment`.
    """
    rows = rows.to(x.dtype).expand(len(x), -1)
    if (rows[:, 11] > 0).any():
        return erased(x, rows)
    if (rows[:, :3] != rows.new_tensor([0, 1, 1])).any():
        brightness, saturation, contrast = rows[:, :3, None, None, None].unbind(1)
        x = x + brightness
        mean = x.mean(dim=1, keepdim=True)
        x = (x - mean) * saturation + mean
        mean = x.mean(dim=[1, 2, 3], keepdim=True)
        return (x - mean) * contrast + mean
    unit = (rows[:, 3] == 1) & (rows[:, 7] == 1)
    if bool(unit.all()):
        return shifted(x, rows)
    mirrored = rows[:, 3] == -1
    if bool((mirrored | unit).all()):
        return torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return turned(x, rows)


def draw_one(count: int, side: int) -> Tensor:
    """Draw one operation, and its parameters for each image: float32 (count, 13)."""
    word = ("color", "crop", "cutout", "flip", "scale", "rotate")[int(torch.randint(6, ()))]
    return random_augment(count, side, word, seed=int(torch.randint(2**62, ())))


def shifted(x: Tensor, rows: Tensor) -> Tensor:
    """DSA's rand_crop: padding, and a gather by indices."""
    size = x.shape[2]
    image, down, across = torch.meshgrid(
        *(torch.arange(length, device=x.device) for length in (len(x), size, size)), indexing="ij"
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
        *(torch.arange(length, device=x.device) for length in (len(x), extent, extent)),
        indexing="ij",
    )
    down = torch.clamp(down + rows[:, 9].long().view(-1, 1, 1), 0, size - 1)
    across = torch.clamp(across + rows[:, 10].long().view(-1, 1, 1), 0, size - 1)
    mask = torch.ones(len(x), size, size, dtype=x.dtype, device=x.device)
    # A tensor of the device: a number would be copied there with a wait, which no capture allows.
    mask.index_put_((image, down, across), mask.new_zeros(()))
    return x * mask.unsqueeze(1)


def draw_crop(count: int, side: int) -> Tensor:
    """Draw what ``color_crop_cutout`` takes, laid out as the rows of `pydream.ops.random_augment`.

    Returns
    -------
    Tensor
        float32 (count, 13).
    """
    rows = torch.zeros(count, 13)
    rows[:, 0] = torch.rand(count) - 0.5
    rows[:, 1] = torch.rand(count) * 2
    rows[:, 2] = torch.rand(count) + 0.5
    rows[:, 3] = rows[:, 7] = 1.0
    most = int(side * 0.125 + 0.5)
    rows[:, 5] = torch.randint(-most, most + 1, (count,)).float()
    rows[:, 8] = torch.randint(-most, most + 1, (count,)).float()
    extent = int(side * 0.5 + 0.5)
    for column in (9, 10):
        centre = torch.randint(0, side + (1 - extent % 2), (count,))
        rows[:, column] = (centre - extent // 2).float()
    rows[:, 11:] = extent
    return rows
