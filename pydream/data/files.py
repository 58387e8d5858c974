"""Images as files: in a folder, or inside an archive."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pydream import _C
from pydream.data.archives import open_archive
from pydream.data.class_folders import find_class_folders, places_of, refuse_parts
from pydream.data.image_names import names_at
from pydream.data.imagenet import find_imagenet, raised_root
from pydream.data.imagenet_tars import TRAIN_TAR, join_shipped
from pydream.data.label_files import find_label_files
from pydream.data.layout import MOST_BYTES, Layout, Splits, Tree, join, too_large, visible
from pydream.data.published_splits import FoldersAndTables, TableLayout, table_splits
from pydream.data.remote import AnyPath, RemotePath, remote_tree
from pydream.data.source import Source
from pydream.errors import ImageError, PydreamError

# Sizes of files are asked for in threads, each of a thousand files at a time: on a network disk
# every answer takes a while.
_AT_ONCE, _MARKS = 16, 1000


class FileSource(Source):
    """Images stored as files of a tree.

    Parameters
    ----------
    tree
        The files.
    description
        Path or name that the user gave.
    split
        ``"train"`` or ``"test"``.
    table
        File with the labels, a path in the tree; by default it is searched for.
    """

    def __init__(self, tree: Tree, description: str, split: str, table: str | None = None) -> None:
        layout = find_splits(tree, description, table).open(split, description)
        super().__init__(
            description=description,
            split=split,
            class_names=layout.class_names,
            keys=layout.keys,
            labels=layout.labels,
            ignored=Counter(layout.ignored) + Counter(tree.left_out),
            notes=layout.notes,
        )
        self._tree = tree
        self._root = layout.root
        self._named_labels = bool(layout.labels_from)

    def read(self, index: int) -> bytes:
        """Read the encoded file; see `Source.read`."""
        return self._tree.read(join(self._root, self.keys[index]))

    def read_many(self, indices: Sequence[int]) -> Sequence[bytes | ImageError]:
        """Read encoded files; see `Source.read_many`."""
        return self._tree.read_many([join(self._root, self.keys[index]) for index in indices])

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """SHA-256 over class names, keys, and sizes or checksums; see `Source.fingerprint`.

        Labels are included if the keys do not contain them.
        """
        digest = self._hash_of_names()
        if self._named_labels:
            digest.update(self.labels.astype("<i8").tobytes())
        places = np.arange(len(self)) if indices is None else np.fromiter(indices, np.int64)
        parts = np.split(places, range(_MARKS, len(places), _MARKS))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for marks in pool.map(self._marks, parts):
                digest.update(marks)
        return digest.hexdigest()

    def _marks(self, places: npt.NDArray[np.int64]) -> bytes:
        """Return what is known about the contents of some images, a line each."""
        paths = [join(self._root, key) for key in names_at(self.keys, places)]
        return "".join([f"\n{mark}" for mark in self._tree.marks(paths)]).encode()


def _not_read(reason: int) -> ImageError:
    """Return the error for a file of which the kernel returned an errno, or minus its size."""
    if reason < 0:
        return too_large(-reason)
    return ImageError(f"cannot be read: {os.strerror(reason)}")


def find_splits(tree: Tree, description: str, table: str | None = None) -> Splits:
    """Determine the layout and the labels of the images in a tree.

    Parameters
    ----------
    tree
        The files.
    description
        Path or name that the user gave, for messages.
    table
        File with the labels, a path in the tree; by default it is searched for.

    Raises
    ------
    PydreamError
        If the names contradict each other, or `table` cannot be understood.
    """
    if table is None and (splits := find_imagenet(tree, description)) is not None:
        return splits
    tables = find_label_files(tree, description, table)
    if table is not None:
        return table_splits(tables, description, chosen=True)
    try:
        folders = find_class_folders(tree, description)
    except PydreamError:
        if not tables.has_labels:
            raise
        return table_splits(tables, description, chosen=False)
    if "train" not in folders.lay_out:
        return table_splits(tables, description, chosen=False) if tables.has_labels else folders
    root = folders.places[0]
    beside = FoldersAndTables(root, visible(tree, root)[0], tables)
    if tables.has_labels and not beside.are_classes:
        splits = table_splits(tables, description, chosen=False)
        return _with_test_folder(tree, description, splits, beside)
    train = partial(_checked_train, folders.lay_out["train"], description, tables.problem)
    return beside.merge(folders, train, description)


def _with_test_folder(
    tree: Tree, description: str, splits: Splits, beside: FoldersAndTables
) -> Splits:
    """Add the class folders of a test split if tables describe only the train split."""
    if beside.names or "test" in splits.lay_out:
        return splits
    train = splits.lay_out["train"]
    assert isinstance(train, TableLayout)
    folders = find_class_folders(tree, description, classes=train.names)
    tests = folders.places[1:]
    if not any(places_of(visible(tree, test)[0], train.names) for test in tests):
        return splits
    lay_out = {**splits.lay_out, "test": folders.lay_out["test"]}
    return replace(splits, lay_out=lay_out, places=(*splits.places, *tests))


def _checked_train(lay_out: Callable[[], Layout], description: str, problem: str) -> Layout:
    """List class folders, refuse folders that cannot be classes, and report tables beside them."""
    try:
        layout = lay_out()
    except PydreamError as error:
        raise PydreamError(f"{error}; {problem}" if problem else str(error)) from None
    refuse_parts(layout, description)
    return replace(layout, notes=(problem,) if problem and len(layout.class_names) == 1 else ())


def open_tree(path: AnyPath) -> Tree:
    """Open a folder or an archive.

    The two tars of ILSVRC 2012, as image-net.org ships them, are opened together.

    Raises
    ------
    PydreamError
        If it is neither, is damaged, or is of an unsupported kind.
    """
    if isinstance(path, RemotePath):
        return remote_tree(path) if path.is_dir() else open_archive(path)
    folder = path.parent if path.name == TRAIN_TAR else path
    unpacked = path == folder and (folder / "train").is_dir()
    if (folder / TRAIN_TAR).is_file() and not unpacked:
        return join_shipped(FolderTree(folder), folder)
    return FolderTree(raised_root(path)) if path.is_dir() else open_archive(path)


class FolderTree(Tree):
    """Files of a folder; links are followed."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of folders and files; see `Tree.list`."""
        full = join(self._path, path) if path else self._path
        folders, files = [], []
        try:
            with os.scandir(full) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if entry.is_symlink():
                            self._refuse_cycle(entry.path)
                        folders.append(entry.name)
                    elif entry.is_file():
                        files.append(entry.name)
                    elif entry.is_symlink() and not os.path.exists(entry.path):
                        # Dangling: an error only when it is read or listed.
                        has_extension = "." in entry.name.lstrip(".")
                        (files if has_extension else folders).append(entry.name)
        except OSError as error:
            raise PydreamError(f"{full}: cannot be listed: {error.strerror}") from error
        return sorted(folders), sorted(files)

    def read(self, path: str) -> bytes:
        """Content of a file; see `Tree.read`."""
        [content] = self.read_many([path])
        if isinstance(content, ImageError):
            raise content
        return content

    def read_many(self, paths: Sequence[str]) -> Sequence[bytes | ImageError]:
        """Content of files, read without the interpreter's lock; see `Tree.read_many`."""
        encoded = [os.fsencode(join(self._path, path)) for path in paths]
        found = _C.read_files(encoded, MOST_BYTES)
        return [file if isinstance(file, bytes) else _not_read(file) for file in found]

    def size(self, path: str) -> int:
        """Size of a file; see `Tree.size`."""
        try:
            return os.stat(join(self._path, path)).st_size
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error

    def mark(self, path: str) -> str:
        """Size of a file; see `Tree.mark`."""
        return self.marks([path])[0]

    def marks(self, paths: Sequence[str]) -> Sequence[str]:
        """Sizes of files, asked for without the interpreter's lock; see `Tree.marks`."""
        sizes = _C.file_sizes([os.fsencode(join(self._path, path)) for path in paths])
        return ["missing" if size < 0 else str(size) for size in sizes]

    def _refuse_cycle(self, link: str) -> None:
        """Refuse a link to a folder above it, which would never end."""
        target = os.path.realpath(link)
        folder, inner = os.path.dirname(link), link
        while len(folder) >= len(self._path) and folder != inner:
            way = os.path.realpath(folder)
            if os.path.commonpath((way, target)) == target:
                raise PydreamError(f"{link}: links to a folder above it; remove the link")
            folder, inner = os.path.dirname(folder), folder
