"""Names of images: a million of them in one array, and hashed or checked a part at a time."""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pydream.data.arrow_arrays import numbers, strings
from pydream.errors import PydreamError, first_line

_AT_ONCE = 65536


class ImageNames(Sequence[str]):
    """Strings in an array of Arrow: a million take their bytes, and no objects."""

    def __init__(self, names: pa.Array) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if not isinstance(place, slice):
            return str(self._names[int(place)].as_py())
        start, stop, step = place.indices(len(self))
        if step != 1:
            return [self[one] for one in range(start, stop, step)]
        found: list[str] = self._names.slice(start, max(0, stop - start)).to_pylist()
        return found

    def __iter__(self) -> Iterator[str]:
        for part in in_parts(self):
            yield from part

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ImageNames):
            return bool(self._names.equals(other._names))
        if not isinstance(other, (list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def at(self, places: npt.NDArray[np.int64]) -> list[str]:
        """Return the names at some places, in their order."""
        found: list[str] = self._names.take(numbers(places)).to_pylist()
        return found

    def check(self, description: str) -> None:
        """Raise PydreamError if a name, which a table may hold as any bytes, is not valid UTF-8."""
        try:
            self._names.validate(full=True)
        except pa.ArrowInvalid as error:
            raise PydreamError(
                f"{description}: a path or name in the table is not valid UTF-8: "
                f"{first_line(error)}"
            ) from error


def in_parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield names in order, some thousand at a time, so that few of them are objects at once."""
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]


def names_at(names: Sequence[str], places: npt.NDArray[np.int64]) -> list[str]:
    """Return the names at some places, in their order."""
    return names.at(places) if isinstance(names, ImageNames) else [names[at] for at in places]


def joined_names(parts: Iterable[Sequence[str]], description: str) -> ImageNames:
    """Join lists of names.

    Raises
    ------
    PydreamError
        If a name cannot be encoded in UTF-8.
    """
    arrays = [strings(())]
    for part in parts:
        try:
            arrays.append(strings(part))
        except UnicodeEncodeError as error:
            raise _not_utf8(error, description) from error
    return ImageNames(pa.concat_arrays(arrays))


def composed(name: str) -> str:
    """Return a name in the composed form of Unicode (NFC)."""
    return unicodedata.normalize("NFC", name)


def check_told_apart(names: Sequence[str], description: str) -> None:
    """Raise PydreamError if two names of classes differ only in their Unicode normalisation."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(composed(name), name)) != name:
            raise PydreamError(
                f"{description}: the classes {other!a} and {name!a} have the same name, encoded in "
                "two ways (Unicode NFC and NFD); join them"
            )


def check_utf8(names: Sequence[str], description: str) -> None:
    """Raise PydreamError if a name is not valid UTF-8, or cannot be encoded in it."""
    if isinstance(names, ImageNames):
        names.check(description)
        return
    for part in in_parts(names):
        try:
            "".join(part).encode()
        except UnicodeEncodeError as error:
            raise _not_utf8(error, description) from error


def _not_utf8(error: UnicodeEncodeError, description: str) -> PydreamError:
    name = str(error.object[max(0, error.start - 20) : error.end])
    return PydreamError(
        f"{description}: a file or class name is not valid UTF-8, near {name!a}; rename it"
    )
