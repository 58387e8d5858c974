"""Tables in files of MATLAB, whose sizes are not trusted: SciPy's reader crashes on damaged ones.

Source: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

_HEADER = 128  # bytes before the first element; the last two tell the order of bytes
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_STRUCT, _CHAR = 2, 4  # classes of matrices
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}

Value = str | float | None


class _Elements:
    """The elements of a file, or of a matrix in it, one after another.

    Parameters
    ----------
    content
        Their bytes.
    order
        ``"<"`` or ``">"``.
    """

    def __init__(self, content: bytes, order: str) -> None:
        self.content, self.order = content, order
        self.place = 0

    @property
    def left(self) -> int:
        """Number of bytes that have not been read."""
        return max(0, len(self.content) - self.place)

    def next(self) -> tuple[int, bytes]:
        """Return the type and the bytes of the next element."""
        if self.left < 8:
            raise ValueError("it ends too early")
        kind, size = struct.unpack_from(f"{self.order}II", self.content, self.place)
        start, most = 8, self.left - 8
        if kind >> 16:  # at most four bytes, in the place of the size
            kind, size = kind & 0xFFFF, kind >> 16
            start, most = 4, 4
        if size > most:
            raise ValueError("an element is longer than what holds it")
        data = self.content[self.place + start : self.place + start + size]
        padding = 0 if kind == _COMPRESSED else -(start + size) % 8
        self.place += start + size + padding
        return kind, data

    def numbers(self) -> list[float]:
        """Return the numbers of the next element."""
        kind, data = self.next()
        if kind not in _NUMBERS:
            raise ValueError(f"an element of type {kind} holds no numbers")
        found: list[float] = np.frombuffer(data, self.order + _NUMBERS[kind]).tolist()
        return found

    def whole_numbers(self) -> list[int]:
        """Return the numbers of the next element, which must be whole."""
        found = self.numbers()
        if not all(isinstance(number, int) for number in found):
            raise ValueError("a size or a class is no whole number")
        return [int(number) for number in found]

    def matrix(self) -> tuple[int, int, str, _Elements] | None:
        """Return class, number of cells, name and content of a matrix; None for an empty one."""
        kind, data = self.next()
        if kind != _MATRIX:
            raise ValueError(f"an element is of type {kind}, and no matrix")
        if not data:
            return None
        held = _Elements(data, self.order)
        flags, sizes, (_, name) = held.whole_numbers(), held.whole_numbers(), held.next()
        if not flags or not all(size >= 0 for size in sizes):
            raise ValueError("a matrix has no class or size")
        return flags[0] & 0xFF, math.prod(sizes), name.decode("latin-1"), held

    def value(self) -> Value:
        """Return the text or the number of the next matrix; None if it has several, or none."""
        found = self.matrix()
        if found is None:
            return None
        kind, count, _, held = found
        if kind == _CHAR:
            code, data = held.next()
            text = _TEXTS.get(code, "latin-1")
            end = {"<": "-le", ">": "-be"}[self.order] if text in ("utf-16", "utf-32") else ""
            return data.decode(text + end)
        numbers = held.numbers() if count == 1 and kind != _STRUCT else []
        return numbers[0] if len(numbers) == 1 else None


def read_structs(
    content: bytes, name: str, fields: Sequence[str], most: int
) -> list[dict[str, Value]]:
    """Read some fields of an array of structs.

    Parameters
    ----------
    content
        The file.
    name
        Name of the array in it.
    fields
        Names of the fields.
    most
        Bytes that a compressed array may take.

    Returns
    -------
    list of dict
        The fields of each struct: texts and single numbers, and None for anything else.

    Raises
    ------
    ValueError
        If the file is damaged, of another version, or has no such array.
    """
    if content[126:128] not in (b"IM", b"MI"):
        raise ValueError("it is no file of MATLAB 5 to 7.2")
    elements = _Elements(content[_HEADER:], "<" if content[126:128] == b"IM" else ">")
    while elements.left:
        start = elements.place
        kind, data = elements.next()
        if kind not in (_MATRIX, _COMPRESSED):
            continue
        inflated = kind == _COMPRESSED
        whole = _inflated(data, most) if inflated else content[_HEADER:][start : elements.place]
        found = _Elements(whole, elements.order).matrix()
        if found is not None and found[0] == _STRUCT and found[2] == name:
            return _structs(found[1], found[3], fields)
    raise ValueError(f"it has no structs named {name}")


def _structs(count: int, held: _Elements, fields: Sequence[str]) -> list[dict[str, Value]]:
    """Read some fields of so many structs."""
    (width,), (_, names) = held.whole_numbers(), held.next()
    if width < 1:
        raise ValueError("its names have no length")
    parts = [names[start : start + width] for start in range(0, len(names), width)]
    every = [part.partition(b"\0")[0].decode("latin-1") for part in parts]
    if not {*fields} <= {*every} or count * len(every) * 8 > held.left:
        raise ValueError(f"it lacks {', '.join(fields)}")
    found: list[dict[str, Value]] = []
    for _ in range(count):
        entry: dict[str, Value] = {}
        for field in every:
            if field in fields:
                entry[field] = held.value()
            else:
                held.next()
        found.append(entry)
    return found


def _inflated(data: bytes, most: int) -> bytes:
    """Decompress an element, up to so many bytes."""
    inflating = zlib.decompressobj()
    try:
        content = inflating.decompress(data, most)
    except zlib.error as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error
    if not inflating.eof:
        raise ValueError("it is cut short, or too large when decompressed")
    return content
