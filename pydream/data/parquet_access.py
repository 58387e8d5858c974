"""Parquet files of a disk or a store: their footers, columns and row groups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pydream.data.remote import AnyPath, RemoteFile, RemotePath
from pydream.errors import PydreamError, first_line


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
    except (pa.ArrowException, OSError) as error:
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
    ArrowException or OSError
        If the file is damaged.
    """
    opened = open_file(path, metadata)
    groups = range(opened.metadata.num_row_groups) if group is None else [group]
    if isinstance(path, RemotePath):
        ranges = _ranges(opened.metadata, columns, groups)
        opened = pq.ParquetFile(RemoteFile(path, ranges), metadata=opened.metadata)
    return opened.read_row_groups([*groups], columns=[*columns], use_threads=group is None)


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
