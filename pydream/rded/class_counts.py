"""Number of distilled images of each class: one number, a file, or in proportion to the classes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pydream.data import Source
from pydream.entry_types import parse_json
from pydream.errors import PydreamError
from pydream.formatting import listed
from pydream.rded.config import proportional_mean

_DELIMITERS = (",", ";", "\t")
_LAST_WORD = re.compile(r"(.*?)[\s,;]+([^\s,;]+)")  # a name, and the count after it
_STRING_OF_JSON = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?', re.DOTALL)


class _Entry(NamedTuple):
    """A class and its count, as written in a file."""

    line: int
    name: str
    images: object  # text, or any value of JSON


def class_counts(ipc: int | str, source: Source) -> tuple[int, ...]:
    """Return the number of distilled images of each class, in the order of the classes.

    Parameters
    ----------
    ipc
        The setting of `pydream.rded.RdedConfig`.
    source
        The real images.

    Raises
    ------
    PydreamError
        If a file of counts cannot be read, misses or repeats a class, names an unknown one, or has
        a count that is not a whole number of at least 1.
    """
    names = source.class_names
    if not isinstance(ipc, str):
        return (ipc,) * len(names)
    mean = proportional_mean(ipc)
    if mean is not None:
        return in_proportion(np.bincount(source.labels, minlength=len(names)).tolist(), mean)
    return read_counts(Path(ipc), names)


def ipc_identity(counts: Sequence[int], class_names: Sequence[str]) -> int | dict[str, int]:
    """Return the setting that decides the bytes of a set: one number, or that of each class."""
    return counts[0] if len({*counts}) == 1 else dict(zip(class_names, counts, strict=True))


def ipc_words(ipc: int | str) -> str:
    """Return the part of a set's default name that tells its numbers of images."""
    if not isinstance(ipc, str):
        return f"ipc{ipc}"
    mean = proportional_mean(ipc)
    return f"ipc-{Path(ipc).stem}" if mean is None else f"ipc{mean}-proportional"


def in_proportion(sizes: Sequence[int], mean: int) -> tuple[int, ...]:
    """Apportion `mean` images per class on average by the sizes of the classes.

    A class whose share of the total would be below 1 has one image, and the others share the rest
    by the method of largest remainders. Of equal remainders, the earlier class gains. All numbers
    are exact.

    Parameters
    ----------
    sizes
        Number of real images of each class, at least 1.
    mean
        Mean number of distilled images of a class, at least 1.

    Returns
    -------
    tuple[int, ...]
        Counts of at least 1, which sum to ``mean * len(sizes)``.
    """
    counts = [1] * len(sizes)
    sharing, total = list(range(len(sizes))), mean * len(sizes)
    while True:
        whole = sum(sizes[label] for label in sharing)
        large = [label for label in sharing if total * sizes[label] >= whole]
        if len(large) == len(sharing):
            break
        total -= len(sharing) - len(large)
        sharing = large
    for label in sharing:
        counts[label] = total * sizes[label] // whole
    left = total - sum(counts[label] for label in sharing)
    by_remainder = sorted(sharing, key=lambda label: -(total * sizes[label] % whole))
    for label in by_remainder[:left]:
        counts[label] += 1
    return tuple(counts)


def read_counts(file: Path, class_names: Sequence[str]) -> tuple[int, ...]:
    """Read the count of every class from a file.

    A JSON file holds one object of classes and counts. Any other file holds a class and its count
    in each line, separated by a comma, semicolon, tab or spaces; names with such characters are
    quoted in a ``.csv`` or ``.tsv`` file. A first line of column titles is skipped, as are empty
    lines. Classes are given by name, or all by number from 0, unless names are numbers themselves.

    Parameters
    ----------
    file
        The file, in UTF-8.
    class_names
        Names of the classes, in the order of their numbers.

    Returns
    -------
    tuple[int, ...]
        The counts, in the order of the classes.

    Raises
    ------
    PydreamError
        If the file cannot be read, or in the cases of `class_counts`.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not text in UTF-8" if isinstance(error, ValueError) else error.strerror
        raise PydreamError(f"{file}: the counts cannot be read: {reason}") from error
    is_json = file.suffix.lower() == ".json"
    entries = list(_json_entries(file, text) if is_json else _line_entries(file, text))
    numbers = {name: label for label, name in enumerate(class_names)}
    if not any(name.isdecimal() for name in class_names):
        numbers |= {str(label): label for label in range(len(class_names))}
    if not is_json and entries and _is_header(entries[0], numbers):
        entries = entries[1:]
    found: dict[int, int] = {}
    lines: dict[int, int] = {}
    for entry in entries:
        where = f"{file}, line {entry.line}"
        label = numbers.get(entry.name)
        if label is None:
            raise PydreamError(
                f"{where}: {entry.name!r} is no class of the images; they have "
                f"{listed(class_names)}"
            )
        if label in found:
            raise PydreamError(
                f"{where}: class {class_names[label]} is in line {lines[label]} already; "
                "give each class once"
            )
        found[label] = _whole(entry.images, where, class_names[label])
        lines[label] = entry.line
    missing = [name for label, name in enumerate(class_names) if label not in found]
    if missing:
        last = entries[-1].line if entries else 1
        raise PydreamError(
            f"{file}, line {last}: the file ends without a count for {listed(missing)}; "
            "give every class one"
        )
    return tuple(found[label] for label in range(len(class_names)))


def _whole(count: object, where: str, name: str) -> int:
    """Return a count; raise PydreamError unless it is whole and at least 1."""
    text = str(count)
    if isinstance(count, (int, str)) and re.fullmatch(r"[0-9]{1,9}", text) and int(text) >= 1:
        return int(text)
    shown = count if isinstance(count, str) else json.dumps(count)
    raise PydreamError(
        f"{where}: the count of class {name} must be a whole number of at least 1, got {shown}"
    )


def _is_header(entry: _Entry, numbers: dict[str, int]) -> bool:
    """Return whether a first line holds titles: no class, and nothing like a number."""
    return entry.name not in numbers and not re.search("[0-9]", str(entry.images))


def _line_entries(file: Path, text: str) -> Iterator[_Entry]:
    lines = text.splitlines()
    if file.suffix.lower() in (".csv", ".tsv"):
        first = next((line for line in lines if line.strip()), "")
        reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=first.count), strict=True)
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield _entry(file, reader.line_num, cells)
        except csv.Error as error:
            raise PydreamError(f"{file}, line {reader.line_num}: {error}") from error
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            found = _LAST_WORD.fullmatch(line.strip())
            yield _entry(file, number, [] if found is None else list(found.groups()))


def _entry(file: Path, line: int, cells: list[str]) -> _Entry:
    if len(cells) != 2 or not all(cells):
        raise PydreamError(f"{file}, line {line}: give a class and its count, and nothing else")
    return _Entry(line, *cells)


def _json_entries(file: Path, text: str) -> Iterator[_Entry]:
    try:
        pairs = parse_json(text, object_pairs_hook=list)
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise PydreamError(f"{file}, line {line}: this is not JSON ({error})") from error
    if not text.lstrip().startswith("{"):
        raise PydreamError(f"{file}, line 1: give one object of classes and their counts")
    starts = [match.start() for match in _STRING_OF_JSON.finditer(text) if match[1]]
    for (name, count), start in zip(pairs, starts, strict=False):
        yield _Entry(text.count("\n", 0, start) + 1, name, count)
