"""WebDataset: shards of tar files, in which the label of an image lies beside it."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pydream.data.arrow_arrays import as_numpy
from pydream.data.cache import kept_bytes
from pydream.data.layout import MOST_BYTES, is_image
from pydream.data.parquet_columns import Columns, names_of, numbers_of
from pydream.data.remote import AnyPath, RemotePath, read_together
from pydream.data.row_order import names_of_files
from pydream.data.shard_files import ShardFiles
from pydream.data.stores import AT_ONCE
from pydream.data.table_source import TableSource
from pydream.data.tar_ends import TAR_ERRORS, forwards
from pydream.entry_types import parse_json
from pydream.errors import ImageError, MissingSplitError, PydreamError, first_line
from pydream.processors import usable_processors
from pydream.progress import track

# As the library webdataset divides names: the key ends at the first dot of the file's name.
_PARTS = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)")
_INDEXED_AT_ONCE = 8 << 20  # bytes of a shard that are read together
_LABELS = ("cls", "json")
_NAMES = ("classnames.txt", "classes.txt")
_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("name", pa.large_string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.string()),
    ]
)


class ShardSource(TableSource):
    """The images of one split of shards.

    An image is named by its name in the tar, below the folder of its class, as in a tree of class
    folders.

    Parameters
    ----------
    found
        The shards.
    description
        Path, folder or pattern that the user gave.
    split
        ``"train"`` or ``"test"``.
    """

    def __init__(self, found: ShardFiles, description: str, split: str) -> None:
        if split not in found.splits:
            words = ", ".join(found.splits)
            raise MissingSplitError(f"{description}: no {split} split, only {words}")
        self._shards = found.splits[split]
        table = _index(description, self._shards)
        if not len(table):
            raise PydreamError(
                f"{description}: holds no image with a label beside it, as KEY.jpg and KEY.cls"
            )
        labels, given = table["label"], _names_beside(found.root)
        if given is not None or _are_numbers(labels):
            labels = _numbers(labels, description)
        columns = Columns("image", "label", False, False, given)
        train = labels
        if split == "test" and given is None and "train" in found.splits:
            own = _index(description, found.splits["train"])["label"]
            train = _numbers(own, description) if _are_numbers(own) else own
        names = names_of(train, columns, description)
        super().__init__(
            numbers_of(labels, columns, names, description),
            names,
            table["name"],
            [*zip(names_of_files(self._shards), _counts(self._shards, table), strict=True)],
            description=description,
            split=split,
        )
        self._shard, self._offset, self._size = (
            as_numpy(table[name]) for name in ("shard", "offset", "size")
        )

    def read(self, index: int) -> bytes:
        """Read the encoded image; see `Source.read`."""
        row = int(self._rows[index])
        shard, size = self._shards[int(self._shard[row])], int(self._size[row])
        if isinstance(shard, RemotePath):
            return shard.read_range(*self._range(row))
        try:
            descriptor = os.open(shard, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                data = os.pread(descriptor, size, int(self._offset[row]))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ImageError(f"cannot be read from {shard}: {error.strerror}") from error
        if len(data) < size:
            raise ImageError(f"{shard} ends before the file does")
        return data

    def read_many(
        self, indices: Sequence[int]
    ) -> Sequence[bytes | npt.NDArray[np.uint8] | ImageError]:
        """Read encoded images; see `Source.read_many`."""
        ranges = []
        for row in map(int, self._rows[list(indices)]):
            shard = self._shards[int(self._shard[row])]
            if not isinstance(shard, RemotePath):
                return super().read_many(indices)
            ranges.append((shard, *self._range(row)))
        return read_together(ranges)

    def _range(self, row: int) -> tuple[int, int]:
        start = int(self._offset[row])
        return start, start + int(self._size[row])

    def _facts(self, rows: npt.NDArray[np.int64]) -> bytes:
        """Return the sizes of the images."""
        sizes: bytes = self._size[rows].astype("<i8").tobytes()
        return sizes


def _index(description: str, shards: tuple[AnyPath, ...]) -> pa.Table:
    """Return name, place, size and label of every image, from the cache if they are there."""
    name = Path(description).name or "shards", ".index"
    index = kept_bytes(description, shards, name, "index", partial(_write_index, shards))
    return pq.read_table(pa.BufferReader(index))


def _write_index(shards: tuple[AnyPath, ...], target: IO[bytes]) -> None:
    # Threads which wait for the disk together, or for a network.
    threads = usable_processors() if isinstance(shards[0], Path) else AT_ONCE
    with (
        pq.ParquetWriter(target, _SCHEMA) as writer,
        track("indexing shards", len(shards), "shards") as advance,
        ThreadPoolExecutor(threads) as pool,
    ):
        for number, found in enumerate(pool.map(index_shard, shards)):
            columns = [[number] * len(found), *zip(*found, strict=True)] if found else [[]] * 5
            writer.write_table(
                pa.table(
                    [
                        pa.array(list(column), field.type)
                        for column, field in zip(columns, _SCHEMA, strict=True)
                    ],
                    schema=_SCHEMA,
                )
            )
            advance(1)


@dataclass
class _Sample:
    """The members of one key; images as offset and size."""

    image: tuple[str, int, int] | None = None
    label: str | None = None


def index_shard(path: AnyPath) -> list[tuple[str, int, int, str]]:
    """List the labelled images of a shard: name, offset and size of the data, and label.

    Raises
    ------
    PydreamError
        If it is no tar, or is damaged or cut off.
    """
    samples: dict[str, _Sample] = {}
    try:
        with (
            path.open("rb", _INDEXED_AT_ONCE) as file,
            tarfile.open(fileobj=file, mode="r:") as archive,
        ):
            for member in forwards(archive):
                archive.members = []  # type: ignore[attr-defined]  # it would only grow
                parts = _PARTS.fullmatch(member.name) if member.isfile() else None
                if parts is None:
                    continue
                kind = parts[2].lower()
                if (kind in _LABELS or is_image(member.name)) and _may_grow(member):
                    raise tarfile.ReadError(f"its member {member.name!r} is sparse or too large")
                sample = samples.setdefault(parts[1], _Sample())
                if kind == "cls" or (kind == "json" and sample.label is None):
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    sample.label = _label(kind, content.read(), path, member.name) or sample.label
                elif is_image(member.name) and (sample.image is None or "." not in kind):
                    name = member.name.removeprefix("./")  # rather KEY.png than KEY.mask.png
                    sample.image = name, member.offset_data, member.size
            if file.seek(0, os.SEEK_END) < archive.offset:
                raise tarfile.ReadError("unexpected end of data")
    except (*TAR_ERRORS, OSError) as error:
        raise PydreamError(
            f"{path}: not a readable tar archive: {first_line(error)}; it may be damaged or cut "
            "off: fetch it again"
        ) from error
    return [
        (*sample.image, sample.label)
        for sample in samples.values()
        if sample.image is not None and sample.label is not None
    ]


def _may_grow(member: tarfile.TarInfo) -> bool:
    """Return whether a member takes more memory than the shard has bytes of it, or too much."""
    return member.issparse() or member.size > MOST_BYTES


def _label(kind: str, content: bytes, path: AnyPath, name: str) -> str | None:
    """Return the label in a member; None if a JSON file has none."""
    try:
        if kind == "cls":
            return content.decode().strip()
        found: Any = parse_json(content)
    except ValueError as error:
        raise PydreamError(f"{path}: {name} is not readable: {first_line(error)}") from error
    label = found.get("label") if isinstance(found, dict) else None
    return None if label is None else str(label)


def _are_numbers(labels: pa.ChunkedArray) -> bool:
    return all(label.isdecimal() for label in labels.unique().to_pylist())


def _numbers(labels: pa.ChunkedArray, description: str) -> pa.ChunkedArray:
    try:
        return labels.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise PydreamError(
            f"{description}: classes have names, and a label is no number: {first_line(error)}"
        ) from error


def _counts(shards: tuple[AnyPath, ...], table: pa.Table) -> list[int]:
    """Return the number of images of each shard."""
    counts: list[int] = np.bincount(as_numpy(table["shard"]), minlength=len(shards)).tolist()
    return counts


def _names_beside(root: AnyPath) -> tuple[str, ...] | None:
    """Return the names of the classes from a file beside the shards, one a line."""
    for name in _NAMES:
        file = root / name
        if file.is_file():
            lines = file.read_text(encoding="utf-8-sig").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return None
