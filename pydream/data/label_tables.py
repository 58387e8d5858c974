"""Tables of files and labels that accompany a folder of images: CSV, TSV, JSON lines, text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from pydream.data.layout import Tree, join
from pydream.data.split_names import split_name
from pydream.entry_types import parse_json
from pydream.errors import ImageError

_SUFFIXES = (".csv", ".tsv", ".jsonl")
_TEXT_WORDS = re.compile(r"label|annot|list|class")  # in the name of a .txt file
_DELIMITERS = (",", ";", "\t", "|")
# By preference, without case and punctuation; names of classes before their numbers.
_LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "classname", "labelname", "category", "categories"),
    *("categoryname", "target", "targets", "species", "breed", "variety", "cultivar", "dx"),
    *("diagnosis", "finding", "genre", "style", "labelid", "classid", "categoryid", "classindex"),
    *("labelidx", "classidx", "y", "tag", "tags", "type"),
)
_SPLIT_COLUMNS = ("split", "set", "subset", "dataset", "partition", "usage", "fold")
_TRIED = 200  # rows that decide the column of files
_MATCHING = 0.5  # share of these that must name files
_LISTED = 8
_FREE_CELLS, _MOST_PADDED = 10**6, 16  # of a table, and times the cells that it has


@dataclass(frozen=True)
class LabelTable:
    """The rows of a table that names files and usually their labels."""

    path: str
    rows: list[tuple[str, str, str]]  # cell of the file, label, word of the split
    column: str  # name of the labels' column; empty if there is none
    problem: str  # reason that the labels' column was not found
    has_splits: bool  # whether a column states the split of each row


def is_table(name: str) -> bool:
    """Return whether a file may be a table of labels, by its name alone."""
    name = name.lower()
    if "submission" in name:  # predictions, not labels
        return False
    if name.endswith(".txt"):
        stem = name.removesuffix(".txt")
        return bool(split_name(stem) or _TEXT_WORDS.search(stem))
    return name.endswith(_SUFFIXES)


def read_table(
    tree: Tree, root: str, path: str, word: str, names_file: Callable[[str], bool]
) -> LabelTable | None:
    """Read a table of files and labels.

    Parameters
    ----------
    tree
        The files.
    root, path
        A folder, and the table's path from it.
    word
        Word of the split of its rows, if no column states it; see `split_name`.
    names_file
        Function that returns whether a cell names an image.

    Returns
    -------
    LabelTable or None
        None if no column names files. Labels are empty if their column cannot be identified.

    Raises
    ------
    ImageError
        If its rows are so uneven that it would take many times its size in memory.
    """
    rows = _read_rows(path, tree.read(join(root, path)), names_file)
    if not rows:
        return None
    width = max(map(len, rows))
    _check_even(width, [*map(len, rows)])
    rows = [row + [""] * (width - len(row)) for row in rows]
    tried = (rows[1:] or rows)[:: max(1, len(rows) // _TRIED)]
    named = [
        [cell for row in tried if (cell := row[column]) and names_file(cell)]
        for column in range(width)
    ]
    # Integer labels may name files, too, but fewer of them.
    files = max(range(width), key=lambda column: (len(set(named[column])), -column))
    if len(named[files]) < _MATCHING * len(tried):
        return None
    header = None if names_file(rows[0][files]) else rows[0]
    body = rows if header is None else rows[1:]
    label_of, column = _labels(header, body, files)
    words = _split_words(header, body, files)
    read = [
        (row[files], label_of(row) if label_of else "", words(row) if words else word)
        for row in body
        if row[files]
    ]
    problem = "" if label_of else column
    return LabelTable(path, read, "" if problem else column, problem, words is not None)


def _read_rows(path: str, content: bytes, names_file: Callable[[str], bool]) -> list[list[str]]:
    """Return the cells of every non-empty line, stripped of white space."""
    text = _decoded(content)
    if path.lower().endswith(".jsonl"):
        rows = _json_rows(text)
    elif path.lower().endswith(".txt") and not any(
        delimiter in text.partition("\n")[0] for delimiter in _DELIMITERS
    ):
        lines = [line.strip() for line in text.splitlines()]
        rows = [[line] if names_file(line) else line.rsplit(maxsplit=1) for line in lines if line]
    else:
        first = text.partition("\n")[0]
        delimiter = max(_DELIMITERS, key=first.count)
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error:
            return []
    return [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]


def _check_even(width: int, cells: Sequence[int]) -> None:
    """Raise ImageError if rows of so many cells would grow too much when all are as wide as one."""
    if width * len(cells) > _FREE_CELLS + _MOST_PADDED * sum(cells):
        raise ImageError(
            f"has rows of {min(cells):,} to {width:,} cells and was not read: is it a table?"
        )


def _decoded(content: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte-order mark, or the encoding of Windows programs."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _json_rows(text: str) -> list[list[str]]:
    try:
        records = [parse_json(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return []
    if not records or not all(isinstance(record, dict) for record in records):
        return []
    header = list(records[0])
    _check_even(len(header), [*map(len, records)])
    return [header, *([str(record.get(name, "")) for name in header] for record in records)]


def _labels(
    header: list[str] | None, body: Sequence[list[str]], files: int
) -> tuple[Callable[[list[str]], str] | None, str]:
    """Find the column of labels, or one-hot columns; otherwise return the reason."""
    width = len(body[0]) if body else 0
    others = [column for column in range(width) if column != files]
    if header is not None:
        preferred = preferred_label_column([header[column] for column in others])
        if preferred is not None:
            found = next(column for column in others if header[column] == preferred)
            return itemgetter(found), preferred
        others = [column for column in others if _plain(header[column]) not in _SPLIT_COLUMNS]
        others = [column for column in others if header[column]]  # pandas' index has no name
    if len(others) == 1:
        column = others[0]
        return itemgetter(column), header[column] if header else f"column {column + 1}"
    words = [column for column in others if not all(_is_number(row[column]) for row in body)]
    if len(words) == 1:  # beside numbers, such as those of a box
        column = words[0]
        return itemgetter(column), header[column] if header else f"column {column + 1}"
    if header is not None and others and _is_one_hot(body, others):
        return lambda row: next(
            (header[column] for column in others if float(row[column]) == 1), ""
        ), "the columns of 0 and 1"
    columns = header or [f"column {column + 1}" for column in range(width)]
    shown = ", ".join(columns[:_LISTED]) + (", …" if len(columns) > _LISTED else "")
    return None, (
        f"names files, but not in which column their labels are ({shown}); call that column label"
        + ("" if others else "; it has none yet")
    )


def preferred_label_column(names: Sequence[str]) -> str | None:
    """Return the column whose name says that it holds labels; None if none does."""
    plain = {_plain(name): name for name in reversed(names)}
    return next((plain[name] for name in _LABEL_COLUMNS if name in plain), None)


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def _is_one_hot(body: Sequence[list[str]], columns: Sequence[int]) -> bool:
    """Return whether every row has a single 1 among zeros."""
    for row in body:
        try:
            values = [float(row[column]) for column in columns]
        except ValueError:
            return False
        if sorted(values) != [0.0] * (len(columns) - 1) + [1.0]:
            return False
    return True


def _split_words(
    header: list[str] | None, body: Sequence[list[str]], files: int
) -> Callable[[list[str]], str] | None:
    """Find a column that states the split of each row."""
    for column, name in enumerate(header or ()):
        if column == files or _plain(name) not in _SPLIT_COLUMNS:
            continue
        read = {value: split_name(value) for value in {row[column] for row in body}}
        if all(read.values()):
            words = {value: found.word for value, found in read.items() if found}
            place = column
            return lambda row: words[row[place]]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
