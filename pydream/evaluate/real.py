"""Real images in memory: the test split, and random images as a baseline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import Source
from pydream.data.resized import load_images
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError
from pydream.evaluate.measure import RealImages
from pydream.ops import random_keys

_DRAW = 3  # the purpose of these random keys; RDED draws with 1 and 2


def load_test_images(
    source: Source, side: int, *, workers: int, device: torch.device, allow_skipped: float = 0.01
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
    allow_skipped
        Share of the images that may be unreadable; these are left out, counted and named.

    Raises
    ------
    PydreamError
        If more of them cannot be read, or none can.
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
    unreadable = Unreadable(source, len(source), None)
    while True:
        chosen = np.concatenate(
            [
                _first(source, label, keys, unreadable, per_class)
                for label in range(len(source.class_names))
            ]
        )
        known = len(unreadable.reasons)
        images = load_images(source, chosen.tolist(), side, workers=workers, unreadable=unreadable)
        if len(unreadable.reasons) == known:
            unreadable.say()
            return RealImages(images, torch.from_numpy(source.labels[chosen].astype(np.int64)))


def _first(
    source: Source,
    label: int,
    keys: npt.NDArray[np.int64],
    unreadable: Unreadable,
    count: int,
) -> npt.NDArray[np.int64]:
    """Return the readable images of a class that have the lowest keys."""
    indices = source.class_indices(label)
    usable = indices[~np.isin(indices, list(unreadable.reasons))]
    if not len(usable):
        raise PydreamError(
            f"{source.description}: class {source.class_names[label]} has no readable image"
        )
    return usable[np.argsort(keys[usable], kind="stable")[:count]]
