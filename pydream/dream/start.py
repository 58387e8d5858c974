"""The images of a distilled set, from any tool, as the first images of another run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pydream.errors import PydreamError
from pydream.sets.distilled import DistilledSet
from pydream.sets.export import float_images
from pydream.sets.imported import open_distilled
from pydream.sets.stored_images import StoredImages


def images_of_set(
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    side: int,
    ipc: int,
    factor: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Tensor, list[list[list[str]]]]:
    """Return the images of a distilled set, to begin a run with them.

    Parameters
    ----------
    path
        Anything that `pydream.sets.open_distilled` opens.
    class_names
        Names of the classes of the run, in order. A set that does not name its own has these.
    side, ipc, factor
        Height and width of the images, their number a class, and cells along each side.
    mean, std
        What the images of a file are taken to be normalised with, one number for each channel, if
        their values are beyond [0, 1].

    Returns
    -------
    Tensor
        float32 (K, IPC, 3, S, S), in [0, 1]: from ``images.pt`` if a set of pydream has one, else
        the images in 8 bits.
    list
        For each class and image a list of factor² equal names, that of the set's image.

    Raises
    ------
    PydreamError
        If the set cannot be read, or has images of another side, other classes or another order of
        them, another number of images of a class, or another factor. The factor of a set of another
        tool is not known.
    """
    distilled = open_distilled(path, class_names=class_names, mean=mean, std=std)
    _check(distilled, class_names, side, ipc, factor)
    shape = (len(class_names), ipc, 3, side, side)
    values = float_images(distilled).clamp(0, 1).reshape(shape)
    names = iter(_names(distilled))
    return values, [[[next(names)] * factor**2 for _ in range(ipc)] for _ in class_names]


def _check(
    distilled: DistilledSet, class_names: Sequence[str], side: int, ipc: int, factor: int
) -> None:
    """Raise PydreamError unless a set is as a run makes it."""
    path, manifest, own = distilled.path, distilled.manifest, distilled.class_names
    if len(own) != len(class_names):
        raise PydreamError(
            f"--start {path} has {len(own)} classes, but the real images {len(class_names)}"
        )
    for number, (name, wanted) in enumerate(zip(own, class_names, strict=True)):
        if name != wanted:
            raise PydreamError(
                f"--start {path}: class {number} is {name}, but of the real images {wanted}; the "
                "classes must be the same, in the same order"
            )
    if manifest.side != side:
        raise PydreamError(
            f"--start {path} has images of {manifest.side} pixels a side: give --side "
            f"{manifest.side} in place of {side}"
        )
    counts = torch.bincount(distilled.labels, minlength=len(own)).tolist()
    for name, count in zip(own, counts, strict=True):
        if count != ipc:
            raise PydreamError(
                f"--start {path} has {count} images of class {name}, but --ipc is {ipc}"
            )
    # Other tools do not tell their factor, for which the manifest then has 1.
    known = distilled.is_ours or manifest.factor > 1
    if known and manifest.factor != factor:
        raise PydreamError(
            f"--start {path} has cells of factor {manifest.factor}: give --factor "
            f"{manifest.factor} in place of {factor}"
        )


def _names(distilled: DistilledSet) -> list[str]:
    """Return a name for each image: its file within the set, or its number."""
    path: Path = distilled.path
    if isinstance(distilled.stored, StoredImages):
        return [file.relative_to(path.parent).as_posix() for file in distilled.stored.files]
    return [f"{path.name}#{number}" for number in range(len(distilled.labels))]
