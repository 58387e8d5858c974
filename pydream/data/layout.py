"""How class folders are found in a tree of files, on disk or in an archive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from pydream.errors import PydreamError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files with these endings, in any case, are images; others in a class folder are ignored."""

_TRAIN = "train"
_TEST = ("test", "val", "validation", "valid")
_HOW = "put the images of each class into one folder: ROOT/<class>/<image>"


class Tree(ABC):
    """Files below a root, named by paths with slashes that start at the root (``""``)."""

    @abstractmethod
    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of the folders and of the files that lie directly in a folder."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Content of a file; ImageError when it cannot be read. Thread-safe."""

    @abstractmethod
    def mark(self, path: str) -> str:
        """Tell what is known of a file's content without reading it."""


@dataclass(frozen=True)
class Layout:
    """The images of one split of a tree."""

    root: str  # the folder that holds the class folders
    class_names: tuple[str, ...]
    keys: tuple[str, ...]  # paths from the root
    labels: np.ndarray  # int64 (N,)
    ignored: int


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that tools leave behind, and no data."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Whether a file counts as an image, by its extension."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def find_splits(tree: Tree) -> dict[str, str]:
    """Find the folders that hold the class folders of each split.

    Wrapper folders, which hold one folder of folders and no image, are passed through.

    Returns
    -------
    dict[str, str]
        ``"train"`` and ``"test"``, as far as there are such, to paths.
    """
    path = ""
    while True:
        folders, files = tree.list(path)
        if _are_splits(folders):
            return _name_splits(tree, path, folders)
        if len(folders) == 1 and not any(map(is_image, files)):
            inner = join(path, folders[0])
            if _holds_only_folders(tree, inner):
                path = inner
                continue
        return {"train": path}


def lay_out(tree: Tree, split: str, description: str) -> Layout:
    """List the images of a split, sorted by class and key.

    Raises
    ------
    PydreamError
        When the split is missing, or the files do not lie in class folders.
    """
    splits = find_splits(tree)
    if split not in splits:
        found = ", ".join(splits.values()) or "no class folders"
        raise PydreamError(f"{description}: no {split} split, only {found}")
    root = splits[split]
    where = f"{description}: {root}" if root else description
    class_names, files = tree.list(root)
    if not class_names:
        lying = "images lie directly in it" if any(map(is_image, files)) else "holds no images"
        raise PydreamError(f"{where}: {lying}; {_HOW}")
    known = class_names
    if split == "test" and "train" in splits:
        known = tree.list(splits["train"])[0]
        strange = sorted(set(class_names) - set(known))
        if strange:
            raise PydreamError(
                f"{where}: {strange[0]!r} is no class of the train split {splits['train']!r}; "
                "name the class folders alike in both"
            )
    keys: list[str] = []
    labels: list[int] = []
    ignored = len(files)
    for name in class_names:
        images, others = _collect(tree, root, name)
        if not images:
            raise PydreamError(
                f"{where}: class folder {name!r} holds no image "
                f"({', '.join(IMAGE_SUFFIXES)}); remove it or fill it"
            )
        keys += images
        labels += [known.index(name)] * len(images)
        ignored += others
    return Layout(root, tuple(known), tuple(keys), np.array(labels, dtype=np.int64), ignored)


def join(folder: str, name: str) -> str:
    """Path of what is called `name` in `folder`."""
    return f"{folder}/{name}" if folder else name


def _are_splits(folders: list[str]) -> bool:
    """Whether folders are splits, and not classes of which one happens to be called train."""
    test = [name for name in _TEST if name in folders]
    if _TRAIN in folders and test:
        return True
    return bool(folders) and len(folders) == len(test) + (_TRAIN in folders)


def _name_splits(tree: Tree, path: str, folders: list[str]) -> dict[str, str]:
    """Name the splits; of several folders for testing the first with class folders counts."""
    splits = {}
    if _TRAIN in folders:
        splits["train"] = join(path, _TRAIN)
    for name in _TEST:
        if name in folders and tree.list(join(path, name))[0]:
            splits["test"] = join(path, name)
            break
    return splits


def _holds_only_folders(tree: Tree, path: str) -> bool:
    folders, files = tree.list(path)
    return bool(folders) and not any(map(is_image, files))


def _collect(tree: Tree, root: str, name: str) -> tuple[list[str], int]:
    """Sorted keys of the images at any depth of a class folder, and the count of other files."""
    images: list[str] = []
    others = 0
    waiting = [name]
    while waiting:
        folder = waiting.pop()
        folders, files = tree.list(join(root, folder))
        here = [f"{folder}/{file}" for file in files if is_image(file)]
        images += here
        others += len(files) - len(here)
        waiting += [f"{folder}/{inner}" for inner in folders]
    return sorted(images), others
