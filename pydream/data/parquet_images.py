"""Encoded images of parquet files: read by row group, or unpacked once where rows are shuffled."""

from __future__ import annotations

import hashlib
import itertools
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pydream.data.cache import DIGEST, forget_damaged, kept, reading_cache
from pydream.data.parquet_access import open_file, read_columns
from pydream.data.parquet_columns import Columns
from pydream.data.remote import AnyPath, RemotePath
from pydream.data.stores import AT_ONCE
from pydream.errors import ImageError, PydreamError, first_line
from pydream.progress import track

_HELD_BYTES = 512 << 20  # of row groups in memory
# Row groups are read in place if an epoch in the order of the classes reads no group more often.
_MOST_READINGS = 1.5

_Group = tuple[int, int]  # file and row group


class RowImages:
    """Random access to the images of parquet files.

    A row group is read whole, because a file tells the place of none of its values. The last groups
    stay in memory, and all of them if they fit there. If they do not fit, and the order of the
    classes would read groups again and again, the images are unpacked once to a file in the cache.

    Parameters
    ----------
    description
        Name of the source, for messages.
    files
        The files.
    columns
        Their columns.
    order
        int64 (N,): the rows of all files, in the order in which they will be read.
    """

    def __init__(
        self,
        description: str,
        files: Sequence[AnyPath],
        columns: Columns,
        order: npt.NDArray[np.int64],
    ) -> None:
        self._description, self._files, self._columns = description, list(files), columns
        self._remote = isinstance(files[0], RemotePath)
        with ThreadPoolExecutor(AT_ONCE if self._remote else 1) as waiting:
            self._metadata = list(waiting.map(lambda file: open_file(file).metadata, files))
        groups, counts, sizes = [], [], []
        self._column = f"{columns.image}.bytes" if columns.in_struct else columns.image
        for number, metadata in enumerate(self._metadata):
            place = _place_of(metadata, self._column)
            for group in range(metadata.num_row_groups):
                described = metadata.row_group(group)
                groups.append((number, group))
                counts.append(described.num_rows)
                sizes.append(described.column(place).total_uncompressed_size)
        self._groups: list[_Group] = groups
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._sizes = sizes
        self._order = order
        self._held: OrderedDict[int, Future[pa.ChunkedArray]] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    @cached_property
    def footers(self) -> bytes:
        """SHA-256 of the sizes and numbers of rows of all row groups."""
        sizes = np.array([*self._starts, *self._sizes], dtype="<i8")
        return hashlib.sha256(sizes.tobytes()).digest()

    def read(self, row: int) -> bytes:
        """Return an encoded image.

        Parameters
        ----------
        row
            Its row, counted through all files.

        Raises
        ------
        ImageError
            If there is none in the row, or the file cannot be read.
        """
        if self._unpacked is not None and (image := self._unpacked.read(row)):
            return image
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        value = self._group(number)[row - int(self._starts[number])].as_py()
        if value is None:
            raise ImageError("the row has no image")
        return bytes(value)

    @cached_property
    def _unpacked(self) -> _Unpacked | None:
        """The images in a file of their own, if row groups cannot be read in place."""
        with self._lock:
            if sum(self._sizes) <= _HELD_BYTES:
                return None
            group = np.searchsorted(self._starts, self._order, side="right")
            readings = 1 + np.count_nonzero(np.diff(group))
            if readings <= _MOST_READINGS * len(self._groups):
                return None
            # The same file may be read by another column; a column may have any name.
            column = hashlib.sha256(self._column.encode()).hexdigest()[:8]
            name = f"{Path(self._description).name or 'images'}-{column}", ".images"
            for _ in range(2):
                place = kept(self._description, self._files, name, "unpack", self._unpack)
                with reading_cache(place):
                    unpacked = _Unpacked.open(place)
                if unpacked is not None:
                    return unpacked
                forget_damaged(place)
            raise PydreamError(f"{place} is damaged as soon as it is written")

    def _unpack(self, target: IO[bytes]) -> None:
        """Write all images, one after another; images that cannot be read are empty."""
        place, places = 0, [(0, 0)]
        with track("unpacking images", len(self._order), "images") as advance:
            for number, count in enumerate(np.diff(self._starts).tolist()):
                try:
                    images = [image.as_py() or b"" for image in self._load(number)]
                except ImageError:
                    images = [b""] * count
                for image in images:
                    target.write(image)
                    place += len(image)
                    places.append((place, zlib.crc32(image)))
                advance(count)
        target.write(_Unpacked.tail(np.array(places, "<i8"), place))

    @cached_property
    def _following(self) -> dict[int, int]:
        """The row group that is read after each, in the order of the classes."""
        groups = np.searchsorted(self._starts, self._order, side="right") - 1
        _, first = np.unique(groups, return_index=True)
        ordered = groups[np.sort(first)].tolist()
        return dict(itertools.pairwise(ordered))

    @cached_property
    def _ahead(self) -> ThreadPoolExecutor:
        """The thread that reads row groups before they are asked for."""
        return ThreadPoolExecutor(1, thread_name_prefix="pydream-row-groups")

    def _group(self, number: int) -> pa.ChunkedArray:
        """Return the images of a row group; from a store, begin to read the following one."""
        if self._remote and (after := self._following.get(number)) is not None:
            with self._lock:
                new = after not in self._held
            if new and self._sizes[number] + self._sizes[after] <= _HELD_BYTES:
                self._ahead.submit(self._held_group, after)
        return self._held_group(number)

    def _held_group(self, number: int) -> pa.ChunkedArray:
        """Return the images of a row group, which one thread reads while others wait for it."""
        with self._lock:
            future = self._held.get(number)
            mine = future is None
            if future is None:
                future = self._held[number] = Future()
                self._held_bytes += self._sizes[number]
            self._held.move_to_end(number)
            while self._held_bytes > _HELD_BYTES and len(self._held) > 1:
                oldest, _ = self._held.popitem(last=False)
                self._held_bytes -= self._sizes[oldest]
        if mine:
            try:
                future.set_result(self._load(number))
            except BaseException as error:  # without it, the others would wait for ever
                if not isinstance(error, ImageError):  # Ctrl-C or no memory, which pass
                    self._let_go(number, future)
                future.set_exception(error)
        return future.result()

    def _let_go(self, number: int, future: Future[pa.ChunkedArray]) -> None:
        """Hold a row group no longer, unless another reading of it has taken its place."""
        with self._lock:
            if self._held.get(number) is future:
                del self._held[number]
                self._held_bytes -= self._sizes[number]

    def _load(self, number: int) -> pa.ChunkedArray:
        """Read the images of a row group, in chunks of which each has less than 2 GiB."""
        file, group = self._groups[number]
        try:
            table = read_columns(self._files[file], [self._column], group, self._metadata[file])
        except (pa.ArrowException, OSError) as error:
            raise ImageError(
                f"row group {group} of {self._files[file]} cannot be read: {first_line(error)}"
            ) from error
        images = table[self._columns.image]
        return pc.struct_field(images, "bytes") if self._columns.in_struct else images


def _place_of(metadata: pq.FileMetaData, path: str) -> int:
    """Return the number of a column among the leaves of the schema."""
    schema = metadata.schema
    return next(place for place in range(len(schema)) if schema.column(place).path == path)


class _Unpacked:
    """A file of images and, behind them, of their places, as `RowImages` writes it.

    The places are int64 (N + 1, 2): the end of each image and its CRC-32, after a row of zeros. The
    number of bytes of all images, and a SHA-256 of all that lies behind them, end the file.
    """

    def __init__(self, content: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> None:
        self._bytes, self._places = content, places

    @staticmethod
    def tail(places: npt.NDArray[np.int64], size: int) -> bytes:
        """Return what lies behind the images."""
        content = places.tobytes() + np.array([size], "<i8").tobytes()
        return content + hashlib.sha256(content).digest()

    @classmethod
    def open(cls, path: Path) -> _Unpacked | None:
        """Open a file; None if its places are damaged."""
        if path.stat().st_size < 8 + DIGEST:
            return None
        content = np.memmap(path, dtype=np.uint8, mode="r")
        start = int(content[-8 - DIGEST : -DIGEST].view("<i8")[0])
        tail = content[max(start, 0) :]
        if start < 0 or hashlib.sha256(tail[:-DIGEST].data).digest() != tail[-DIGEST:].tobytes():
            return None
        return cls(content, tail[: -8 - DIGEST].view("<i8").reshape(-1, 2))

    def read(self, row: int) -> bytes | None:
        """Return an image; None for one that could not be read, or is damaged."""
        start, end = int(self._places[row, 0]), int(self._places[row + 1, 0])
        image = self._bytes[start:end].tobytes()
        return image if zlib.crc32(image) == self._places[row + 1, 1] else None
