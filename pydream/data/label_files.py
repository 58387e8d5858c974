"""Images whose labels are in a table beside them, as ``labels.csv``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from pydream.data.label_tables import LabelTable, is_table, read_table
from pydream.data.layout import (
    Layout,
    Splits,
    Tree,
    by_class,
    file_kind,
    images_below,
    is_image,
    join,
    visible,
    wrappers,
)
from pydream.data.split_names import split_folders, split_name
from pydream.errors import ImageError, PydreamError
from pydream.words import byte_words

MOST_WITHOUT_FILE = 0.1
"""Share of the rows that may name no image; beyond it, something else must be wrong."""

_MOST_BYTES = 2**28  # of a table; one of a million rows has a quarter of that
_FOLDERS_OF_TABLES = ("labels", "label", "annotations", "annotation", "csv", "meta", "metadata")
_PURE = 0.9  # of the folders must have images of one label for them to be class folders
_COVERED = 0.5  # of the images must have a label for a table to speak against the folders


class LabelFiles(NamedTuple):
    """What the tables beside images say."""

    splits: Splits | None  # None where there is no table of file and label
    decides: bool = False  # whether folders are no classes, so that the tables are taken
    problem: str = ""  # why a table of files cannot be understood
    note: str = ""  # that a table differs from the folders


class _Images:
    """The images below a folder, found by what a table calls them."""

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
        """Whether a cell names an image; see `find`."""
        return self.find(cell, folders) is not None

    def find(self, cell: str, folders: Sequence[str]) -> str | None:
        """Key of what a cell names: a path from one of the folders, or a name found once."""
        path = cell.replace("\\", "/").removeprefix("./")
        for folder in folders:
            if (exact := join(folder, path)) in self._exact:
                return exact
        path = path.casefold()
        paths = [path, _stem(path)] if is_image(path) else [path]
        for each in paths:
            for folder in folders:
                found = self._by_path.get(join(folder.casefold(), each), [])
                if len(found) == 1:
                    return found[0]
        for each in paths:
            named = self._by_name.get(each.rpartition("/")[2], [])
            if len(named) > 1:
                named = [key for key in named if key.startswith(tuple(f"{f}/" for f in folders))]
            if len(named) == 1:
                return named[0]
        return None


class _Found(NamedTuple):
    """A table, and the images of its rows."""

    table: LabelTable
    keys: list[str | None]  # one for each row

    def named(self, split: str) -> int:
        """How many rows of a split name an image and its label."""
        rows = zip(self.table.rows, self.keys, strict=True)
        return sum(bool(key and label) and each == split for (_, label, each), key in rows)


def find_label_files(tree: Tree, description: str, chosen: str | None = None) -> LabelFiles:
    """Find tables of file and label, and the images that they name.

    Parameters
    ----------
    tree
        The files.
    description
        What the user named, for messages.
    chosen
        The table to take, where the user names it; by default all that lie beside the images.

    Raises
    ------
    PydreamError
        When the chosen table does not name files and their labels.
    """
    problem = ""
    for level in [""] if chosen else _levels(tree):
        tables = {chosen: "train"} if chosen else _tables_at(tree, level)
        if not tables:
            continue
        ignored: Counter[str] = Counter()
        images = _Images(images_below(tree, level, "", ignored))
        found, problems = _read_tables(tree, level, tables, images)
        problem = problem or "; ".join(problems)
        if chosen and not found:
            why = problem or f"{chosen} has no column that names images beside it"
            raise PydreamError(f"{description}: {why}")
        if found:
            return _decide(description, level, found, images, ignored, bool(chosen))
    return LabelFiles(None, problem=problem)


def _levels(tree: Tree) -> list[str]:
    """Folders that may hold the tables: the wrappers, and the one folder in the innermost."""
    paths = wrappers(tree)
    folders, _ = visible(tree, paths[-1])
    return [*paths, join(paths[-1], folders[0])] if len(folders) == 1 else paths


def _tables_at(tree: Tree, level: str) -> dict[str, str]:
    """Tables in a folder, in its folders for splits and in those for labels: path to split."""
    folders, files = visible(tree, level)
    tables = {}
    inner = [name for name in folders if name.lower() in _FOLDERS_OF_TABLES]
    for names in (split_folders(folders) or {}).values():
        inner += names
    for folder in ["", *inner]:
        split = split_name(folder)
        for file in files if not folder else visible(tree, join(level, folder))[1]:
            if is_table(file):
                named = split_name(_stem(file)) or split
                tables[join(folder, file)] = named.split if named else "train"
    return {path: split for path, split in tables.items() if split != "unlabelled"}


def _read_tables(
    tree: Tree, level: str, tables: dict[str, str], images: _Images
) -> tuple[dict[str, _Found], list[str]]:
    """Read the tables; keep for each split the one that names most images."""
    splits = split_folders(visible(tree, level)[0]) or {}
    best: dict[str, _Found] = {}
    problems = []
    for path, split in tables.items():
        size = tree.mark(join(level, path)).split()[-1]
        if size.isdigit() and int(size) > _MOST_BYTES:
            problems.append(f"{path} is larger than {byte_words(_MOST_BYTES)} and was not read")
            continue
        folders = [path.rpartition("/")[0], *splits.get(split, ()), ""]
        try:
            table = read_table(tree, level, path, split, partial(images.has, folders=folders))
        except ImageError as error:
            problems.append(f"{path} {error}")
            continue
        except PydreamError as error:
            problems.append(str(error))
            continue
        if table is None:
            continue
        found = _Found(table, [images.find(cell, folders) for cell, _, _ in table.rows])
        for each in table.splits() & {"train", "test"}:
            if found.named(each) > (best[each].named(each) if each in best else 0):
                best[each] = found
    return best, problems


def _decide(
    description: str,
    level: str,
    found: dict[str, _Found],
    images: _Images,
    ignored: Counter[str],
    chosen: bool,
) -> LabelFiles:
    """Lay the splits out, and see whether folders or tables name the classes."""
    train = found.get("train")
    names = None if train is None else _class_names(train, "train")
    labelled = {key for each in found.values() for key in each.keys if key}
    ignored = ignored.copy()
    for table in {each.table.path for each in found.values()}:
        ignored[file_kind(table)] -= 1
    ignored["images without a label"] = len(images.keys) - len(labelled)
    ways = {
        split: partial(
            _lay_out, description, level, each, split,
            None if split == "train" else names,
            +ignored if split == "train" or train is None else Counter(),
        )
        for split, each in found.items()
    }  # fmt: skip
    splits = Splits(ways, tuple(each.table.path for each in found.values()))
    if chosen or train is None:
        return LabelFiles(splits, True)
    labels: dict[str, set[str]] = defaultdict(set)
    for (_, label, split), key in zip(train.table.rows, train.keys, strict=True):
        if key and split == "train":
            labels[key.rpartition("/")[0]].add(label)
    pure = sum(len(each) == 1 for each in labels.values()) >= _PURE * len(labels)
    if len(labels) < 2:
        return LabelFiles(splits, True)
    if pure or len(labelled) < _COVERED * len(images.keys):
        return LabelFiles(splits, False)
    if len({re.sub(r"\d+", "", folder) for folder in labels}) == 1:  # images_1, images_2
        return LabelFiles(splits, True)
    return LabelFiles(
        splits, False, "",
        f"{train.table.path} gives other labels than the folders do, which are taken; name the "
        "table as the source to take its labels",
    )  # fmt: skip


def _class_names(found: _Found, split: str) -> list[str]:
    """Labels in order: of their value where all are numbers, else as text."""
    names = {
        label
        for (_, label, each), key in zip(found.table.rows, found.keys, strict=True)
        if key and label and each == split
    }
    if all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _lay_out(
    description: str,
    level: str,
    found: _Found,
    split: str,
    known: list[str] | None,
    ignored: Counter[str],
) -> Layout:
    """List the images that a table names in one split."""
    where = f"{description}: {join(level, found.table.path)}"
    names = _class_names(found, split) if known is None else known
    places = {name: place for place, name in enumerate(names)}
    labels: dict[str, int] = {}
    ignored = ignored.copy()
    without: list[str] = []
    rows = 0
    for (cell, label, each), key in zip(found.table.rows, found.keys, strict=True):
        if each != split:
            continue
        rows += 1
        if key is None:
            without.append(cell)
        elif not label:
            ignored["images without a label"] += 1
        elif label not in places:
            raise PydreamError(f"{where}: {label!r}, of {cell}, is no label of the train split")
        elif labels.setdefault(key, places[label]) != places[label]:
            raise PydreamError(
                f"{where}: {cell} has two labels, {names[labels[key]]!r} and {label!r}; "
                "keep one row for each image"
            )
    if len(without) > MOST_WITHOUT_FILE * rows:
        raise PydreamError(
            f"{where}: {len(without):,} of {rows:,} rows name no image below "
            f"{description}, for example {without[0]!r}; mend the paths, or add the images"
        )
    if without:
        ignored["rows without an image"] = len(without)
    keys, ordered = by_class(labels, labels.values())
    return Layout(
        level, tuple(names), keys, ordered, ignored,
        labels_from=found.table.path,
        notes=(f"labels are read from {found.table.path} ({found.table.column})",),
    )  # fmt: skip


def _stem(path: str) -> str:
    """Path without the extension of its last part."""
    parsed = PurePosixPath(path)
    return path[: len(path) - len(parsed.suffix)]
