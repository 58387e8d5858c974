"""crop_resize in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


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


def images_of_boxes(images: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Return the image of each box where each image has equally many: int64 (P,), on the CPU."""
    count = images[0].shape[0] if images[0].dim() == 4 else len(images)
    each = max(boxes.shape[0] // max(count, 1), 1)
    return torch.arange(boxes.shape[0], device="cpu") // each


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
