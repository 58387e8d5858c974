"""Distilled sets of other tools, opened like pydream's: image folders and files of tensors."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pydream.data.class_folders import find_class_folders
from pydream.data.decode import read_header
from pydream.data.files import FolderTree
from pydream.data.layout import Layout
from pydream.data.source import Source
from pydream.data.sources import open_parquet
from pydream.data.whitening import Whitening, whitening_record
from pydream.entry_types import (
    is_mapping,
    is_positive,
    is_text,
    list_of,
    mapping_of,
    one_of,
    or_none,
    parse_json,
)
from pydream.errors import ImageError, PydreamError
from pydream.formatting import listed
from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.manifest import FORMAT_VERSION, Manifest, one_count_or_each
from pydream.sets.parquet_sets import manifest_of_card
from pydream.sets.stored_images import ImagesInMemory, SetImages, SourceImages, StoredImages
from pydream.sets.tensor_files import (
    LabelledTensors,
    may_be_whitened,
    read_soft_labels,
    read_tensors,
    to_levels,
    to_pixels,
)
from pydream.versions import PACKAGE

_NUMBERED = re.compile(r"\d{5}")  # names of class folders in RDED and DD-Ranking
_NUMBER = re.compile(r"\d+")
_SUFFIXES = (".pt", ".pth")
_TENSORS = ("images.pt", "data.pt", "res.pt", "images_best.pt")  # the last two as exports have them
_MOST_CLASSES = 1_000_000  # a damaged label may be of any size
_FACTS = {"class_names": list_of(is_text), "factor": is_positive}
_OTHER_FACTS = {"views": or_none(one_of("crop", "dsa")), "whitening": or_none(is_mapping)}
_is_ours = mapping_of({"package": mapping_of({"name": one_of(PACKAGE)}), **_FACTS}, _OTHER_FACTS)
_KINDS = (
    "a set of pydream, a folder of class folders or of parquet files, a .pt or .pth file of "
    f"[images, labels], or a folder with {', '.join(_TENSORS[:-1])} or {_TENSORS[-1]}"
)


def open_distilled(
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    zca: Callable[[int], Whitening] | None = None,
) -> DistilledSet:
    """Open a distilled set, from pydream or another tool.

    Parameters
    ----------
    path
        One of these:

        - a set of pydream;
        - a folder with one folder of images for each class, or with such a folder in ``images/`` or
          ``medium/`` (as RDED, DD-Ranking and CV-DD have them);
        - a ``.pt`` or ``.pth`` file with ``[images, labels]``, or with ``images`` and ``labels``
          in a dict (IDC, DREAM, CIM; also under the names ``data`` and ``label``), or with a list
          of such pairs as ``data`` in a dict, of which the first is taken (the results of DC, DSA
          and DM);
        - such a file with images alone, their labels beside it in a file of the same name with
          ``labels`` for ``images`` (MTT, DATM); without any labels the images are taken class by
          class;
        - a folder with such an ``images.pt``, ``data.pt``, ``res.pt`` or ``images_best.pt``,
          the first of them;
        - a ``.parquet`` file or a folder of them, with images and labels, as for `open_source`.

        Images in a file are (N, C, S, S), with one channel or three: uint8, or floating point in
        [0, 1] or in [0, 255] and reaching 8; `mean` and `std` are undone for other values. Labels
        are class numbers, (N,); one-hot rows; or soft labels, (N, K) logits or probabilities. Soft
        labels may also accompany hard labels, under the name ``soft_labels`` in the dict, or in a
        file with ``soft_labels`` for ``images`` in its name.
    class_names
        Names of the classes of the real images, in order. They apply to labels in a file, and to
        class folders that only number the classes (``00000``, ``new000``, ``0`` to ``10``), which
        are matched by number. Folders with exactly these names come in this order. Ignored if the
        set itself names its classes, as ``info.json`` beside the tensors of `pydream export` does.
    classes
        Text file with the name of each class on its own line, in the order of the numbers or, in
        natural order, of the folders. It takes precedence over all other names. A set of pydream
        names its own classes and takes no such file.
    mean, std
        Mean and standard deviation that the images of a file were normalised with, per channel.
    zca
        Function of a side, in pixels, that returns the whitening of images of that side, such as
        `pydream.data.whitening.whitening_of` with the training images. Without `mean` and `std`,
        values of a file beyond [0, 1] are taken to be whitened, and that is undone.

    Returns
    -------
    DistilledSet
        Its images sorted by class, in the order of the file or of the file names. With only soft
        labels, the images of a file keep their order, and the class of each is the likeliest one.
        If that gave classes different numbers of images, they are instead read class by class, as
        DD-Ranking does.

    Raises
    ------
    PydreamError
        If there is no set, a file cannot be read or carries code, images are not square or differ
        in side, classes have different numbers of images, or names, numbers or soft labels do not
        fit.

    Warns
    -----
    RuntimeWarning
        If values are outside [0, 1] after `mean` and `std` are undone (they are clipped), if
        folders are matched with `class_names` by number, or if soft labels favour another class
        than the image's.
    """
    path = Path(path)
    if (path / "manifest.json").is_file():
        if classes is not None:
            raise PydreamError(
                f"{path} is a set of pydream and names its classes: leave out --classes"
            )
        return load_set(path)
    given = None if classes is None else read_class_names(classes)
    if (source := open_parquet(path)) is not None:
        return _open_parquet(path, source, given)
    if path.is_dir():
        for folder in (path, path / "images", path / "medium"):
            if _has_numbered_folders(folder):
                return _open_folders(path, folder, class_names, given)
        found = find_tensors(path)
        if found is None:
            return _open_folders(path, path, class_names, given)
        file = found
    else:
        file = path
    if not file.is_file():
        raise PydreamError(f"{path} does not exist; give {_KINDS}")
    if file.suffix.lower() not in _SUFFIXES:
        raise PydreamError(f"{path} is not a distilled set; give {_KINDS}")
    info = _exported_facts(file.with_name("info.json"))
    names = given or info.get("class_names") or class_names
    held = read_tensors(file)
    labels, order = _label(held, file, names)
    soft = None if held.soft_labels is None else held.soft_labels[order]
    names = names or [str(label) for label in range(int(labels.max()) + 1)]
    if info.get("whitening") is not None and file.name == "images.pt":  # the colours
        return _whitened(path, held.images.float()[order], labels, names, info, soft)
    if zca is not None and mean is None and std is None and may_be_whitened(held):
        values = zca(held.images.shape[-1]).undo(held.images.detach())[order]
        info = {"whitening": whitening_record(values.shape[-1]), **info}
        return _whitened(path, values, labels, names, info, soft)
    pixels = to_pixels(held, file, mean, std)[order]
    return _imported(path, ImagesInMemory(pixels), labels, names, info, soft)


def find_tensors(folder: Path) -> Path | None:
    """Return the file of images in a folder, by the names that tools give it; None without one."""
    return next((folder / name for name in _TENSORS if (folder / name).is_file()), None)


def read_class_names(file: str | os.PathLike[str]) -> list[str]:
    """Read class names, one per line; empty lines at the end are ignored.

    Raises
    ------
    PydreamError
        If the file cannot be read, is empty, or names a class twice or not at all.
    """
    file = Path(file)
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PydreamError(f"{file}: class names cannot be read: {reason}") from error
    while names and not names[-1]:
        names.pop()
    if not names or not all(names) or len({*names}) < len(names):
        raise PydreamError(f"{file} must hold one class name a line, each once and none empty")
    return names


def _label(
    held: LabelledTensors, file: Path, class_names: Sequence[str] | None
) -> tuple[Tensor, Tensor]:
    """Return the class of every image, (N,) int64, and the order of the images."""
    soft, labels = held.soft_labels, held.labels
    count = len(held.images)
    if soft is not None and class_names is not None and soft.shape[1] != len(class_names):
        raise PydreamError(
            f"{file}: soft labels are of {soft.shape[1]} classes, but {len(class_names)} classes "
            "are named"
        )
    num_classes = soft.shape[1] if soft is not None else len(class_names or ())
    if labels is not None:
        return _sort_by_class(labels, file, num_classes or int(labels.max()) + 1)
    if not num_classes:
        raise PydreamError(
            f"{file} holds images without labels: give class names, if they come class by class, "
            "or save [images, labels]"
        )
    if count % num_classes:
        raise PydreamError(
            f"{file}: {count} images do not divide evenly into {num_classes} classes"
        )
    in_turn = torch.arange(num_classes).repeat_interleave(count // num_classes)
    if soft is None:
        return in_turn, torch.arange(count)
    likeliest = soft.argmax(dim=1)
    counts = likeliest.bincount(minlength=num_classes)
    if counts.min() == counts.max():
        return likeliest, torch.arange(count)
    others = soft.amax(dim=1) > soft.gather(1, in_turn[:, None])[:, 0]
    if others.any():
        warnings.warn(
            f"{file}: images are taken class by class, though the soft labels of "
            f"{int(others.sum())} of {count} are likeliest for another class",
            RuntimeWarning,
            stacklevel=4,
        )
    return in_turn, torch.arange(count)


def _exported_facts(file: Path) -> dict[str, Any]:
    """Read the facts of a set from the ``info.json`` that `pydream export` wrote; or nothing."""
    if not file.is_file():
        return {}
    try:
        info = parse_json(file.read_bytes())
    except ValueError:
        return {}
    if not _is_ours(info):  # written by another tool
        return {}
    return {name: info[name] for name in (*_FACTS, *_OTHER_FACTS) if name in info}


def _imported(
    path: Path,
    stored: SetImages,
    labels: Tensor,
    class_names: Sequence[str],
    facts: Mapping[str, Any] | None = None,
    soft_labels: Tensor | None = None,
    values: Tensor | None = None,
) -> DistilledSet:
    """Return the set, with a manifest of the known facts, such as its factor and its views."""
    names, facts = tuple(class_names), facts or {}
    manifest = Manifest(
        format=FORMAT_VERSION,
        method="imported",
        class_names=names,
        images_per_class=one_count_or_each(labels.bincount(minlength=len(names)).tolist()),
        factor=facts.get("factor", 1),
        side=stored.side,
        views=facts.get("views"),
        whitening=facts.get("whitening"),
    )
    return DistilledSet(path, manifest, stored, labels, names, None, soft_labels, values)


def _whitened(
    path: Path,
    values: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    facts: Mapping[str, Any],
    soft_labels: Tensor | None,
) -> DistilledSet:
    """Return a set whose students see whitened images, from its colours, (N, 3, S, S) float32."""
    stored = ImagesInMemory(to_levels(values).movedim(1, -1).contiguous())
    return _imported(path, stored, labels, class_names, facts, soft_labels, values)


def _open_parquet(path: Path, source: Source, given: Sequence[str] | None) -> DistilledSet:
    """Open a set of parquet files, with the facts from its card if pydream has exported it."""
    names = given or source.class_names
    if len(names) != len(source.class_names):
        raise PydreamError(
            f"--classes names {len(names)} classes, but {path} has {len(source.class_names)}"
        )
    labels = torch.from_numpy(source.labels)
    _check_classes(labels, len(names), str(path))
    card = manifest_of_card(path if path.is_dir() else path.parent)
    facts = {}
    if card is not None:
        facts = {"factor": card.factor, "views": card.views, "whitening": card.whitening}
    return _imported(path, SourceImages(source), labels, names, facts)


def _has_numbered_folders(folder: Path) -> bool:
    return folder.is_dir() and any(
        _NUMBERED.fullmatch(path.name) and path.is_dir() for path in folder.iterdir()
    )


def _open_folders(
    path: Path, root: Path, class_names: Sequence[str] | None, given: Sequence[str] | None
) -> DistilledSet:
    """Open a folder of class folders."""
    try:
        layout = find_class_folders(FolderTree(root), str(root)).open("train", str(root))
    except PydreamError as error:
        tensors = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not tensors:
            raise
        raise PydreamError(f"{error}; or name the file of images: {tensors[0]}") from error
    order, names = _name_folders(layout, root, class_names, given)
    place = np.argsort(order)  # number in the set, by class in the order of the sorted folders
    rows = np.argsort(place[layout.labels], kind="stable")
    labels = torch.from_numpy(place[layout.labels][rows])
    _check_classes(labels, len(names), str(root))
    files = [root / layout.root / layout.keys[row] for row in rows]
    try:
        first = read_header(files[0].read_bytes())
    except (ImageError, OSError) as error:
        raise PydreamError(f"{files[0]}: {error}") from error
    if first.height != first.width:
        raise PydreamError(
            f"{files[0]}: the image is {first.height}x{first.width}; images of a distilled set "
            "must be square"
        )
    soft = None
    if (path / "labels.pt").is_file() and root != path:  # of DD-Ranking
        soft = read_soft_labels(path / "labels.pt", len(files))
        if soft.shape[1] != len(names):
            raise PydreamError(
                f"{path / 'labels.pt'}: soft labels are of {soft.shape[1]} classes, but there are "
                f"{len(names)} class folders"
            )
    return _imported(path, StoredImages(files, first.height), labels, names, soft_labels=soft)


def _name_folders(
    layout: Layout, root: Path, class_names: Sequence[str] | None, given: Sequence[str] | None
) -> tuple[list[int], Sequence[str]]:
    """Return the order of the class folders in the set, as indices, and the names."""
    folders = layout.class_names
    order = sorted(range(len(folders)), key=lambda index: natural_order(folders[index]))
    natural = [folders[index] for index in order]
    if given is not None:
        if len(given) != len(folders):
            raise PydreamError(
                f"--classes names {len(given)} classes, but {root} has {len(folders)} class "
                f"folders, {natural[0]} to {natural[-1]}"
            )
        return order, given
    if class_names is not None and {*class_names} == {*folders}:
        return [folders.index(name) for name in class_names], class_names
    numbers = numbers_of(natural)
    if class_names is None or numbers is None:
        return order, natural
    count = len(class_names)
    if numbers not in (list(range(count)), list(range(1, count + 1))):
        raise PydreamError(
            f"{root}: class folders {natural[0]} to {natural[-1]}, {len(natural)} of them, do not "
            f"fit {count} class names; they must be numbered 0 to {count - 1} or 1 to {count}: "
            "give --classes with a file that names the class of each, one a line"
        )
    if not _NUMBERED.fullmatch(natural[0]):  # a convention that needs no warning
        warnings.warn(
            f"{root}: class folders are matched by number: {natural[0]} is {class_names[0]}, "
            f"{natural[-1]} is {class_names[-1]}; --classes FILE names them otherwise",
            RuntimeWarning,
            stacklevel=4,
        )
    return order, class_names


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """Return the number in each name if the names differ in nothing else (new000, new001)."""
    found = [_NUMBER.findall(name) for name in names]
    frames = {_NUMBER.sub("#", name) for name in names}
    if len(frames) > 1 or any(len(labels) != 1 for labels in found):
        return None
    return [int(labels[0]) for labels in found]


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts names by the numbers in them: 2 before 10."""
    parts = re.split(r"(\d+)", name)
    key = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return key, name


def _sort_by_class(labels: Tensor, file: Path, num_classes: int) -> tuple[Tensor, Tensor]:
    """Check hard labels; return them sorted, and the stable order that sorts them."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise PydreamError(
            f"{file}: labels are {low} to {high}, but must lie in 0 to {num_classes - 1}, the "
            "number of classes less one"
        )
    _check_classes(labels, num_classes, str(file))
    ordered, order = labels.sort(stable=True)
    return ordered, order


def _check_classes(labels: Tensor, num_classes: int, where: str) -> None:
    """Raise PydreamError unless every class has an image."""
    if num_classes > _MOST_CLASSES:
        raise PydreamError(
            f"{where}: has labels of {num_classes} classes, numbered from 0, for {len(labels)} "
            "images"
        )
    empty = (labels.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist()
    if empty:
        raise PydreamError(
            f"{where}: of {num_classes} classes, numbered from 0, these have no image: "
            f"{listed([str(label) for label in empty])}"
        )
