"""Random boxes and random keys in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pydream.ops.reference.philox import WORD_MASK, philox4x32

STREAM_CROP_BOX = 1
STREAM_PERMUTATION = 2
BOX_TRIES = 10


def random_crop_boxes(
    sizes: Tensor,
    num_crops: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    seed: int,
    ids: Tensor,
) -> Tensor:
    """See `pydream.ops.random_crop_boxes`."""
    height, width = sizes.to(torch.int64)[:, None, :].expand(-1, num_crops, -1).unbind(-1)
    crop = torch.arange(num_crops, device=sizes.device)
    identity = ids.to(torch.int64)[:, None]
    boxes = _central_boxes(height, width, ratio)
    found = torch.zeros_like(height, dtype=torch.bool)
    for attempt in range(BOX_TRIES):
        counter = (
            identity & WORD_MASK,
            identity >> 32 & WORD_MASK,
            crop,
            STREAM_CROP_BOX << 16 | attempt,
        )
        area_word, ratio_word, top_word, left_word = philox4x32(seed, counter)
        share = scale[0] + (scale[1] - scale[0]) * (area_word.double() * 2.0**-32)
        area = height.double() * width.double() * share
        low, high = math.log(ratio[0]), math.log(ratio[1])
        drawn_ratio = torch.exp(low + (high - low) * (ratio_word.double() * 2.0**-32))
        w = torch.sqrt(area * drawn_ratio).round().clamp(max=2.0**31).to(torch.int64)
        h = torch.sqrt(area / drawn_ratio).round().clamp(max=2.0**31).to(torch.int64)
        fits = (w > 0) & (h > 0) & (w <= width) & (h <= height)
        top = top_word * (height - h + 1) >> 32
        left = left_word * (width - w + 1) >> 32
        boxes = torch.where(
            (fits & ~found)[..., None], torch.stack([top, left, h, w], dim=-1), boxes
        )
        found |= fits
    return boxes.to(torch.int32)


def _central_boxes(height: Tensor, width: Tensor, ratio: Sequence[float]) -> Tensor:
    """Return the largest central boxes whose ratio is within bounds."""
    have = width.double() / height.double()
    shorter = (width.double() / ratio[0]).round().clamp(1, 2.0**31).to(torch.int64)
    narrower = (height.double() * ratio[1]).round().clamp(1, 2.0**31).to(torch.int64)
    h = torch.where(have < ratio[0], shorter, height)
    w = torch.where((have > ratio[1]) & (have >= ratio[0]), narrower, width)
    return torch.stack([(height - h) // 2, (width - w) // 2, h, w], dim=-1)


def random_keys(ids: Tensor, seed: int, draw: int) -> Tensor:
    """See `pydream.ops.random_keys`."""
    counter = (ids & WORD_MASK, ids >> 32 & WORD_MASK, draw, STREAM_PERMUTATION << 16)
    high, low, _, _ = philox4x32(seed, counter)
    return high << 31 | low >> 1
