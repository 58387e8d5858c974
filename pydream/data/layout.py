"""Trees of files, on disk or in an archive, and the labelled images read from them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pydream.data.formats import IMAGE_SUFFIXES
from pydream.errors import ImageError, MissingSplitError, printable, returned

WNID = re.compile(r"n\d{8}")
"""Name of a class of ImageNet: its ID in WordNet."""

# Names besides those with a leading dot, in lower case. Each is written by one tool and is no word.
_CLUTTER = frozenset(
    (
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("$recycle.bin", "system volume information", "found.000"),  # Windows
        *("thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot"),  # network storage
        *("lost+found", "__pycache__"),
    )
)
_KNOWN_HIDDEN = (".ds_store", ".git", ".ipynb_checkpoints", ".trashes")
_KINDS_SHOWN = 6


MOST_BYTES = 1 << 30
"""Largest file that is read whole: an uncompressed image of the most pixels that are decoded, in 16
bits, has about as many."""


def check_bytes(size: int) -> None:
    """Raise ImageError if a file is too large to be read whole."""
    if size > MOST_BYTES:
        raise too_large(size)


def too_large(size: int) -> ImageError:
    """Return the error for a file that is not read whole."""
    return ImageError(f"has {size:,} bytes, above the limit of {MOST_BYTES:,}")


class Tree(ABC):
    """Files below a root, with slash-separated paths that begin at the root (``""``).

    Attributes
    ----------
    left_out : Mapping[str, int]
        Number of members of an archive that cannot be listed, by kind.
    """

    left_out: Mapping[str, int] = {}

    @abstractmethod
    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Return the sorted names of the folders and of the files directly in a folder."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the content of a file; ImageError if it cannot be read. Thread-safe."""

    def read_many(self, paths: Sequence[str]) -> Sequence[bytes | ImageError]:
        """Return the content of files, or why each cannot be read."""
        return [returned(self.read, path) for path in paths]

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the size of a file in bytes; ImageError if it is unknown."""

    @abstractmethod
    def mark(self, path: str) -> str:
        """Return the facts known about a file's content without reading it."""

    def marks(self, paths: Sequence[str]) -> Sequence[str]:
        """Return the same of files. Thread-safe."""
        return [self.mark(path) for path in paths]


@dataclass(frozen=True)
class Layout:
    """The images of one split of a tree."""

    root: str  # the folder that the keys start at
    class_names: tuple[str, ...]
    keys: Sequence[str]  # paths from the root, sorted by label, then by name
    labels: np.ndarray  # int64 (N,)
    ignored: Mapping[str, int]  # number of ignored files, by kind
    labels_from: str = ""  # file with the labels; empty if folders name them
    notes: tuple[str, ...] = ()  # further remarks for the user


@dataclass(frozen=True)
class Splits:
    """The splits of a tree, ``"train"`` and ``"test"``, each listed on demand."""

    lay_out: Mapping[str, Callable[[], Layout]]
    places: tuple[str, ...] = field(default=())  # where they were found
    missing: Mapping[str, str] = field(default_factory=dict)  # reason that a split cannot be read

    def open(self, split: str, description: str) -> Layout:
        """List one split of the user's source; MissingSplitError if it has none."""
        if split in self.lay_out:
            return self.lay_out[split]()
        found = ", ".join(filter(None, self.places))
        only = f", only {found}" if found else ""
        why = f": {self.missing[split]}" if split in self.missing else only
        raise MissingSplitError(f"{description}: no {split} split{why}")


def join(folder: str, name: str) -> str:
    """Return the path of `name` in `folder`."""
    return f"{folder}/{name}" if folder and name else folder or name


def is_image(name: str) -> bool:
    """Return whether a file counts as an image, by its extension."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_clutter(name: str) -> bool:
    """Return whether a file or folder is left behind by a system or tool, and is not data."""
    return name.startswith(".") or name.lower() in _CLUTTER


def visible(
    tree: Tree, path: str, ignored: Counter[str] | None = None
) -> tuple[list[str], list[str]]:
    """List a folder without clutter, which is counted in `ignored`."""
    folders, files = tree.list(path)
    if not (_may_have_clutter(folders) or _may_have_clutter(files)):
        return [*folders], [*files]
    kept = (
        [name for name in folders if not is_clutter(name)],
        [name for name in files if not is_clutter(name)],
    )
    if ignored is not None and len(kept[0]) + len(kept[1]) < len(folders) + len(files):
        ignored.update(_clutter_kind(name) + "/" for name in folders if is_clutter(name))
        ignored.update(_clutter_kind(name) for name in files if is_clutter(name))
    return kept


def _may_have_clutter(names: Sequence[str]) -> bool:
    """Return whether `is_clutter` may hold for a name, without a call for each of a million."""
    return "/." in "/".join(("", *names)) or not _CLUTTER.isdisjoint(map(str.lower, names))


def file_kind(name: str) -> str:
    """Return the kind of a file that is not an image: its extension."""
    _, dot, extension = name.rpartition(".")
    return f".{extension.lower()}" if dot and extension else "without extension"


def images_below(tree: Tree, root: str, folder: str, ignored: Counter[str]) -> list[str]:
    """Return the sorted paths from `root` of the images at any depth of one of its folders."""
    images: list[str] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        folders, files = visible(tree, join(root, here), ignored)
        # As `is_image` and `join`, without two calls for each of a million files.
        lower, above = map(str.lower, files), f"{here}/" if here else ""
        found = [
            above + file
            for file, name in zip(files, lower, strict=True)
            if name.endswith(IMAGE_SUFFIXES)
        ]
        images += found
        if len(found) < len(files):
            ignored.update(file_kind(file) for file in files if not is_image(file))
        waiting += [join(here, inner) for inner in folders]
    return sorted(images)


def wrappers(tree: Tree) -> list[str]:
    """Return the paths from the root down through the folders that only wrap another folder.

    A wrapper has one folder and no image, and that folder has folders and no image.
    """
    path, paths = "", [""]
    while True:
        folders, files = visible(tree, path)
        if len(folders) != 1 or any(map(is_image, files)):
            return paths
        path = join(path, folders[0])
        inner, files = visible(tree, path)
        if not inner or any(map(is_image, files)):
            return paths
        paths.append(path)


def by_class(keys: Iterable[str], labels: Iterable[int]) -> tuple[tuple[str, ...], np.ndarray]:
    """Sort images by label, then by key."""
    rows = sorted(zip(labels, keys, strict=True))
    ordered = np.array([label for label, _ in rows], dtype=np.int64)
    return tuple(key for _, key in rows), ordered


def ignored_words(ignored: Mapping[str, int]) -> str:
    """Describe the ignored files in one line, the most frequent kinds first."""
    kinds = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count:,} {kind}" for kind, count in kinds[:_KINDS_SHOWN]]
    if rest := kinds[_KINDS_SHOWN:]:
        words.append(f"{sum(count for _, count in rest):,} of {len(rest)} more kinds")
    # Names that are not text, or contain line breaks, are escaped.
    return printable(", ".join(words))


def _clutter_kind(name: str) -> str:
    if name.startswith("._"):
        return "._* (AppleDouble)"
    if name.startswith(".") and name.lower() not in _KNOWN_HIDDEN:
        return "hidden"
    return name.strip()
