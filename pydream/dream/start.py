"""A distilled set as the first images of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pydream.dream.real import ClassImages
from pydream.dream.resolved import ResolvedConfig
from pydream.errors import PydreamError
from pydream.sets.distilled import DistilledSet
from pydream.sets.imported import find_tensors, open_distilled
from pydream.sets.opening import check_image_files
from pydream.sets.tensor_files import labels_beside


def start_fingerprint(config: ResolvedConfig, class_names: Sequence[str]) -> str | None:
    """Return a hash of the set that a run starts from; None as for `open_start`.

    Tensors are hashed as files, with those of their labels, also where a set of pydream has its
    images as image files beside them: `first_images` come from the tensors.

    Raises
    ------
    PydreamError
        If it is no set, or its image files do not match its manifest.
    """
    if config.starts_from in ("real", "noise"):
        return None
    path = Path(config.starts_from)
    tensors = find_tensors(path) if path.is_dir() else path
    if tensors is None or not tensors.is_file():
        distilled = open_distilled(path, class_names=class_names)
        check_image_files(distilled)
        return distilled.images_sha256
    digest = hashlib.sha256()
    for file in (tensors, *labels_beside(tensors)):
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise PydreamError(
                f"{file} cannot be read: {error.strerror or error}; start from another set"
            ) from error
    return digest.hexdigest()


def open_start(
    config: ResolvedConfig, class_names: Sequence[str], real: ClassImages
) -> DistilledSet | None:
    """Open the set that a run starts from; None if it starts from real images or noise.

    Parameters
    ----------
    config
        Resolved settings.
    class_names
        Names of the classes of the real images, in order.
    real
        The real images. Tensors of another tool with values beyond [0, 1] are taken to be
        normalised with their mean and standard deviation, or whitened with their whitening.

    Raises
    ------
    PydreamError
        If it is no set, or does not fit: other classes, another order of them, another number of
        images of a class, another side or another factor.
    """
    if config.starts_from in ("real", "noise"):
        return None
    path = Path(config.starts_from)
    whitening = None if real.whitening is None else real.whitening.to(torch.device("cpu"))
    distilled = open_distilled(
        path,
        class_names=class_names,
        **(
            {"mean": real.mean.tolist(), "std": real.std.tolist()}
            if whitening is None
            else {"zca": lambda _: whitening}
        ),
    )
    if distilled.class_names != tuple(class_names):
        raise PydreamError(
            f"{path} has other classes than the source, or in another order "
            f"({_first_difference(distilled.class_names, class_names)}): start from another set"
        )
    counts = {*distilled.labels.bincount(minlength=len(class_names)).tolist()}
    if counts != {config.ipc}:
        found = " to ".join(map(str, sorted({min(counts), max(counts)})))
        raise PydreamError(
            f"{path} has {found} images of a class, not {config.ipc}: give --ipc, or start from "
            "another set"
        )
    if distilled.stored.side != config.side:
        side = distilled.stored.side
        raise PydreamError(
            f"{path} has images of {side} pixels a side, not {config.side}: give --side {side}, or "
            "start from another set"
        )
    if distilled.is_ours and distilled.manifest.factor != config.factor:
        factor = distilled.manifest.factor
        raise PydreamError(
            f"{path} has {factor} × {factor} cells in an image, and factor is {config.factor}: "
            f"give --factor {factor}"
        )
    return distilled


def first_images(distilled: DistilledSet, ipc: int) -> Tensor:
    """Return the images of a set, class by class: float32 (K, IPC, 3, S, S), in [0, 1].

    They come from ``images.pt`` of a set of pydream, which is not rounded to 8 bits.
    """
    images = distilled.float_images
    return images.view(-1, ipc, *images.shape[1:])


def _first_difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)} classes, not {len(ours)}"
    number = next(at for at, pair in enumerate(zip(theirs, ours, strict=True)) if len({*pair}) > 1)
    return f"class {number} is {theirs[number]!r}, not {ours[number]!r}"
