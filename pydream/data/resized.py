"""Whole images of a source, brought to one side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import torch

from pydream.data.base import Source
from pydream.data.prefetch import decode_ahead
from pydream.data.unreadable import Unreadable
from pydream.data.views import whole_view_box
from pydream.errors import ImageError
from pydream.ops import crop_resize

_BUDGET = 128 << 20  # bytes of decoded images that wait
_AT_ONCE = 16 << 20  # bytes of decoded images that are resized in one call
_ROWS = 512


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
    """Bring whole images to one side, in order.

    Parameters
    ----------
    source, indices
        The images, and which of them.
    side
        In pixels. Up to 64 the whole image is resized, above that its central part.
    workers
        Threads that decode.
    unreadable
        Takes note of the images that cannot be read.
    rows
        How many of `indices` a tensor is made of.
    advance
        Told how many of `indices` are done, readable or not, after each tensor.

    Yields
    ------
    tuple[Tensor, list of int]
        (n, side, side, 3) uint8 with n up to `rows`, and their places among `indices`; images that
        cannot be read are left out.

    Raises
    ------
    PydreamError
        If too many cannot be read.
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
                    parts.append(_resized(waiting, side))
                    waiting, size = [], 0
            unreadable.add(errors)
            if waiting:
                parts.append(_resized(waiting, side))
            if places:
                yield (parts[0] if len(parts) == 1 else torch.cat(parts)), places
            if advance is not None:
                advance(len(group))


def load_images(
    source: Source, indices: Sequence[int], side: int, *, workers: int, unreadable: Unreadable
) -> torch.Tensor:
    """Decode images and bring them to one side.

    Parameters
    ----------
    source, indices, side, workers, unreadable
        As in `whole_images`.

    Returns
    -------
    Tensor
        (n, side, side, 3) uint8, one for each index; black where an image cannot be read.

    Raises
    ------
    PydreamError
        If too many cannot be read.
    """
    images = torch.zeros(len(indices), side, side, 3, dtype=torch.uint8)
    groups = whole_images(source, indices, side, workers=workers, unreadable=unreadable)
    for views, places in groups:
        images[places] = views
    return images


def _resized(images: list[torch.Tensor], side: int) -> torch.Tensor:
    boxes = [whole_view_box(image.shape[0], image.shape[1], side) for image in images]
    views = crop_resize(
        images,
        torch.tensor(boxes, dtype=torch.int32),
        side,
        dtype=torch.uint8,
        channels_last=True,
    )
    return views.permute(0, 2, 3, 1)
