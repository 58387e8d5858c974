"""Images in a column of parquet files, as they lie on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pydream.data.cache import kept_bytes
from pydream.data.layout import file_kind
from pydream.data.parquet_access import open_file, read_columns
from pydream.data.parquet_columns import (
    Columns,
    are_unlabelled,
    check_like,
    find_columns,
    holds_images,
    names_of,
    numbers_of,
)
from pydream.data.parquet_files import ParquetFiles, Parts
from pydream.data.parquet_images import RowImages
from pydream.data.remote import AnyPath
from pydream.data.row_order import names_of_files
from pydream.data.source_options import divided
from pydream.data.table_source import TableSource
from pydream.errors import MissingSplitError, PydreamError, first_line
from pydream.progress import track

_FILES_AT_ONCE = 4  # of a store, each by several requests


class ParquetSource(TableSource):
    """The images of one split of parquet files.

    An image is named by its path in the table, below the folder of its class, as in a tree of class
    folders. Without paths, or if two are equal, it is named by its file and its row.

    Parameters
    ----------
    found
        The files.
    description
        Path or name that the user gave.
    split
        ``"train"`` or ``"test"``.
    named
        Columns that the user named: ``"image"`` and ``"label"``.
    """

    def __init__(
        self, found: ParquetFiles, description: str, split: str, named: Mapping[str, str]
    ) -> None:
        where = divided(description)[0]
        parts = _parts(found, where, split, named)
        columns = find_columns(open_file(parts.files[0]).schema_arrow, named, where)
        tables = _tables(parts.files, columns, where)
        labels = _joined((table["label"] for table in tables), where)
        names = names_of(_train_labels(found, labels, split, columns), columns, where)
        super().__init__(
            numbers_of(labels, columns, names, where),
            names,
            _joined((table["path"] for table in tables), where) if columns.has_paths else None,
            [*zip(names_of_files(parts.files), map(len, tables), strict=True)],
            description=description,
            split=split,
            ignored=_kinds(found.others),
            notes=_notes(parts, split),
        )
        self._images = RowImages(description, parts.files, columns, self._rows)

    def read(self, index: int) -> bytes:
        """Read the encoded image; see `Source.read`."""
        return self._images.read(int(self._rows[index]))

    def _facts(self, rows: npt.NDArray[np.int64]) -> bytes:
        """Return the footers, which hold the sizes of all parts of the files, and the rows."""
        return self._images.footers + rows.astype("<i8").tobytes()


def has_images(found: ParquetFiles) -> bool:
    """Return whether the files have a column of images, and are no tables about something else."""
    first = next(iter(found.splits.values()))[0].files[0]
    return holds_images(open_file(first).schema_arrow)


def parquet_splits(found: ParquetFiles, named: Mapping[str, str], description: str) -> set[str]:
    """Return the splits that have labelled images."""
    splits = set()
    for split in found.splits:
        try:
            _parts(found, description, split, named)
        except MissingSplitError:
            continue
        splits.add(split)
    return splits


def _parts(found: ParquetFiles, description: str, split: str, named: Mapping[str, str]) -> Parts:
    """Choose the files of a split: those of the first word that have labels.

    Raises
    ------
    MissingSplitError
        If there are none.
    """
    unlabelled = []
    for parts in found.splits.get(split, ()):
        columns = find_columns(open_file(parts.files[0]).schema_arrow, named, description)
        if not all(are_unlabelled(_labels(file, columns, description)) for file in parts.files):
            return parts
        unlabelled.append(parts.word)
    words = [parts.word for own in found.splits.values() for parts in own]
    why = (
        f"the images of {' and '.join(unlabelled)} have no labels"
        if unlabelled
        else f"only {', '.join(words)}"
    )
    raise MissingSplitError(f"{description}: no {split} split: {why}")


def _notes(parts: Parts, split: str) -> list[str]:
    return [f"{parts.word} is the test split"] if split == "test" and parts.word != "test" else []


def _kinds(others: Sequence[AnyPath]) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for file in others:
        kind = f"{file_kind(file.name)} of no split"
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def _tables(files: Sequence[AnyPath], columns: Columns, description: str) -> list[pa.Table]:
    """Read labels and paths of files; those of a store are kept in the cache, a batch a file."""
    if isinstance(files[0], Path):
        return [_table(file, columns, description) for file in files]
    named = f"{columns.image} {columns.label} {columns.has_paths}"
    name = f"{Path(description).name}-{hashlib.sha256(named.encode()).hexdigest()[:8]}", ".labels"
    write = partial(_write_tables, files, columns, description)
    read = pa.ipc.open_file(pa.BufferReader(kept_bytes(description, files, name, "index", write)))
    return [
        pa.Table.from_batches([read.get_batch(number)]) for number in range(read.num_record_batches)
    ]


def _write_tables(
    files: Sequence[AnyPath], columns: Columns, description: str, target: IO[bytes]
) -> None:
    with (
        ThreadPoolExecutor(_FILES_AT_ONCE) as waiting,
        track("indexing files", len(files), "files") as advance,
    ):
        writer = None
        for table in waiting.map(partial(_table, columns=columns, description=description), files):
            writer = writer or pa.ipc.new_file(target, table.schema)
            batch = table.combine_chunks().to_batches()
            empty = pa.RecordBatch.from_pylist([], schema=table.schema)
            writer.write_batch(batch[0] if batch else empty)
            advance(1)
        assert writer is not None  # a source has files
        writer.close()


def _table(file: AnyPath, columns: Columns, description: str) -> pa.Table:
    """Read labels and paths of a file, in the columns ``label`` and ``path``."""
    check_like(columns, open_file(file).schema_arrow, file, description)
    wanted = [columns.label]
    if columns.has_paths:
        wanted.append(f"{columns.image}.path")
    try:
        table = read_columns(file, wanted)
    except (pa.ArrowException, OSError) as error:
        raise PydreamError(f"{file}: cannot be read: {first_line(error)}") from error
    read = {"label": table[columns.label]}
    if columns.has_paths:
        read["path"] = pc.struct_field(table[columns.image], "path")
    return pa.table(read)


def _joined(columns: Iterable[pa.ChunkedArray], description: str) -> pa.ChunkedArray:
    """Join a column of all files, which must hold the same type."""
    chunks = [chunk for column in columns for chunk in column.chunks]
    kinds = dict.fromkeys(chunk.type for chunk in chunks)
    if len(kinds) > 1:
        raise PydreamError(
            f"{description}: its files hold {' and '.join(map(str, kinds))} in the same column"
        )
    return pa.chunked_array(chunks)


def _labels(file: AnyPath, columns: Columns, description: str) -> pa.ChunkedArray:
    bare = Columns(columns.image, columns.label, columns.in_struct, False, columns.class_names)
    return _table(file, bare, description)["label"]


def _train_labels(
    found: ParquetFiles, own: pa.ChunkedArray, split: str, columns: Columns
) -> pa.ChunkedArray:
    """Return the labels that name the classes, if the schema does not: those of the train split."""
    if split == "train" or columns.class_names is not None or "train" not in found.splits:
        return own
    files = found.splits["train"][0].files
    labels = (_labels(file, columns, str(file)) for file in files)
    return _joined(labels, str(files[0].parent))
