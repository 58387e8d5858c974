"""Images in one folder per class, possibly below folders of splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pydream.data.formats import IMAGE_SUFFIXES
from pydream.data.image_names import composed, joined_names
from pydream.data.layout import (
    Layout,
    Splits,
    Tree,
    by_class,
    file_kind,
    ignored_words,
    images_below,
    is_image,
    join,
    visible,
    wrappers,
)
from pydream.data.split_names import look_like_splits, split_folders
from pydream.errors import PydreamError
from pydream.formatting import listed

HOW = "put the images of each class into one folder: ROOT/<class>/<image>"
_LISTED = 5
_FEW = 8  # number of folders up to which they may be parts of a set: images, annotations, lists, …
# Parts of sets for detection and segmentation, in the layouts of other tools.
_PARTS = frozenset(
    (
        *("images", "imgs", "labels", "annotations", "masks", "mask", "gt", "groundtruth"),
        *("jpegimages", "imagesets", "segmentationclass", "segmentationobject"),
    )
)


class _Place(NamedTuple):
    """Locations of the splits."""

    train: str | None
    test: str | None
    above: Counter[str]  # files around them
    found: tuple[str, ...]


def find_class_folders(
    tree: Tree, description: str, base: str | None = None, classes: Sequence[str] = ()
) -> Splits:
    """Find the class folders of each split.

    Parameters
    ----------
    tree, description
        The same as for `pydream.data.files.find_splits`.
    base
        The folder of the splits; by default they are searched in the root and in the folders that
        it wraps.
    classes
        The classes of the train split, if it has no class folders.

    Returns
    -------
    Splits
        The splits; the first location is that of the train split, if there is one.

    Raises
    ------
    PydreamError
        If folders are named after splits, but it is unclear which belong together.
    """
    place = _find_place(tree, description, wrappers(tree) if base is None else [base], classes)
    known = list(classes) or (None if place.train is None else visible(tree, place.train)[0])
    ways = {}
    if place.train is not None:
        ways["train"] = partial(
            lay_out_class_folders, tree, place.train, description, above=place.above
        )
    if place.test is not None:
        above = Counter() if place.train is not None else place.above
        ways["test"] = partial(
            lay_out_class_folders, tree, place.test, description, place.train, known, above
        )
    return Splits(ways, place.found)


def _find_place(
    tree: Tree, description: str, levels: Sequence[str], known: Sequence[str]
) -> _Place:
    """Find the folders of the splits; without any, the innermost wrapper is the train split."""
    read = [(path, visible(tree, path)[0]) for path in levels]
    marked = [(path, found) for path, names in read if (found := split_folders(names))]
    if not marked:
        if (inner := _only_folder_with_images(tree, *read[-1])) is not None:
            levels = [*levels, inner]
            read.append((inner, visible(tree, inner)[0]))
        path, names = read[-1]
        if len(names) > 1 and look_like_splits(names):
            raise PydreamError(
                f"{_where(description, path)}: the folders {_listed(names)} are named after "
                "splits, not classes, and which belong together is unclear; name them train and "
                "test, or give one of them as the source"
            )
        return _Place(path, None, _beside(tree, levels[:-1], (path,)), (path,))
    path, splits = next((mark for mark in marked if len(mark[1]) == 2), marked[0])
    train = None
    if "train" in splits:
        train = _unwrapped(tree, join(path, splits["train"][0]), ())
    classes = known or (() if train is None else visible(tree, train)[0])
    test, places = None, [] if train is None else [train]
    for name in splits.get("test", ()):
        folder = _unwrapped(tree, join(path, name), classes)
        names = visible(tree, folder)[0]
        unlabelled = len(names) == 1 and classes and not places_of(names, classes)
        places.append(folder)
        if names and not unlabelled and (test is None or not _shares(tree, test, classes)):
            test = folder
    above = levels[: levels.index(path) + 1]
    used = tuple(folder for folder in (train, test) if folder is not None)
    return _Place(train, test, _beside(tree, above, used), tuple(places))


def _only_folder_with_images(tree: Tree, path: str, names: Sequence[str]) -> str | None:
    """Find the only folder with images, next to others without any, such as meta/."""
    if not 1 < len(names) <= _FEW:
        return None
    with_images = [name for name in names if _has_image(tree, join(path, name))]
    if len(with_images) != 1:
        return None
    folder = join(path, with_images[0])
    inner, files = visible(tree, folder)
    return folder if len(inner) > 1 and not any(map(is_image, files)) else None


def _has_image(tree: Tree, path: str) -> bool:
    folders, files = visible(tree, path)
    return any(map(is_image, files)) or any(_has_image(tree, join(path, f)) for f in folders)


def _shares(tree: Tree, folder: str, classes: Sequence[str]) -> bool:
    """Return whether a folder has class folders of the train split, if there is one."""
    return not classes or bool(places_of(visible(tree, folder)[0], classes))


def _unwrapped(tree: Tree, path: str, classes: Sequence[str]) -> str:
    """Descend through folders of a split that only wrap another, as in seg_train/seg_train."""
    while True:
        folders, files = visible(tree, path)
        if len(folders) != 1 or any(map(is_image, files)) or folders[0] in classes:
            return path
        inner = visible(tree, join(path, folders[0]))
        if not inner[0] or any(map(is_image, inner[1])):
            return path
        path = join(path, folders[0])


def _beside(tree: Tree, levels: Sequence[str], used: Sequence[str]) -> Counter[str]:
    """Count the files in these folders, except those used and the folders that lead there."""
    ignored: Counter[str] = Counter()
    for level in levels:
        folders, files = visible(tree, level, ignored)
        ignored.update(
            file_kind(name) if not is_image(name) else "images outside class folders"
            for name in files
        )
        if len(folders) > 1:
            ignored.update(
                f"folder {name}/"
                for name in folders
                if not any(f"{place}/".startswith(join(level, name) + "/") for place in used)
            )
    return ignored


def lay_out_class_folders(
    tree: Tree,
    root: str,
    description: str,
    train: str | None = None,
    known: Sequence[str] | None = None,
    above: Counter[str] | None = None,
) -> Layout:
    """List the images below a folder of class folders.

    Parameters
    ----------
    tree, description
        The same as for `pydream.data.files.find_splits`.
    root
        The folder of class folders.
    train
        The folder of the train split, if these images are for testing.
    known
        The classes of the train split, which then define the labels.
    above
        Files left out around the folder.

    Raises
    ------
    PydreamError
        If the files are not in class folders, or these are not the classes of the train split.
    """
    where = _where(description, root)
    ignored = Counter(above or ())
    folders, files = visible(tree, root, ignored)
    if not folders:
        raise PydreamError(f"{where}: {_lying(files, ignored)}; {HOW}")
    ignored.update(
        file_kind(name) if not is_image(name) else "images outside class folders" for name in files
    )
    names = list(known) if known is not None else folders
    labels = _labels_of(folders, names, where, train)
    counts: list[int] = []
    empty: dict[str, Counter[str]] = {}
    _refuse_splits_below(tree, root, folders[0], where)

    def images_of_folders() -> Iterator[list[str]]:
        for folder in folders:
            others: Counter[str] = Counter()
            images = images_below(tree, root, folder, others)
            counts.append(len(images))
            ignored.update(others)
            if not images:
                empty[folder] = others
            yield images

    keys: Sequence[str] = joined_names(images_of_folders(), description)
    numbers = np.repeat(np.array([labels[folder] for folder in folders], np.int64), counts)
    if known is None or not keys:
        _refuse_empty(empty, where)
    else:
        ignored.update({"empty class folders": len(empty)} if empty else ())
    if not np.all(np.diff(numbers) >= 0):  # test folders spelled differently
        keys, numbers = by_class(keys, numbers.tolist())
    return Layout(root, tuple(names), keys, numbers, ignored=ignored)


def refuse_parts(layout: Layout, description: str) -> None:
    """Refuse folders that are parts of a set for detection or segmentation instead of classes."""
    names = layout.class_names
    if len(names) > 1 and all(name.lower().replace("_", "") in _PARTS for name in names):
        raise PydreamError(
            f"{_where(description, layout.root)}: the folders {_listed(names)} are parts of a set "
            f"for detection or segmentation, not classes; {HOW}"
        )


def _labels_of(
    folders: Sequence[str], names: Sequence[str], where: str, train: str | None
) -> dict[str, int]:
    """Find the label of each class folder."""
    labels = places_of(folders, names)
    strange = [folder for folder in folders if folder not in labels]
    if strange:
        raise PydreamError(
            f"{where}: {strange[0]!r} is not a class of the train split {train!r}; "
            "name the class folders alike in both"
        )
    return labels


def places_of(folders: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Find folders among the names of classes, ignoring case and Unicode normalisation.

    Returns
    -------
    dict[str, int]
        The index in `names` of each folder found there.
    """
    exact = {name: place for place, name in enumerate(names)}
    normal = {composed(name): place for place, name in enumerate(names)}
    folded = Counter(_folded(name) for name in names)
    loose = {_folded(name): place for place, name in enumerate(names) if folded[_folded(name)] == 1}
    found = {
        folder: exact.get(folder, normal.get(composed(folder), loose.get(_folded(folder))))
        for folder in folders
    }
    return {folder: place for folder, place in found.items() if place is not None}


def _folded(name: str) -> str:
    return composed(composed(name).casefold())


def _lying(files: Sequence[str], ignored: Counter[str]) -> str:
    """Describe the content of a folder without class folders."""
    if any(map(is_image, files)):
        return "images lie directly in it"
    kinds = ignored + Counter(map(file_kind, files))
    return "holds no images" + (f", only {ignored_words(kinds)}" if kinds else "")


def _refuse_splits_below(tree: Tree, root: str, folder: str, where: str) -> None:
    found = split_folders(visible(tree, join(root, folder))[0])
    if found is not None and len(found) == 2:
        raise PydreamError(
            f"{where}: {folder!r} holds the splits {_listed([*found['train'], *found['test']])}; "
            "put the splits above the classes: ROOT/train/<class>/<image>"
        )


def _refuse_empty(empty: dict[str, Counter[str]], where: str) -> None:
    if not empty:
        return
    name, kinds = next(iter(empty.items()))
    more = f", nor do {len(empty) - 1} others" if len(empty) > 1 else ""
    only = f"only {ignored_words(kinds)}; " if kinds else ""
    raise PydreamError(
        f"{where}: class folder {name!r} holds no image{more}: {only}images end in "
        f"{', '.join(IMAGE_SUFFIXES)}; remove it or fill it"
    )


def _where(description: str, path: str) -> str:
    return f"{description}: {path}" if path else description


def _listed(names: Sequence[str]) -> str:
    return listed([*map(repr, names)], _LISTED)
