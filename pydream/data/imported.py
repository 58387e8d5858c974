"""Distilled sets of other tools, read as sets of ours: image folders and files of tensors."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pydream.data.decode import first_line, read_header
from pydream.data.distilled import (
    FORMAT_VERSION,
    DistilledSet,
    HeldImages,
    StoredImages,
    load_set,
)
from pydream.data.files import FolderTree
from pydream.data.layout import lay_out
from pydream.errors import ImageError, PydreamError

_NUMBERED = re.compile(r"\d{5}")  # RDED's and DD-Ranking's names of class folders
_HALF_LEVEL = 0.5 / 255  # as far beyond [0, 1] a value still rounds to a level of 8 bits
_SUFFIXES = (".pt", ".pth")
# What the accuracies beside the images in DC's results are unpickled by: numbers come of it and
# nothing else. NumPy 1 and 2 have the function at different places.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS_OF_NUMPY: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]
_KINDS = (
    "a set of pydream, a folder of class folders, a .pt or .pth file of [images, labels], or "
    "DD-Ranking's folder with images.pt"
)


def open_distilled(
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> DistilledSet:
    """Open a distilled set, whoever made it.

    Parameters
    ----------
    path
        One of these:

        - a set of pydream;
        - a folder with one folder of images for each class, or with such a folder in ``images/``
          (as RDED and DD-Ranking write them);
        - a ``.pt`` or ``.pth`` file with ``[images, labels]``, or with ``images`` and ``labels``
          in a dict (IDC, DREAM), or with a list of such pairs as ``data`` in a dict, of which the
          first is taken (the results of DC, DSA and DM);
        - such a file with images alone, their labels beside it in a file of the same name with
          ``labels`` for ``images`` (MTT); logits, (N, K), or no labels at all mean images class
          by class, as DD-Ranking takes them;
        - a folder with such an ``images.pt``.

        Images in a file are (N, C, S, S) floating point, with one channel or three. Values in
        [0, 1] are taken as they are, others are undone with `mean` and `std` first.
    class_names
        Names of classes that have only numbers: labels in a file, folders named by five digits.
        By default the numbers are the names. Not looked at where the set itself names its
        classes, as ``info.json`` beside the tensors of `pydream export` does.
    mean, std
        What the images of a file were normalised with, one number for each channel.

    Returns
    -------
    DistilledSet
        Its images class by class, in the order of the file or of the file names.

    Raises
    ------
    PydreamError
        If nothing of this kind is there, a file cannot be read or carries code, images are not
        square or not of one side, classes have unequal numbers of images, or names or numbers do
        not fit.

    Warns
    -----
    RuntimeWarning
        If values lie beyond [0, 1] after `mean` and `std` are undone; they are clipped.
    """
    path = Path(path)
    if (path / "manifest.json").is_file():
        return load_set(path)
    if path.is_dir():
        for folder in (path, path / "images"):
            if _has_numbered_folders(folder):
                return _open_folders(path, folder, class_names)
        if not (path / "images.pt").is_file():
            return _open_folders(path, path, class_names)
    file = path / "images.pt" if path.is_dir() else path
    if not file.is_file():
        raise PydreamError(f"{path} does not exist; give {_KINDS}")
    if file.suffix.lower() not in _SUFFIXES:
        raise PydreamError(f"{path} is no distilled set; give {_KINDS}")
    own_names, factor = _exported_facts(file.with_name("info.json"))
    class_names = own_names or class_names
    images, labels = read_pair(file, class_names)
    labels, order = _sort_by_class(labels, len(images), file, class_names)
    pixels = _to_pixels(images, file, mean, std)[order]
    names = class_names or [str(label) for label in range(int(labels[-1]) + 1)]
    return _imported(path, HeldImages(pixels), labels, names, factor)


def _exported_facts(file: Path) -> tuple[list[str] | None, int]:
    """Read class names and factor from what `pydream export` wrote beside its tensors."""
    if not file.is_file():
        return None, 1
    try:
        info = json.loads(file.read_text())
        if info["package"]["name"] != "pydream-distill":
            return None, 1
        return [str(name) for name in info["class_names"]], int(info["factor"])
    except (ValueError, KeyError, TypeError):  # of somebody else
        return None, 1


def _imported(
    path: Path,
    stored: StoredImages | HeldImages,
    labels: Tensor,
    class_names: Sequence[str],
    factor: int = 1,
) -> DistilledSet:
    """Return the set, with a manifest of what is known."""
    manifest = {
        "format": FORMAT_VERSION,
        "method": "imported",
        "class_names": list(class_names),
        "class_to_idx": {name: index for index, name in enumerate(class_names)},
        "images_per_class": len(labels) // len(class_names),
        "factor": factor,
        "side": stored.side,
    }
    return DistilledSet(path, manifest, stored, labels, tuple(class_names), None)


def _has_numbered_folders(folder: Path) -> bool:
    return folder.is_dir() and any(
        _NUMBERED.fullmatch(each.name) and each.is_dir() for each in folder.iterdir()
    )


def _open_folders(path: Path, root: Path, class_names: Sequence[str] | None) -> DistilledSet:
    """Open a folder of class folders."""
    layout = lay_out(FolderTree(root), "train", str(root))
    names: Sequence[str] = layout.class_names
    if class_names is not None and all(_NUMBERED.fullmatch(name) for name in names):
        if [int(name) for name in names] != list(range(len(class_names))):
            raise PydreamError(
                f"{root}: class folders {names[0]} to {names[-1]}, {len(names)} of them, do not "
                f"fit {len(class_names)} class names; they must be 00000 to "
                f"{len(class_names) - 1:05d}"
            )
        names = class_names
    labels = torch.from_numpy(layout.labels)
    _check_even(labels, len(names), str(root))
    files = [root / layout.root / key for key in layout.keys]
    try:
        first = read_header(files[0].read_bytes())
    except (ImageError, OSError) as error:
        raise PydreamError(f"{files[0]}: {error}") from error
    if first.height != first.width:
        raise PydreamError(
            f"{files[0]}: the image is {first.height}x{first.width}; images of a distilled set "
            "must be square"
        )
    return _imported(path, StoredImages(files, first.height), labels, names)


def read_pair(file: Path, class_names: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Read images and hard labels from a file, or from two that lie beside each other.

    Returns
    -------
    Tensor
        (N, C, S, S) floating point, as they are in the file; C is 1 or 3.
    Tensor
        The labels as they are in the file, not checked.

    Raises
    ------
    PydreamError
        If a file cannot be read, carries code, or holds something else.
    """
    content = _load(file)
    if isinstance(content, Tensor):
        _check_images(content, file)
        return content, _labels_beside(file, len(content), class_names)
    if isinstance(content, dict):
        content = _pair_in(content, file)
    if (
        not isinstance(content, (list, tuple))
        or len(content) != 2
        or not all(isinstance(each, Tensor) for each in content)
    ):
        raise PydreamError(
            f"{file} holds no distilled set: it must be [images, labels], or a dict with images "
            "and labels, all of them tensors"
        )
    _check_images(content[0], file)
    return content[0], content[1]


def _pair_in(content: dict[str, Any], file: Path) -> Any:
    """Take images and labels from a dict: each by its name, or the first of several pairs."""
    pairs = content.get("data")
    if not isinstance(pairs, list) or not pairs:
        return [content.get("images"), content.get("labels")]
    if len(pairs) > 1:
        warnings.warn(
            f"{file} holds the sets of {len(pairs)} experiments; the first is taken",
            RuntimeWarning,
            stacklevel=4,
        )
    return pairs[0]


def _labels_beside(file: Path, num_images: int, class_names: Sequence[str] | None) -> Tensor:
    """Read the labels of images that lie alone in a file; make them where only K is known."""
    beside = file.with_name(file.name.replace("images", "labels"))
    num_classes = 0 if class_names is None else len(class_names)
    if beside != file and beside.is_file():
        labels = _load(beside)
        if not isinstance(labels, Tensor) or labels.dim() not in (1, 2):
            raise PydreamError(f"{beside} must hold a tensor of labels, (N,), or logits, (N, K)")
        if labels.dim() == 1:
            return labels
        num_classes = labels.shape[1]
    if not num_classes:
        raise PydreamError(
            f"{file} holds images without labels: give class names, if they come class by class, "
            "or save [images, labels]"
        )
    if num_images % num_classes:
        raise PydreamError(
            f"{file}: {num_images} images do not divide evenly into {num_classes} classes"
        )
    return torch.arange(num_classes).repeat_interleave(num_images // num_classes)


def _load(file: Path) -> Any:
    """Read a file of torch.save with the reader that runs no code."""
    try:
        with torch.serialization.safe_globals(_NUMBERS_OF_NUMPY):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PydreamError(
            f"{file} cannot be read: it is damaged, or carries objects that could run code; save "
            "it again as torch.save([images, labels], file)"
        ) from error
    except Exception as error:  # bytes that are no such file fail in any way
        raise PydreamError(f"{file} is no file of torch.save: {first_line(error)}") from error


def _sort_by_class(
    labels: Tensor, num_images: int, file: Path, class_names: Sequence[str] | None
) -> tuple[Tensor, Tensor]:
    """Check labels; return them sorted, int64, and the order that sorts them, which is stable."""
    integers = not (labels.is_floating_point() or labels.is_complex())
    if labels.dim() != 1 or not integers or len(labels) != num_images:
        raise PydreamError(
            f"{file}: labels must be one class number for each of {num_images} images, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    labels = labels.long()
    num_classes = int(labels.max()) + 1 if class_names is None else len(class_names)
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise PydreamError(
            f"{file}: labels are {int(labels.min())} to {int(labels.max())}, but must lie in 0 to "
            f"{num_classes - 1}, the number of class names less one"
        )
    _check_even(labels, num_classes, str(file))
    ordered, order = labels.sort(stable=True)
    return ordered, order


def _check_even(labels: Tensor, num_classes: int, where: str) -> None:
    """Raise PydreamError unless all classes have as many images."""
    counts = labels.bincount(minlength=num_classes)
    if counts.min() != counts.max():
        raise PydreamError(
            f"{where}: classes must have equally many images, but {num_classes} classes have "
            f"{int(counts.min())} to {int(counts.max())}"
        )


def _check_images(images: Tensor, file: Path) -> None:
    """Raise PydreamError unless images are finite floating point, (N, 1 or 3, S, S)."""
    shape = tuple(images.shape)
    if not images.is_floating_point() or len(shape) != 4 or shape[1] not in (1, 3) or not shape[0]:
        raise PydreamError(
            f"{file}: images must be floating point of shape (N, 3, S, S) or (N, 1, S, S), got "
            f"{images.dtype} of shape {shape}"
        )
    if shape[2] != shape[3]:
        raise PydreamError(f"{file}: images must be square, they are {shape[2]}x{shape[3]}")
    if not images.isfinite().all():
        raise PydreamError(f"{file}: images hold values that are no finite numbers")


def _to_pixels(
    images: Tensor, file: Path, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Tensor:
    """Bring (N, C, S, S) floating point to (N, S, S, 3) uint8."""
    images = images.detach().float()
    low, high = (float(each) for each in images.aminmax())
    if low < 0 or high > 1:
        images = _undo(images, file, (low, high), mean, std)
    levels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.movedim(1, -1).expand(-1, -1, -1, 3).contiguous()


def _undo(
    images: Tensor,
    file: Path,
    found: tuple[float, float],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Tensor:
    """Take back the normalisation; warn where the result lies beyond [0, 1]."""
    values = f"{file}: values are {found[0]:.4g} to {found[1]:.4g}, beyond [0, 1]"
    channels = images.shape[1]
    if mean is None or std is None:
        raise PydreamError(
            f"{values}: give the mean and std they were normalised with, {channels} numbers each "
            "(0 and 1 if they were not)"
        )
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise PydreamError(
            f"{values}: mean and std must be {channels} numbers each, std above 0, got "
            f"{tuple(mean)} and {tuple(std)}"
        )
    scale, offset = (torch.tensor(list(each)).view(-1, 1, 1) for each in (std, mean))
    images = images * scale + offset
    beyond = ((images < -_HALF_LEVEL) | (images > 1 + _HALF_LEVEL)).float().mean().item()
    if beyond > 0:
        warnings.warn(
            f"{file}: {beyond:.2%} of the values lie beyond [0, 1] when mean and std are undone, "
            "and are clipped",
            RuntimeWarning,
            stacklevel=4,
        )
    return images
