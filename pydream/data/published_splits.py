"""Splits defined by tables, alone or with class folders."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pydream.data.class_folders import places_of
from pydream.data.image_names import composed
from pydream.data.label_files import LabelFiles, Row, TableRows
from pydream.data.layout import Layout, Splits, by_class, file_kind, join
from pydream.errors import PydreamError

MOST_WITHOUT_FILE = 0.1
"""Largest share of the rows that may name no image; above it, the table must be wrong."""

_PURE = 0.9  # share of the folders with images of one label, for folders to be classes
_COVERED = 0.5  # share of the images with a label, for a table to contradict the folders
_NUMBER = re.compile(r"-?\d+(\.\d+)?")

LabelOf = Callable[[Row], str | None]


@dataclass(frozen=True)
class TableLayout:
    """Layout of a table's rows of one split, made on demand."""

    description: str  # of the source, as the user gave it
    files: LabelFiles
    table: TableRows
    label_of: LabelOf
    names: Sequence[str]  # of the classes
    left_out: frozenset[str] = frozenset()  # keys of images of the other split
    chosen: bool = False  # whether the user named the table itself
    ignored: Mapping[str, int] | None = None
    note: str = ""

    def __call__(self) -> Layout:
        """List the images that the rows name."""
        path = join(self.files.level, self.table.path)
        where = self.description if self.chosen else f"{self.description}: {path}"
        places = {composed(name): place for place, name in enumerate(self.names)}
        labels: dict[str, int] = {}
        ignored = Counter(self.ignored or {})
        without: list[str] = []
        for row in self.table.rows:
            if row.key is None:
                without.append(row.cell)
                continue
            if row.key in self.left_out:
                ignored["rows of images that are for testing"] += 1
                continue
            label = self.label_of(row)
            if not label:
                ignored["images without a label"] += 1
            elif (place := places.get(composed(label))) is None:
                raise PydreamError(
                    f"{where}: {label!r}, of {row.cell}, is not a label of the train split"
                )
            elif labels.setdefault(row.key, place) != place:
                raise PydreamError(
                    f"{where}: {row.cell} has two labels, {self.names[labels[row.key]]!r} and "
                    f"{label!r}; keep one row for each image"
                )
        if len(without) > MOST_WITHOUT_FILE * len(self.table.rows):
            folder = os.path.dirname(self.description) or "." if self.chosen else self.description
            raise PydreamError(
                f"{where}: {len(without):,} of {len(self.table.rows):,} rows name no image below "
                f"{folder}, for example {without[0]!r}; mend the paths, or add the images"
            )
        if without:
            ignored["rows without an image"] = len(without)
        keys, ordered = by_class(labels, labels.values())
        return Layout(
            self.files.level, tuple(self.names), keys, ordered, ignored,
            labels_from=self.table.path, notes=(self.note,),
        )  # fmt: skip


def table_splits(files: LabelFiles, description: str, *, chosen: bool) -> Splits:
    """List the images of tables without class folders.

    Images that a table reserves for testing are left out of the train split, whatever other tables
    say. Images in a list without labels get those of another table.

    Parameters
    ----------
    files
        The tables.
    description
        Description for messages, as for `pydream.data.files.find_splits`.
    chosen
        True if the user named the table, which then is the only one.
    """
    given: dict[str, tuple[str, TableRows]] = {}
    for table in files.tables:
        for row in table.rows:
            if row.key and row.label:
                given.setdefault(row.key, (row.label, table))

    def label_of(row: Row) -> str | None:
        return row.label or given.get(row.key or "", ("",))[0]

    test = files.best("test", label_of)
    train = files.best("train", label_of, told=True) if test else None
    train = train or files.best("train", label_of)
    used = {split: table for split, table in (("train", train), ("test", test)) if table}
    held_out = _keys(test)
    names = _sorted_names(
        label
        for row in next(iter(used.values())).rows
        if row.key and (train is None or row.key not in held_out) and (label := label_of(row))
    )
    ignored = files.ignored.copy()
    for path in {table.path for table in used.values()}:
        ignored[file_kind(path)] -= 1
    in_split = {row.key for table in used.values() for row in table.rows if row.key}
    others = set(files.images) - in_split
    ignored["images without a label"] = len(others - set(given))
    ignored["images of no split"] = len(others & set(given))
    ways = {
        split: TableLayout(
            description, files, table, label_of, names,
            held_out if split == "train" else frozenset(), chosen,
            +ignored if split == "train" or train is None else None,
            _labels_note(table if table.column else next(
                given[row.key][1] for row in table.rows if row.key in given)),
        )
        for split, table in used.items()
    }  # fmt: skip
    return Splits(ways, tuple(table.path for table in used.values()))


class FoldersAndTables:
    """Class folders of a train split, and the rows of tables about the images in them.

    Parameters
    ----------
    root
        The folder that contains the class folders.
    names
        Names of the class folders.
    files
        The tables.

    Attributes
    ----------
    are_classes : bool
        True if the folders are the classes.
    differs : str
        The table whose labels differ from the folders; empty if none does.
    """

    def __init__(self, root: str, names: Sequence[str], files: LabelFiles) -> None:
        self.root = root
        self.names = names
        self.files = files
        self._places = frozenset(names)
        spoken = [table for table in files.tables if table.told and table.column]
        if not spoken and (best := files.best("train", lambda row: row.label)):
            spoken = [best]
        labels: dict[str, set[str]] = defaultdict(set)  # of each folder
        folders: dict[str, set[str]] = defaultdict(set)  # of each label
        labelled = set()
        for row in (row for table in spoken for row in table.rows):
            if row.key and row.label and (folder := self._folder(row.key)) is not None:
                labels[folder].add(row.label)
                folders[row.label].add(folder)
                labelled.add(row.key)
        said = sorted({row.label for table in files.tables for row in table.rows})
        self._class_of = {
            label: names[place] for label, place in places_of(said, names).items()
        } | {
            label: next(iter(found & self._places)) for label, found in folders.items()
            if len(found) == len(found & self._places) == 1
        }  # fmt: skip
        pure = sum(len(distinct) == 1 for distinct in labels.values()) >= _PURE * len(labels)
        other = not pure or len(folders) < len(labels)
        self.differs = spoken[0].path if other and labelled else ""
        below = sum(self._folder(key) is not None for key in files.images)
        single = len(labels) == 1 and (len(names) == 1 or "" in labels)  # a folder of all images
        self.are_classes = bool(names) and not single and (
            pure or self._outweigh(labels, len(labelled), below)
        )  # fmt: skip

    def _outweigh(self, labels: Mapping[str, set[str]], labelled: int, images: int) -> bool:
        """Return whether folders are the classes although some have images of several labels."""
        if len(labels) == 1 or any(self._folder(key) is not None for key in self._test_keys()):
            return False
        if labelled < _COVERED * images:
            return True
        return len({re.sub(r"\d+", "", folder) for folder in labels}) > 1  # images_1, images_2

    def _folder(self, key: str) -> str | None:
        """Return the class folder of an image; empty for the root, None elsewhere."""
        path = join(self.files.level, key)
        start = f"{self.root}/" if self.root else ""
        if not path.startswith(start):
            return None
        folder, slash, _ = path[len(start) :].partition("/")
        return folder if slash else ""

    def _test_keys(self) -> frozenset[str]:
        """Return the images that any table reserves for testing."""
        tested = (_keys(table) for table in self.files.tables if table.split == "test")
        return frozenset[str]().union(*tested)

    def _in_classes(self, keys: Iterable[str]) -> frozenset[str]:
        """Return the images that are in class folders."""
        return frozenset(key for key in keys if self._folder(key) in self._places)

    def class_of(self, row: Row) -> str | None:
        """Return the class of a row: its folder, or the folder of its label; None for others."""
        folder = self._folder(row.key or "")
        if folder in self._places:
            return folder
        return self._class_of.get(row.label)

    def merge(self, folders: Splits, train: Callable[[], Layout], description: str) -> Splits:
        """Take each split from the folders, and from tables the facts that folders lack.

        Images that a table reserves for testing are left out of the train split. They become the
        test split if the folders have none.

        Parameters
        ----------
        folders
            The class folders of each split.
        train
            Function that lists the class folders of the train split.
        description
            Description for messages, as for `pydream.data.files.find_splits`.
        """
        test = self.files.best("test", self.class_of, told=True)
        listed = self.files.best("train", self.class_of, told=True)
        in_list = self._in_classes(_keys(listed))
        held_out = self._in_classes(_keys(test) if in_list else self._test_keys())
        if not held_out:
            names, kept = list(self.names), None
        else:
            kept = (in_list or self._in_classes(self.files.images)) - held_out
            used = {self._folder(key) for key in kept}
            names = [name for name in self.names if name in used or "test" in folders.lay_out]
        tables = [table for table in (listed if in_list and kept else None, test) if table]
        notes = [self._differing_note()] if not kept else [_splits_note(tables)]
        ways = dict(folders.lay_out)
        missing = {}
        if "test" not in ways and test is not None:
            outside = any(
                row.key and self._folder(row.key) not in self._places for row in test.rows
            )
            note = _labels_note(test) if outside and test.column else _splits_note(tables)
            ways["test"] = TableLayout(
                description, self.files, test, lambda row: self.class_of(row) or row.label, names,
                note=note,
            )  # fmt: skip
        elif "test" not in ways and (why := self._untaken_note(listed, in_list)):
            notes.append(why)
            missing["test"] = why
        paths = {join(self.files.level, key) for key in kept} if kept is not None else None
        held = {join(self.files.level, key) for key in held_out}
        ways["train"] = partial(_keep, train, paths, held, names, notes, description)
        return Splits(ways, (*folders.places, *(table.path for table in tables)), missing)

    def _differing_note(self) -> str:
        return self.differs and (
            f"{self.differs} gives other labels than the folders do, which are taken; name the "
            "table as the source to take its labels"
        )

    def _untaken_note(self, listed: TableRows | None, in_list: frozenset[str]) -> str:
        """Explain why tables that may list test images do not define a test split."""
        if table := self.files.best("test", lambda row: row.label, told=True):
            label = next(row.label for row in table.rows if row.key and row.label)
            return (
                f"{table.path} is not used: its labels, as {label!r}, are not class folders of the "
                "train split"
            )
        if self.files.unread:
            return (
                f"{' and '.join(self.files.unread[:2])} may tell which images are for testing, and "
                "cannot be read as a table of files; all images in the class folders are taken for "
                "training"
            )
        everything = self._in_classes(self.files.images) if in_list else frozenset()
        if listed is not None and len(in_list) < len(everything):
            return (
                f"{listed.path} names {len(in_list):,} of the {len(everything):,} images in the "
                "class folders, which are all taken for training; name the table as the source to "
                "take its images alone"
            )
        return ""


def _keep(
    lay_out: Callable[[], Layout],
    kept: Collection[str] | None,
    held_out: Collection[str],
    names: Sequence[str],
    notes: Sequence[str],
    description: str,
) -> Layout:
    """List class folders without the images that tables reserve for testing."""
    layout = lay_out()
    said = (*filter(None, notes), *layout.notes)
    if kept is None:
        return replace(layout, notes=said)
    paths = [join(layout.root, key) for key in layout.keys]
    rows = [row for row, path in enumerate(paths) if path in kept]
    places = {name: place for place, name in enumerate(names)}
    labels = np.array([places[layout.class_names[layout.labels[row]]] for row in rows], np.int64)
    empty = [
        name
        for name, count in zip(names, np.bincount(labels, minlength=len(names)), strict=True)
        if not count
    ]
    if empty or not rows:
        raise PydreamError(
            f"{description}: {said[0]}, and no image is left to train on"
            + (f" in {empty[0]!r}" if empty else "")
        )
    ignored = Counter(layout.ignored)
    ignored["images of the test split"] = sum(path in held_out for path in paths)
    ignored["images of no split"] = len(paths) - len(rows) - ignored["images of the test split"]
    return replace(
        layout, class_names=tuple(names), keys=tuple(layout.keys[row] for row in rows),
        labels=labels, ignored=+ignored, notes=said,
    )  # fmt: skip


def _keys(table: TableRows | None) -> frozenset[str]:
    """Return the images that the rows name."""
    return frozenset(row.key for row in table.rows if row.key) if table else frozenset()


def _sorted_names(labels: Iterable[str]) -> list[str]:
    """Return labels in order: by value if all are numbers, else as text."""
    names = set(labels)
    if all(map(_NUMBER.fullmatch, names)):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _labels_note(table: TableRows) -> str:
    return f"labels are read from {table.path} ({table.column})"


def _splits_note(tables: Sequence[TableRows]) -> str:
    paths = dict.fromkeys(table.path for table in tables)
    return f"the splits of the class folders are read from {' and '.join(paths)}"
