"""Parquet files of a disk or a store: their footers, columns and row groups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pydream.data.remote import AnyPath, RemoteFile, RemotePath
from pydream.errors import PydreamError, first_line

# Values are looked at after so many rows, before more of them are read.
_IMAGES_AT_ONCE, _ROWS_AT_ONCE = 16, 1024
# The columns that are read together may grow to so many bytes, and beyond that to so many times the
# file.
_FREELY, _MOST_TIMES = 1 << 30, 10


def open_file(path: AnyPath, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a file, whose footer may have been read already.

    Raises
    ------
    PydreamError
        If it is no parquet file or is damaged.
    """
    try:
        if isinstance(path, Path):
            return pq.ParquetFile(path, metadata=metadata, memory_map=True)
        return pq.ParquetFile(RemoteFile(path), metadata=metadata or _footer(path, path.state))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise PydreamError(
            f"{path}: not a readable parquet file: {first_line(error)}; it may be cut off: "
            "fetch it again"
        ) from error


@lru_cache(maxsize=4096)
def _footer(path: RemotePath, state: tuple[object, ...]) -> pq.FileMetaData:
    """Return the footer of a file of a store, which several steps need."""
    return pq.read_metadata(RemoteFile(path))


def read_columns(
    path: AnyPath,
    columns: Sequence[str],
    group: int | None = None,
    metadata: pq.FileMetaData | None = None,
) -> pa.Table:
    """Read columns of a row group, or of all; from a store, many parts at once.

    Parameters
    ----------
    path
        The file.
    columns
        Paths of the columns, as ``image.bytes``.
    group
        Number of the row group.
    metadata
        The footer, if it has been read already.

    Raises
    ------
    PydreamError
        If the values are much larger than the file, as one that is repeated in every row.
    ArrowException or OSError
        If the file is damaged. What is returned has as many rows as the footer says, and texts in
        it are UTF-8.
    """
    opened = open_file(path, metadata)
    groups = range(opened.metadata.num_row_groups) if group is None else [group]
    if isinstance(path, RemotePath):
        ranges = _ranges(opened.metadata, columns, groups)
        opened = pq.ParquetFile(RemoteFile(path, ranges), metadata=opened.metadata)
    size = path.size if isinstance(path, RemotePath) else path.stat().st_size
    rows = opened.iter_batches(
        _IMAGES_AT_ONCE if group is not None else _ROWS_AT_ONCE,
        row_groups=[*groups],
        columns=[*columns],
        use_threads=group is None,
    )
    batches, held = [], 0
    for batch in rows:
        batch.validate(full=True)  # pyarrow reads texts and lengths as the file has them
        batches.append(batch)
        held += sum(map(_decoded_bytes, batch.columns))
        if held > max(_FREELY, _MOST_TIMES * size):
            raise PydreamError(
                f"{path}: is refused: its values grow to more than {_MOST_TIMES} times its size, "
                "as images do not"
            )
    found = sum(batch.num_rows for batch in batches)
    counts = [opened.metadata.row_group(number).num_rows for number in groups]
    if found != sum(counts) or min(counts, default=0) < 0:
        raise pa.ArrowInvalid(f"it has {found} rows where its footer says {sum(counts)}")
    if not batches:
        return opened.read_row_groups([*groups], columns=[*columns])
    # Images stay in batches: a column of one piece has 2 GiB at most.
    table = pa.Table.from_batches(batches)
    return table.combine_chunks() if group is None else table


def _decoded_bytes(column: pa.Array) -> int:
    """Return the bytes of a column with the words of a dictionary in every row."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return int(plain.nbytes)


def read_whole(path: Path) -> pa.Table:
    """Read all columns of a small file.

    Raises
    ------
    PydreamError
        If it is damaged, or its values are much larger than the file.
    """
    try:
        return read_columns(path, open_file(path).schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise PydreamError(f"{path}: cannot be read: {first_line(error)}") from error


def _ranges(
    metadata: pq.FileMetaData, columns: Sequence[str], groups: Sequence[int]
) -> list[tuple[int, int]]:
    """Return start and end of the parts of a file that hold columns of row groups."""
    ranges = []
    for group in groups:
        described = metadata.row_group(group)
        for place in range(described.num_columns):
            chunk = described.column(place)
            path = chunk.path_in_schema
            if any(path == name or path.startswith(f"{name}.") for name in columns):
                pages = (chunk.dictionary_page_offset, chunk.data_page_offset)
                start = min(page for page in pages if page is not None)
                ranges.append((start, start + chunk.total_compressed_size))
    return ranges
