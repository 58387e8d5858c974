"""Real images in memory: the test split, and random images as a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import Source, decode_ahead
from pydream.data.views import whole_view_box
from pydream.errors import ImageError, PydreamError
from pydream.evaluate.measure import RealImages
from pydream.ops import crop_resize, random_keys

_DRAW = 3  # the purpose of these random keys; RDED draws with 1 and 2
_BUDGET = 128 << 20  # bytes of decoded images that wait
_GROUP = 16 << 20  # bytes of decoded images that are resized in one call


def load_test_images(
    source: Source, side: int, *, workers: int, device: torch.device
) -> RealImages:
    """Decode all images of a source and bring them to one side.

    Parameters
    ----------
    source
        The test split.
    side
        In pixels. Up to 64 the whole image is resized, above that its central part.
    workers
        Threads that decode.
    device
        Where the images are kept.

    Raises
    ------
    PydreamError
        If an image cannot be read: an accuracy on the rest would be another measure.
    """
    images, errors = load_images(source, range(len(source)), side, workers)
    if errors:
        place, reason = next(iter(errors.items()))
        more = f" ({len(errors) - 1} more cannot be read either)" if len(errors) > 1 else ""
        raise PydreamError(
            f"{source.description}: test image {source.keys[place]} cannot be read: {reason}{more}"
        )
    labels = torch.from_numpy(source.labels.astype(np.int64))
    return RealImages(images.to(device), labels.to(device))


def random_real_images(
    source: Source, per_class: int, side: int, *, seed: int, workers: int
) -> RealImages:
    """Draw random images of every class, as many as a distilled set has.

    Images of a class are put in an order that follows from the seed and their identity, and the
    first ones that can be read are taken: all of them where a class has fewer.

    Parameters
    ----------
    source
        The training split.
    per_class
        Images of each class.
    side
        In pixels; as for `load_test_images`.
    seed
        In [0, 2^63).
    workers
        Threads that decode.

    Raises
    ------
    PydreamError
        If no image of some class can be read.
    """
    ids = torch.from_numpy(source.ids)
    keys = random_keys(ids, seed=seed, draw=_DRAW).numpy()
    unreadable: set[int] = set()
    while True:
        chosen = np.concatenate(
            [
                _first(source, label, keys, unreadable, per_class)
                for label in range(len(source.class_names))
            ]
        )
        images, errors = load_images(source, chosen.tolist(), side, workers)
        if not errors:
            return RealImages(images, torch.from_numpy(source.labels[chosen].astype(np.int64)))
        unreadable.update(errors)


def _first(
    source: Source,
    label: int,
    keys: npt.NDArray[np.int64],
    unreadable: set[int],
    count: int,
) -> npt.NDArray[np.int64]:
    """Return the readable images of a class that have the lowest keys."""
    indices = source.class_indices(label)
    usable = indices[~np.isin(indices, list(unreadable))]
    if not len(usable):
        raise PydreamError(
            f"{source.description}: class {source.class_names[label]} has no readable image"
        )
    return usable[np.argsort(keys[usable], kind="stable")[:count]]


def load_images(
    source: Source, indices: Sequence[int], side: int, workers: int
) -> tuple[torch.Tensor, dict[int, str]]:
    """Decode images and bring them to one side.

    Parameters
    ----------
    source
        Where they are.
    indices
        Which, n of them.
    side
        In pixels; as for `load_test_images`.
    workers
        Threads that decode.

    Returns
    -------
    Tensor
        (n, side, side, 3) uint8; black where an image cannot be read.
    dict[int, str]
        By index, which those are and why.
    """
    images = torch.zeros(len(indices), side, side, 3, dtype=torch.uint8)
    errors: dict[int, str] = {}
    for places, decoded in _groups(source, indices, errors, workers):
        sizes = [(each.shape[0], each.shape[1]) for each in decoded]
        boxes = torch.tensor([whole_view_box(height, width, side) for height, width in sizes])
        resized = crop_resize(decoded, boxes, side, dtype=torch.uint8, channels_last=True)
        images[places] = resized.permute(0, 2, 3, 1)
    return images, errors


def _groups(
    source: Source, indices: Sequence[int], errors: dict[int, str], workers: int
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """Give out decoded images, some megabytes at a time, with their places among the indices."""
    places: list[int] = []
    images: list[torch.Tensor] = []
    size = 0
    decoded = decode_ahead(source, indices, workers=workers, budget=_BUDGET)
    for place, image in enumerate(decoded):
        if isinstance(image, ImageError):
            errors[int(indices[place])] = str(image)
            continue
        places.append(place)
        images.append(image)
        size += image.nbytes
        if size >= _GROUP:
            yield places, images
            places, images, size = [], [], 0
    if images:
        yield places, images
