"""ILSVRC 2012 as shipped by image-net.org: a tar of one tar per class, and a tar of images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydream.data.archives import open_archive
from pydream.data.layout import Tree

TRAIN_TAR = "ILSVRC2012_img_train.tar"
_VAL_TAR = "ILSVRC2012_img_val.tar"


def join_shipped(folder: Tree, path: Path) -> Tree:
    """Open the tars in a folder as the folders ``train`` and ``val`` of one tree.

    Parameters
    ----------
    folder
        The folder, whose other files remain visible: the development kit has the labels of the
        validation images.
    path
        Path of the tar.
    """
    mounted = {"train": open_archive(path / TRAIN_TAR)}
    if (path / _VAL_TAR).is_file():
        mounted["val"] = open_archive(path / _VAL_TAR)
    return _JoinedTree(folder, mounted)


class _JoinedTree(Tree):
    """Archives as folders of a tree, along with the files of a folder."""

    def __init__(self, beside: Tree, mounted: dict[str, Tree]) -> None:
        self._beside = beside
        self._mounted = mounted
        _, self._files = beside.list("")
        self.left_out = sum(
            (Counter(tree.left_out) for tree in mounted.values()), start=Counter[str]()
        )

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of folders and files; see `Tree.list`."""
        if not path:
            return sorted(self._mounted), self._files
        tree, inner = self._at(path)
        return tree.list(inner)

    def read(self, path: str) -> bytes:
        """Content of a file; see `Tree.read`."""
        tree, inner = self._at(path)
        return tree.read(inner)

    def size(self, path: str) -> int:
        """Size of a file; see `Tree.size`."""
        tree, inner = self._at(path)
        return tree.size(inner)

    def mark(self, path: str) -> str:
        """Return the facts known about a file's content; see `Tree.mark`."""
        tree, inner = self._at(path)
        return tree.mark(inner)

    def _at(self, path: str) -> tuple[Tree, str]:
        name, _, inner = path.partition("/")
        return (self._mounted[name], inner) if name in self._mounted else (self._beside, path)
