"""Whole real images at the side a network takes: how test images are seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydream.ops import crop_resize

SMALL_SIDE = 64
"""Up to this side, a whole image is resized; above it, its central square is taken."""

_CENTRE_SHARE = 224 / 256  # the usual resize to 256, centre crop of 224


def whole_view_box(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Choose the part of an image that stands for the whole.

    Parameters
    ----------
    height, width
        Of the image, in pixels.
    side
        Of the view, in pixels.

    Returns
    -------
    tuple[int, int, int, int]
        Top, left, height and width of the part to resize to (side, side).
    """
    if side <= SMALL_SIDE:
        return 0, 0, height, width
    square = max(1, round(min(height, width) * _CENTRE_SHARE))
    return (height - square) // 2, (width - square) // 2, square, square


def whole_views(
    images: Sequence[torch.Tensor],
    side: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Bring images to square views.

    Parameters
    ----------
    images
        n of (H, W, C) uint8, each of its own size.
    side
        Of the views, in pixels.
    mean, std
        To normalise with, per channel, on the scale of [0, 1].
    dtype
        Of the views; uint8 stays on the scale of 0 to 255.

    Returns
    -------
    torch.Tensor
        (n, C, side, side).
    """
    boxes = [whole_view_box(image.shape[0], image.shape[1], side) for image in images]
    return crop_resize(
        images,
        torch.tensor(boxes, dtype=torch.int32),
        side,
        mean=mean,
        std=std,
        dtype=dtype,
    )
