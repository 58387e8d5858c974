"""ImageNet as shipped: folders of WordNet IDs for training, flat images for validation.

ILSVRC 2012 from image-net.org, from Kaggle and in torchvision's layout; and Tiny-ImageNet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydream.data.class_folders import find_class_folders, lay_out_class_folders
from pydream.data.layout import (
    WNID,
    Layout,
    Splits,
    Tree,
    by_class,
    file_kind,
    is_image,
    join,
    visible,
    wrappers,
)
from pydream.data.split_names import split_name
from pydream.data.validation_labels import ValidationLabels, find_validation_labels
from pydream.errors import PydreamError

_VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.jpe?g", re.IGNORECASE)
_KAGGLE = ("Data", "CLS-LOC")
# Files that accompany the images: neither images nor counted as ignored.
_SHIPPED = re.compile(r"\.(txt|csv|xml|mat|bin|gz|tar|md)|.*devkit.*|Annotations|ImageSets", re.I)


class _Base(NamedTuple):
    """Location of an ImageNet in a tree."""

    path: str  # the folder of the splits
    above: tuple[str, ...]  # the folders above it, from the root down
    train: str | None
    flat: str | None  # the folder with the validation images
    unlabelled: tuple[str, ...]  # folders of test images, whose labels were never published


def raised_root(path: Path) -> Path:
    """Climb from a folder inside Kaggle's ILSVRC to the folder of its labels.

    The labels of ``ILSVRC`` and ``ILSVRC/Data/CLS-LOC`` are beside the folder ``ILSVRC``.
    """
    full = path.absolute()
    if full.parts[-2:] == _KAGGLE:
        full = full.parents[1]
    if not full.joinpath(*_KAGGLE).is_dir():
        return path
    beside = full.parent / "LOC_val_solution.csv"
    return full.parent if full.name == "ILSVRC" and beside.is_file() else full


def find_imagenet(tree: Tree, description: str) -> Splits | None:
    """Find an ImageNet whose validation images are not in class folders.

    Returns
    -------
    Splits or None
        The splits, without ``"test"`` if the labels of the validation images are missing; None if
        the tree is not an ImageNet, or has only class folders.
    """
    base = _find_base(tree)
    if base is None:
        return None
    if base.flat is None:
        return find_class_folders(tree, description, base.path) if base.path else None
    wnids = [] if base.train is None else visible(tree, base.train)[0]
    try:
        labels = find_validation_labels(tree, [*base.above, base.path, base.flat], wnids)
    except PydreamError as error:
        raise PydreamError(f"{description}: {error}") from error
    ways = {}
    note = _wanted(tree, base) if labels is None else ""
    if base.train is not None:
        ways["train"] = partial(_lay_out_train, tree, base, description, note)
    if labels is not None:
        ways["test"] = partial(
            _lay_out_flat, tree, base.flat, f"{description}: {base.flat}", labels, wnids
        )
    places = tuple(place for place in (base.train, base.flat) if place is not None)
    return Splits(ways, places, {"test": note} if note else {})


def _find_base(tree: Tree) -> _Base | None:
    """Find the folder of the splits, in wrappers and in Kaggle's folders."""
    paths = wrappers(tree)
    for number, path in enumerate(paths):
        above = paths[:number]
        for steps in ((), _KAGGLE, ("ILSVRC", *_KAGGLE)):
            chain = [path]
            for step in steps:
                if step not in visible(tree, chain[-1])[0]:
                    break
                chain.append(join(chain[-1], step))
            else:
                train, flat, others = _splits_in(tree, chain[-1])
                if flat is not None or (steps and train is not None):
                    return _Base(chain[-1], (*above, *chain[:-1]), train, flat, tuple(others))
    return None


def _splits_in(tree: Tree, path: str) -> tuple[str | None, str | None, list[str]]:
    """Find the folders of training images, of flat validation images, and of test images."""
    folders, files = visible(tree, path)
    train, flat, others = None, None, []
    for name in folders:
        read, place = split_name(name), join(path, name)
        if read is None:
            continue
        if read.split == "train":
            train = place if _are_wnids(visible(tree, place)[0]) else train
        elif (images := _flat_images(tree, place)) is not None:
            if read.word in ("val", "validation", "valid"):
                flat = images
            else:
                others.append(images)
    if flat is None and any(map(_VALIDATION_IMAGE.fullmatch, files)):
        flat = path
    if train is None and (
        flat is None or not any(map(_VALIDATION_IMAGE.fullmatch, visible(tree, flat)[1]))
    ):
        return None, None, []
    return train, flat, others


def _flat_images(tree: Tree, path: str) -> str | None:
    """Find the folder with the images of a split without class folders."""
    folders, files = visible(tree, path)
    if any(map(is_image, files)):
        return path
    return join(path, "images") if folders == ["images"] else None


def _are_wnids(names: Sequence[str]) -> bool:
    return bool(names) and sum(bool(WNID.fullmatch(name)) for name in names) * 2 > len(names)


def _wanted(tree: Tree, base: _Base) -> str:
    """Return which file of labels is missing, and its place."""
    assert base.flat is not None
    count = sum(map(is_image, visible(tree, base.flat)[1]))
    where = base.flat or "the root"
    if base.flat.endswith("/images"):
        return (
            f"{count:,} images in {where} have no labels: put val_annotations.txt of "
            f"Tiny-ImageNet into {base.flat.removesuffix('/images')}"
        )
    return (
        f"{count:,} images in {where} have no labels: put LOC_val_solution.csv (Kaggle) or "
        "ILSVRC2012_devkit_t12.tar.gz (image-net.org; or its "
        "ILSVRC2012_validation_ground_truth.txt and meta.mat) beside the folder "
        f"{base.train or where}"
    )


def _lay_out_train(tree: Tree, base: _Base, description: str, note: str) -> Layout:
    assert base.train is not None
    layout = lay_out_class_folders(tree, base.train, description)
    ignored = Counter(
        {kind: n for kind, n in layout.ignored.items() if not _SHIPPED.fullmatch(kind)}
    )
    for folder in base.unlabelled:
        ignored["test images without labels"] += sum(map(is_image, visible(tree, folder)[1]))
    return replace(layout, ignored=ignored, notes=(note,) if note else ())


def _lay_out_flat(
    tree: Tree, root: str, where: str, labels: ValidationLabels, wnids: Sequence[str]
) -> Layout:
    """Label the images of a flat folder."""
    ignored: Counter[str] = Counter()
    _, files = visible(tree, root, ignored)
    images = [name for name in files if is_image(name)]
    ignored.update(
        kind
        for name in files
        if not is_image(name) and not _SHIPPED.fullmatch(kind := file_kind(name))
    )
    try:
        found = {name: labels.of(name) for name in images}
    except PydreamError as error:
        raise PydreamError(f"{where}: {error}") from error
    names = list(wnids) or sorted({wnid for wnid in found.values() if wnid})
    places = {name: place for place, name in enumerate(names)}
    kept = {name: places[wnid] for name, wnid in found.items() if wnid in places}
    missing = sum(wnid is None for wnid in found.values())
    if not kept:
        raise PydreamError(
            f"{where}: none of its {len(images):,} images has a label of these classes in "
            f"{labels.path}; it must be the file that came with them"
        )
    if missing:
        ignored["images without a label"] = missing
    if other := len(images) - len(kept) - missing:
        ignored["images of classes that train lacks"] = other
    if gone := labels.count - (len(images) - missing):
        ignored["labels without an image"] = max(0, gone)
    keys, ordered = by_class(kept, kept.values())
    return Layout(root, tuple(names), keys, ordered, ignored, labels_from=labels.path)
