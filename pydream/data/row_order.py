"""Names and order of images that are rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_AT_ONCE = 65536
_SLASH = pa.scalar("/", pa.large_string())


class ArrowNames(Sequence[str]):
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
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return str(self._names[int(place)].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._names.slice(start, _AT_ONCE).to_pylist()


@dataclass(frozen=True)
class OrderedRows:
    """The images of a table, sorted by class, then by key.

    Attributes
    ----------
    keys
        Name of each image.
    labels
        Label of each, int64 (N,).
    rows
        Row of each in the table, int64 (N,).
    notes
        Remarks for the user.
    """

    keys: ArrowNames
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()


def order_rows(
    labels: npt.NDArray[np.int64],
    names: tuple[str, ...],
    paths: pa.ChunkedArray | None,
    files: Sequence[tuple[str, int]],
) -> OrderedRows:
    """Name the images of a table, and sort them by class, then by name.

    Parameters
    ----------
    labels
        Label of each row.
    names
        Names of the classes.
    paths
        Path of each image, as the table has it, or None.
    files
        Name of each file of the table, and its number of rows.
    """
    keys: pa.Array | None = None
    notes: tuple[str, ...] = ()
    if paths is not None and not paths.null_count:
        keys = _keys_of_paths(paths, labels, names)
        if pc.count_distinct(keys).as_py() < len(keys):
            keys = None
            notes = ("two images have one path: images are named by file and row instead",)
    if keys is None:
        keys = _keys_of_places(files)
    table = pa.table({"label": labels, "key": keys})
    order = pc.sort_indices(table, [("label", "ascending"), ("key", "ascending")])
    rows = order.to_numpy().astype(np.int64)
    return OrderedRows(ArrowNames(keys.take(order)), labels[rows], rows, notes)


def _keys_of_paths(
    paths: pa.ChunkedArray, labels: npt.NDArray[np.int64], names: tuple[str, ...]
) -> pa.Array:
    """Return the paths, below the folder of the class where they have no folder."""
    flat = paths.cast(pa.large_string()).combine_chunks()
    if pc.any(pc.match_substring(flat, "/")).as_py():
        return flat
    folders = pa.array(names, pa.large_string()).take(pa.array(labels))
    return pc.binary_join_element_wise(folders, flat, _SLASH)


def _keys_of_places(files: Sequence[tuple[str, int]]) -> pa.Array:
    """Return the name of the file of each image, with its row in it."""
    parts = []
    for stem, count in files:
        rows = pc.utf8_lpad(pa.array(np.arange(count)).cast(pa.large_string()), 8, "0")
        parts.append(pc.binary_join_element_wise(pa.scalar(stem, pa.large_string()), rows, _SLASH))
    return pa.concat_arrays(parts)
