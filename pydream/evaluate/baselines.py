"""Real images as baselines for a distilled set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pydream.data import Source
from pydream.data.resized import LabelledImages, load_images, load_split, whole_images
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError
from pydream.evaluate.coresets import herding, k_centre
from pydream.models import Observer
from pydream.ops import random_keys
from pydream.progress import track
from pydream.seeds import Draw

_MOST_BYTES = 16 << 30  # in all images together
_AT_ONCE = 1024  # number of images decoded and embedded at a time


def baseline_images(
    name: str,
    source: Source,
    per_class: int,
    side: int,
    *,
    seed: int,
    observer: Observer | None,
    workers: int,
    allow_skipped: float = 0.01,
) -> LabelledImages:
    """Return the images of a baseline.

    Parameters
    ----------
    name
        ``"random"``, ``"herding"``, ``"k-centre"`` or ``"full"``.
    source
        The training split.
    per_class
        Number of images per class, or all of a smaller class; ignored for ``"full"``.
    side
        Side of the images, in pixels.
    seed
        Random seed of the baseline ``random``; the others do not depend on it.
    observer
        Observer whose features select the coresets.
    workers
        Number of threads that decode.
    allow_skipped
        Largest share of the images that may be unreadable, for baselines that read all of them.

    Raises
    ------
    PydreamError
        If too many images are unreadable, all images of a class are, a coreset has no observer, or
        the images exceed the memory limit.
    """
    if name == "random":
        return random_real_images(source, per_class, side, seed=seed, workers=workers)
    if name == "full":
        return _all_images(source, side, workers, allow_skipped)
    if observer is None:
        raise PydreamError(f"the {name} coreset needs an observer's features: give --observer")
    unreadable = Unreadable(source, len(source), allow_skipped)
    rows = _coreset(name, source, per_class, side, observer, workers, unreadable)
    unreadable.say()
    images = load_images(source, rows.tolist(), side, workers=workers, unreadable=unreadable)
    return LabelledImages(images, torch.from_numpy(source.labels[rows].astype(np.int64)))


def random_real_images(
    source: Source, per_class: int, side: int, *, seed: int, workers: int
) -> LabelledImages:
    """Draw random images of every class, as many as a distilled set has.

    Seed and identity decide the order of a class's images, and the first readable ones are taken,
    or all of a smaller class.

    Parameters
    ----------
    source
        The training split.
    per_class
        Number of images per class.
    side
        Side of the images, in pixels, the same as for `load_split`.
    seed
        Random seed, in [0, 2^63).
    workers
        Number of threads that decode.

    Raises
    ------
    PydreamError
        If all images of a class are unreadable.
    """
    ids = torch.from_numpy(source.ids)
    keys = random_keys(ids, seed=seed, draw=Draw.RANDOM_BASELINE).numpy()
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
            return LabelledImages(images, torch.from_numpy(source.labels[chosen].astype(np.int64)))


def _first(
    source: Source,
    label: int,
    keys: npt.NDArray[np.int64],
    unreadable: Unreadable,
    count: int,
) -> npt.NDArray[np.int64]:
    """Return the readable images of a class with the lowest keys."""
    indices = source.class_indices(label)
    usable = indices[~np.isin(indices, list(unreadable.reasons))]
    if not len(usable):
        raise PydreamError(
            f"{source.description}: class {source.class_names[label]} has no readable image"
        )
    return usable[np.argsort(keys[usable], kind="stable")[:count]]


def _coreset(
    name: str,
    source: Source,
    per_class: int,
    side: int,
    observer: Observer,
    workers: int,
    unreadable: Unreadable,
) -> npt.NDArray[np.int64]:
    """Choose rows of a source by the features of all its readable images."""
    order = np.concatenate([source.class_indices(c) for c in range(len(source.class_names))])
    features: list[torch.Tensor] = []
    readable: list[int] = []
    with track(f"features for {name}", len(order), "images") as advance:
        for images, places in whole_images(
            source,
            order.tolist(),
            side,
            workers=workers,
            unreadable=unreadable,
            rows=_AT_ONCE,
            advance=advance,
        ):
            features.append(observer.features(observer.views(images.to(observer.device))))
            readable += places
    rows = order[np.asarray(readable, dtype=np.int64)]
    lengths = np.bincount(source.labels[rows], minlength=len(source.class_names))
    if (lengths == 0).any():
        missing = source.class_names[int(np.argmin(lengths))]
        raise PydreamError(f"{source.description}: class {missing} has no readable image")
    offsets = [0, *np.cumsum(lengths).tolist()]
    choose = herding if name == "herding" else k_centre
    chosen = torch.cat(choose(torch.cat(features), offsets, per_class)).cpu().numpy()
    picked: npt.NDArray[np.int64] = rows[chosen]
    return picked


def _all_images(source: Source, side: int, workers: int, allow_skipped: float) -> LabelledImages:
    size = len(source) * 3 * side**2
    if size > _MOST_BYTES:
        raise PydreamError(
            f"{source.description}: all {len(source):,} images are {size >> 30} GiB at {side} "
            f"pixels a side, above the {_MOST_BYTES >> 30} GiB that are held; leave out the "
            "baseline full"
        )
    return load_split(
        source, side, workers=workers, device=torch.device("cpu"), allow_skipped=allow_skipped
    )
