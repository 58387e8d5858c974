"""From what a user names to a source of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydream.data import arrays, files
from pydream.data.base import Source
from pydream.data.layout import find_splits
from pydream.errors import PydreamError

__all__ = ["Source", "SourceSpec", "has_split", "open_source"]

SourceSpec = str | os.PathLike[str] | Source | tuple[Any, Any]
"""What names a source; see `open_source`."""

_KINDS = "a folder of class folders, .zip, .tar, .npz, digits, " + ", ".join(
    f"{name}:ROOT" for name in arrays.TORCHVISION_SETS
)


def open_source(spec: SourceSpec, split: str = "train") -> Source:
    """Open a labelled set of images.

    Parameters
    ----------
    spec
        One of

        - a folder, ``.zip`` or uncompressed ``.tar`` with one folder per class, of any name
          (``ROOT/<class>/…/<image>``), or with splits above them (``ROOT/train/<class>/…`` and
          ``ROOT/test/…``, or ``val``, ``validation``, ``valid``), below any number of wrapper
          folders. Archives are read in place. Hidden files and ``__MACOSX`` are left out.
        - an ``.npz`` file with ``images``, uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3), and
          ``labels``, integers (N,) without gaps; optionally ``class_names``, strings (C,), and
          ``test_images`` and ``test_labels``.
        - ``"digits"``, the digits of scikit-learn, 8 × 8.
        - ``"cifar10:ROOT"``, ``"cifar100:ROOT"``, ``"mnist:ROOT"``, ``"fashion-mnist:ROOT"``,
          ``"svhn:ROOT"``: the files of torchvision's sets below ROOT. Nothing is downloaded.
        - a pair (images, labels) of tensors or arrays as in an ``.npz`` file.
        - a source, which is returned as it is.
    split
        ``"train"`` or ``"test"``. A set without splits is all train.

    Returns
    -------
    Source
        The images of the split.

    Raises
    ------
    PydreamError
        When the source is missing, empty, damaged or not laid out as above, or has no such split.
    ValueError
        When `split` is neither.
    """
    _check_split(split)
    if isinstance(spec, Source):
        if spec.split != split:
            raise PydreamError(f"{spec.description}: no {split} split: it is open as {spec.split}")
        return spec
    if isinstance(spec, tuple):
        return arrays.open_arrays(*_pair(spec), split)
    if spec == "digits":
        return arrays.open_digits(split)
    if (named := _torchvision_name(spec)) is not None:
        return arrays.open_torchvision(*named, split)
    path = _existing(spec)
    if path.suffix.lower() == ".npz" and path.is_file():
        return arrays.open_npz(path, split)
    return files.FileSource(files.open_tree(path), str(path), split)


def has_split(spec: SourceSpec, split: str) -> bool:
    """Whether a source has a split; arguments as in `open_source`.

    Raises
    ------
    PydreamError
        When the source is missing or damaged.
    ValueError
        When `split` is neither ``"train"`` nor ``"test"``.
    """
    _check_split(split)
    if isinstance(spec, Source):
        return spec.split == split
    if isinstance(spec, tuple):
        return split == "train"
    if spec == "digits" or _torchvision_name(spec) is not None:
        return True
    path = _existing(spec)
    if path.suffix.lower() == ".npz" and path.is_file():
        return split == "train" or arrays.npz_has_test(path)
    return split in find_splits(files.open_tree(path))


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')


def _pair(spec: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(spec) != 2:
        raise PydreamError(f"a source in memory is a pair (images, labels), got {len(spec)} items")
    return spec[0], spec[1]


def _torchvision_name(spec: str | os.PathLike[str]) -> tuple[str, Path] | None:
    """Name and root of ``name:ROOT``; None when it is no such spec."""
    name, colon, root = str(spec).partition(":")
    if name not in arrays.TORCHVISION_SETS:
        return None
    if not root:
        if not colon and Path(name).exists():
            return None
        raise PydreamError(f"{name}: which files? Name the folder that holds them: {name}:ROOT")
    return name, Path(root).expanduser()


def _existing(spec: str | os.PathLike[str]) -> Path:
    """Path of a source that is there and of a kind that can be read."""
    path = Path(spec).expanduser()
    if not path.exists():
        raise PydreamError(f"{path}: no such source; give {_KINDS}")
    if path.is_dir() or path.suffix.lower() in (".zip", ".tar", ".npz"):
        return path
    if path.name.lower().endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise PydreamError(f"{path}: a compressed tar cannot be read in place; decompress it first")
    raise PydreamError(f"{path}: not a source; give {_KINDS}")
