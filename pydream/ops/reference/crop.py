"""Random boxes, random keys and crop_resize in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

STREAM_CROP_BOX = 1
STREAM_PERMUTATION = 2
BOX_TRIES = 10
_WORD = 0xFFFFFFFF


def philox4x32(key: int, counter: Sequence[Tensor | int]) -> list[Tensor]:
    """Philox 4x32-10 on int64 tensors that hold 32-bit words.

    Parameters
    ----------
    key
        The 64 bits of the key.
    counter
        Four words, tensors or numbers that broadcast.

    Returns
    -------
    list of Tensor
        Four words, int64, in [0, 2^32).
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(
        *(
            word if isinstance(word, Tensor) else torch.tensor(word, device="cpu")
            for word in counter
        )
    )
    k0, k1 = key & _WORD, key >> 32 & _WORD
    for _ in range(10):
        p0 = c0 * 0xD2511F53  # wraps at 64 bits as the unsigned product does
        p1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (p1 >> 32 & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            (p0 >> 32 & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0 = (k0 + 0x9E3779B9) & _WORD
        k1 = (k1 + 0xBB67AE85) & _WORD
    return [c0, c1, c2, c3]


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
        counter = (identity & _WORD, identity >> 32 & _WORD, crop, STREAM_CROP_BOX << 16 | attempt)
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
    counter = (ids & _WORD, ids >> 32 & _WORD, draw, STREAM_PERMUTATION << 16)
    high, low, _, _ = philox4x32(seed, counter)
    return high << 31 | low >> 1


def check_crop_values(sizes: Tensor, boxes: Tensor, image_index: Tensor) -> None:
    """Raise ValueError unless every box is inside its image, with the kernels' messages.

    Parameters
    ----------
    sizes
        Int64, (N, 2): height and width of the images.
    boxes
        Int64, (P, 4).
    image_index
        Int64, (P,).
    """
    count = len(sizes)
    for row in torch.nonzero((image_index < 0) | (image_index >= count)).flatten().tolist():
        raise ValueError(
            f"image_index[{row}] = {int(image_index[row])} is out of range for {count} images"
        )
    extent = sizes[image_index]
    corner, size = boxes[:, :2], boxes[:, 2:]
    inside = (corner >= 0) & (corner <= extent) & (size <= extent - corner)
    bad = ~((size > 0) & inside).all(dim=1)
    for row in torch.nonzero(bad).flatten().tolist():
        box = tuple(boxes[row].tolist())
        empty = min(box[2:]) < 1
        raise ValueError(
            f"boxes[{row}] = {box} "
            + ("is empty (top, left, height, width)" if empty else "")
            + ("" if empty else "(top, left, height, width) is not inside its image")
            + f"; image {int(image_index[row])} is {int(extent[row, 0])} high and "
            f"{int(extent[row, 1])} wide"
        )


def crop_resize(
    images: Sequence[Tensor],
    boxes: Tensor,
    size: Sequence[int],
    image_index: Tensor,
    flip: Tensor | None,
    canvas: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    """See `pydream.ops.crop_resize`; `images` is a list of (H, W, C), or of one batch."""
    pictures = list(images[0].unbind()) if images[0].dim() == 4 else list(images)
    channels = images[0].shape[-1]
    sizes = torch.tensor(
        [picture.shape[:2] for picture in pictures], dtype=torch.int64, device="cpu"
    )
    places, sources = boxes.cpu().to(torch.int64), image_index.cpu().to(torch.int64)
    check_crop_values(sizes.reshape(-1, 2), places, sources)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.zeros((len(boxes), channels, *canvas), dtype=dtype, device=boxes.device)
    out = out.contiguous(memory_format=layout)
    first_row, first_column = (canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2
    window = out[:, :, first_row : first_row + size[0], first_column : first_column + size[1]]
    for patch, (top, left, height, width) in enumerate(places.tolist()):
        source = pictures[int(sources[patch])]
        crop = source[top : top + height, left : left + width].permute(2, 0, 1)
        value = _resize(crop.float() / 255, size)
        if flip is not None and bool(flip[patch]):
            value = value.flip(-1)
        if mean is not None and std is not None:
            centre = value.new_tensor(mean)[:, None, None]
            value = (value - centre) / value.new_tensor(std)[:, None, None]
        if dtype == torch.uint8:
            value = (value * 255 + 0.5).floor().clamp(0, 255)
        window[patch] = value.to(dtype)
    return out


def _resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (C, H, W); transposed if one pixel wide, where PyTorch repeats the first row."""
    if size[1] == 1:
        return F.interpolate(image.mT[None], [1, size[0]], mode="bilinear", antialias=True)[0].mT
    return F.interpolate(image[None], list(size), mode="bilinear", antialias=True)[0]
