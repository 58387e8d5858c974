"""Whole images of a source, resized to the side of a network's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from pydream.data.prefetch import decode_ahead
from pydream.data.source import Source
from pydream.data.unreadable import Unreadable
from pydream.errors import ImageError, PydreamError
from pydream.ops import crop_resize

SMALL_SIDE = 64
"""Largest side at which a whole image is resized; above it, the central square is used."""

_CENTRE_SHARE = 224 / 256  # the usual resize to 256, centre crop of 224
_LARGE_SIDE = 224
_LOOKED_AT = 9  # images, spread over the source, that decide the side
_BUDGET = 128 << 20  # bytes of decoded images that may wait
_AT_ONCE = 16 << 20  # bytes of decoded images that are resized in one call
_ROWS = 512


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory, all of one side, with their classes.

    Attributes
    ----------
    images
        (N, S, S, 3) uint8; float32 if they are whitened.
    labels
        (N,) int64, on the same device.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def side_of(source: Source) -> int:
    """Return the side of small images, or the usual 224.

    A few images decide, because some photographs of a large set are tiny. If at least half of these
    have a side up to 64, the result is the side of the first of them.

    Raises
    ------
    PydreamError
        If none of these images can be read.
    """
    sides: list[int] = []
    reason = ""
    for index in np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).round().astype(int)):
        try:
            sides.append(min(source.image(int(index)).shape[:2]))
        except ImageError as error:
            reason = reason or f"{source.keys[index]} cannot be read: {error}"
    if not sides:
        raise PydreamError(f"{source.description}: {reason}; give --side")
    small = [side for side in sides if side <= SMALL_SIDE]
    return small[0] if 2 * len(small) >= len(sides) else _LARGE_SIDE


def whole_view_box(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Choose the part of an image that represents the whole.

    Parameters
    ----------
    height, width
        Height and width of the image, in pixels.
    side
        Side of the view, in pixels.

    Returns
    -------
    tuple[int, int, int, int]
        Top, left, height and width of the part to resize to (side, side).
    """
    if side <= SMALL_SIDE:
        return 0, 0, height, width
    square = max(1, round(min(height, width) * _CENTRE_SHARE))
    return (height - square) // 2, (width - square) // 2, square, square


def whole_view_boxes(images: Sequence[torch.Tensor], side: int) -> torch.Tensor:
    """Return `whole_view_box` of n images (H, W, C): (n, 4) int32, for a view of this side."""
    boxes = [whole_view_box(image.shape[0], image.shape[1], side) for image in images]
    return torch.tensor(boxes, dtype=torch.int32).reshape(-1, 4)


def whole_views(
    images: Sequence[torch.Tensor],
    side: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Resize images to square views.

    Parameters
    ----------
    images
        n images (H, W, C) uint8 of any sizes.
    side
        Side of the views, in pixels.
    mean, std
        Mean and standard deviation to normalise with, per channel, on the scale of [0, 1].
    dtype
        Dtype of the views; uint8 keeps the scale of 0 to 255.

    Returns
    -------
    torch.Tensor
        (n, C, side, side), channels-last.
    """
    return crop_resize(
        images,
        whole_view_boxes(images, side),
        side,
        mean=mean,
        std=std,
        dtype=dtype,
        channels_last=True,
    )


def whole_images(
    source: Source,
    indices: Sequence[int],
    side: int,
    *,
    workers: int,
    unreadable: Unreadable,
    rows: int = _ROWS,
    advance: Callable[[int], None] | None = None,
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Resize whole images to one side, in order.

    Parameters
    ----------
    source, indices
        The images, and the indices of those to return.
    side
        Side in pixels. Up to 64 the whole image is resized, above it the central part.
    workers
        Number of threads that decode.
    unreadable
        Record of the images that cannot be read.
    rows
        Number of `indices` per tensor.
    advance
        Called after each tensor with the number of `indices` done, readable or not.

    Yields
    ------
    tuple[Tensor, list of int]
        (n, side, side, 3) uint8 with n up to `rows`, and their positions in `indices`; unreadable
        images are left out.

    Raises
    ------
    PydreamError
        If too many images cannot be read.
    """
    return fitted_images(
        source,
        indices,
        lambda images, _: _small(images, side),
        workers=workers,
        unreadable=unreadable,
        rows=rows,
        advance=advance,
    )


def fitted_images(
    source: Source,
    indices: Sequence[int],
    fit: Callable[[list[torch.Tensor], list[int]], torch.Tensor],
    *,
    workers: int,
    unreadable: Unreadable,
    rows: int = _ROWS,
    advance: Callable[[int], None] | None = None,
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Decode images and bring them to one shape, in order, some of them at a time.

    Parameters
    ----------
    source, indices, workers, unreadable, rows, advance
        The same as for `whole_images`.
    fit
        Function of decoded images, (H, W, 3) uint8 each, and their positions in `indices`, that
        returns them in one tensor.

    Yields
    ------
    tuple[Tensor, list of int]
        What `fit` makes of up to `rows` images, and their positions in `indices`; unreadable images
        are left out.

    Raises
    ------
    PydreamError
        If too many images cannot be read.
    """
    decoded = decode_ahead(source, indices, workers=workers, budget=_BUDGET)
    with closing(decoded):
        for start in range(0, len(indices), rows):
            group = range(start, min(start + rows, len(indices)))
            places: list[int] = []
            parts: list[torch.Tensor] = []
            waiting: list[torch.Tensor] = []
            errors: dict[int, str] = {}
            size = 0
            for place, image in zip(group, decoded, strict=False):
                if isinstance(image, ImageError):
                    errors[int(indices[place])] = str(image)
                    continue
                places.append(place)
                waiting.append(image)
                size += image.nbytes
                if size >= _AT_ONCE:
                    parts.append(fit(waiting, places[-len(waiting) :]))
                    waiting, size = [], 0
            unreadable.add(errors)
            if waiting:
                parts.append(fit(waiting, places[-len(waiting) :]))
            if places:
                yield (parts[0] if len(parts) == 1 else torch.cat(parts)), places
            if advance is not None:
                advance(len(group))


def load_images(
    source: Source, indices: Sequence[int], side: int, *, workers: int, unreadable: Unreadable
) -> torch.Tensor:
    """Decode images and resize them to one side.

    Parameters
    ----------
    source, indices, side, workers, unreadable
        The same as for `whole_images`.

    Returns
    -------
    Tensor
        (n, side, side, 3) uint8, in the order of the indices; black for an unreadable image.

    Raises
    ------
    PydreamError
        If too many images cannot be read.
    """
    images = torch.zeros(len(indices), side, side, 3, dtype=torch.uint8)
    groups = whole_images(source, indices, side, workers=workers, unreadable=unreadable)
    for views, places in groups:
        images[places] = views
    return images


def load_split(
    source: Source, side: int, *, workers: int, device: torch.device, allow_skipped: float = 0.01
) -> LabelledImages:
    """Decode all images of a source and resize them to one side.

    Parameters
    ----------
    source
        The split of a set.
    side
        Side in pixels. Up to 64 the whole image is resized, above it the central part.
    workers
        Number of threads that decode.
    device
        Device that stores the images.
    allow_skipped
        Largest share of the images that may be unreadable; these are left out, counted and named.

    Raises
    ------
    PydreamError
        If more images cannot be read, or none can.
    """
    unreadable = Unreadable(source, len(source), allow_skipped)
    images = load_images(source, range(len(source)), side, workers=workers, unreadable=unreadable)
    unreadable.say()
    readable = np.setdiff1d(np.arange(len(source)), list(unreadable.reasons))
    if not len(readable):
        raise PydreamError(f"{source.description}: none of {len(source)} images can be read")
    labels = torch.from_numpy(source.labels[readable].astype(np.int64))
    if unreadable.reasons:
        images = images[torch.from_numpy(readable)]
    return LabelledImages(images.to(device), labels.to(device))


def _small(images: list[torch.Tensor], side: int) -> torch.Tensor:
    """Return whole images as (n, side, side, 3) uint8."""
    return whole_views(images, side, dtype=torch.uint8).permute(0, 2, 3, 1)
