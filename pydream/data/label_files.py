"""Tables of files and labels beside images, such as ``labels.csv``, matched with the images."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

from pydream.data.image_names import composed
from pydream.data.label_tables import is_table, read_table
from pydream.data.layout import Tree, images_below, is_image, join, visible, wrappers
from pydream.data.split_names import (
    may_list_test,
    preference,
    split_folders,
    split_name,
    split_of,
)
from pydream.errors import ImageError, PydreamError
from pydream.formatting import byte_words

_MOST_BYTES = 2**28  # of a table; one with a million rows has a quarter of that
_FOLDERS_OF_TABLES = (
    *("labels", "label", "annotations", "annotation", "csv", "meta", "metadata"),
    *("lists", "split", "splits"),
)
_LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".mat", ".xml", ".lst")


class Row(NamedTuple):
    """One row of a table."""

    cell: str  # name of a file
    label: str  # empty if the table has none
    key: str | None  # key of the image that the cell names


class TableRows(NamedTuple):
    """The rows of one split in a table."""

    path: str  # path of the table, from the folder in which the images' keys begin
    word: str  # word of the split, as in `split_name`
    told: bool  # whether a name or a column states the split; otherwise it is train
    column: str  # name of the labels' column; empty if the table has none
    rows: list[Row]

    @property
    def split(self) -> str:
        """The split, ``"train"`` or ``"test"``."""
        return split_of(self.word)


@dataclass(frozen=True)
class LabelFiles:
    """Tables beside images, and the images that they label.

    Attributes
    ----------
    level
        The folder of the tables, in which the keys of images begin.
    images
        Keys of all images below the folder.
    ignored
        Number of other files below the folder, by kind.
    tables
        Rows that name images, one entry per split of each table.
    problem
        Reason that a table of files was not understood.
    unread
        Files whose names suggest a list of test images, but that are not tables.
    """

    level: str = ""
    images: Sequence[str] = ()
    ignored: Counter[str] = field(default_factory=Counter)
    tables: Sequence[TableRows] = ()
    problem: str = ""
    unread: Sequence[str] = ()

    @property
    def has_labels(self) -> bool:
        """Whether any image has a label."""
        rows = (row for table in self.tables for row in table.rows)
        return any(row.key and row.label for row in rows)

    def best(
        self, split: str, label_of: Callable[[Row], str | None], *, told: bool = False
    ) -> TableRows | None:
        """Find the rows of a split that label images.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.
        label_of
            Function that returns the label of a row whose cell names an image; None without a
            label.
        told
            Consider only rows that a name or a column assigns to the split.

        Returns
        -------
        TableRows or None
            Rows of test in preference to those of validation, then those that label most images.
        """
        counts = {
            number: sum(bool(row.key and label_of(row)) for row in table.rows)
            for number, table in enumerate(self.tables)
            if table.split == split and (table.told or not told)
        }
        used = [number for number, count in counts.items() if count]
        if not used:
            return None
        is_test = split == "test"
        return self.tables[
            min(used, key=lambda n: (is_test and preference(self.tables[n].word), -counts[n]))
        ]


class _Images:
    """The images below a folder, found by the names in a table.

    A name in another Unicode normalisation than on the disk is found, too, if it is unique.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self._exact = frozenset(keys)
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            for path in {key.casefold(), _stem(key.casefold())}:
                self._by_path[path].append(key)
                self._by_name[path.rpartition("/")[2]].append(key)

    def has(self, cell: str, folders: Sequence[str]) -> bool:
        """Return whether a cell names an image; see `find`."""
        return self.find(cell, folders) is not None

    def find(self, cell: str, folders: Sequence[str]) -> str | None:
        """Return the key for a cell: a path from one of the folders, or a name that is unique."""
        found = self._find(cell, folders)
        if found is not None or cell.isascii() or not self._normalised:
            return found
        images, keys_of = self._normalised
        names = keys_of.get(images._find(composed(cell), [*map(composed, folders)]) or "", ())
        return names[0] if len(names) == 1 else None

    @cached_property
    def _normalised(self) -> tuple[_Images, Mapping[str, Sequence[str]]] | None:
        """The images by their normalised keys, and the keys of each; None if all are ASCII."""
        if all(map(str.isascii, self.keys)):
            return None
        keys_of: dict[str, list[str]] = defaultdict(list)
        for key in self.keys:
            keys_of[composed(key)].append(key)
        return _Images([*map(composed, self.keys)]), keys_of

    def _find(self, cell: str, folders: Sequence[str]) -> str | None:
        path = cell.replace("\\", "/").removeprefix("./").lstrip("/")
        for folder in folders:
            if (exact := join(folder, path)) in self._exact:
                return exact
        path = path.casefold()
        paths = [path, _stem(path)] if is_image(path) else [path]
        for spelling in paths:
            for folder in folders:
                found = self._by_path.get(join(folder.casefold(), spelling), [])
                if len(found) == 1:
                    return found[0]
        for spelling in paths:
            named = self._by_name.get(spelling.rpartition("/")[2], [])
            if len(named) > 1:  # as cat/1.png, in a table that is not beside cat/
                named = [key for key in named if _ends_with(key, spelling)] or named
            if len(named) > 1:
                named = [key for key in named if key.startswith(tuple(f"{f}/" for f in folders))]
            if len(named) == 1:
                return named[0]
        return None


def _ends_with(key: str, path: str) -> bool:
    """Return whether the end of a key, with or without extension, is a path in lower case."""
    key = key.casefold()
    return any(f"/{spelling}".endswith(f"/{path}") for spelling in (key, _stem(key)))


def find_label_files(tree: Tree, description: str, table: str | None = None) -> LabelFiles:
    """Find tables of files and labels, and the images that they name.

    Parameters
    ----------
    tree, description, table
        The same as for `pydream.data.files.find_splits`.

    Raises
    ------
    PydreamError
        If `table` does not name files and their labels.
    """
    problems: list[tuple[str, str]] = []  # of the first folder with problems
    unread: list[str] = []
    for level in [""] if table else _levels(tree):
        paths: dict[str, str | None] = {table: None} if table else _tables_at(tree, level)
        ignored: Counter[str] = Counter()
        images = _Images(images_below(tree, level, "", ignored) if paths else ())
        found, here = _read_tables(tree, level, paths, images)
        problems = problems or here
        unread += [
            path
            for path in _lists_at(tree, level)
            if not any(listing.path == path and listing.told for listing in found)
        ]
        problem = "; ".join(f"{path} {why}" for path, why in problems)
        files = LabelFiles(level, images.keys, ignored, found, problem, unread)
        if table and not files.has_labels:
            why = "gives no image a label" if found else "has no column that names images beside it"
            raise PydreamError(f"{description} {problems[0][1] if problems else why}")
        if files.has_labels or any(listing.told for listing in found):
            return files
    return LabelFiles(problem=problem, unread=unread)


def _levels(tree: Tree) -> list[str]:
    """Return the folders that may hold tables: the wrappers, and a sole folder in the innermost."""
    paths = wrappers(tree)
    folders, _ = visible(tree, paths[-1])
    return [*paths, join(paths[-1], folders[0])] if len(folders) == 1 else paths


def _files_at(tree: Tree, level: str) -> list[tuple[str, str]]:
    """Return the files of a folder, and of its folders for splits and labels: folder and name."""
    folders, _ = visible(tree, level)
    inner = [name for name in folders if name.lower() in _FOLDERS_OF_TABLES]
    for names in (split_folders(folders) or {}).values():
        inner += names
    return [
        (folder, file)
        for folder in ["", *inner]
        for file in visible(tree, join(level, folder))[1]
        if not is_image(file)
    ]


def _tables_at(tree: Tree, level: str) -> dict[str, str | None]:
    """Return the tables of a folder: path, and word of the split if its name has one."""
    tables = {}
    for folder, file in _files_at(tree, level):
        if is_table(file):
            named = split_name(_stem(file)) or split_name(folder)
            if named is None or named.split != "unlabelled":
                tables[join(folder, file)] = None if named is None else named.word
    return tables


def _lists_at(tree: Tree, level: str) -> list[str]:
    """Return the files whose names suggest a list of test images."""
    return [
        join(folder, file)
        for folder, file in _files_at(tree, level)
        if file.lower().endswith(_LIST_SUFFIXES)
        and may_list_test(_stem(file))
        and "submission" not in file.lower()
    ]


def _read_tables(
    tree: Tree, level: str, paths: dict[str, str | None], images: _Images
) -> tuple[list[TableRows], list[tuple[str, str]]]:
    """Return the tables that can be read, by split, and for the others path and reason."""
    folders_of = split_folders(visible(tree, level)[0]) or {}
    found: list[TableRows] = []
    problems = []
    for path, told in paths.items():
        word = told or "train"
        folders = [path.rpartition("/")[0], *folders_of.get(split_of(word), ()), ""]
        try:
            if tree.size(join(level, path)) > _MOST_BYTES:
                why = f"is larger than {byte_words(_MOST_BYTES)} and was not read"
                problems.append((path, why))
                continue
            table = read_table(tree, level, path, word, partial(images.has, folders=folders))
        except ImageError as error:
            problems.append((path, str(error)))
            continue
        if table is None:
            continue
        if table.problem:
            problems.append((path, table.problem))
        by_word: dict[str, list[Row]] = defaultdict(list)
        for cell, label, word in table.rows:
            by_word[word].append(Row(cell, label, images.find(cell, folders)))
        found += [
            TableRows(path, word, bool(told) or table.has_splits, table.column, rows)
            for word, rows in by_word.items()
            if split_of(word) != "unlabelled"
        ]
    return found, problems


def _stem(path: str) -> str:
    """Return a path without the extension of its last part."""
    return posixpath.splitext(path)[0]
