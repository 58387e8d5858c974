"""What all sources have in common whose images are rows of a table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pydream.data.row_order import order_rows
from pydream.data.source import Source


class TableSource(Source):
    """Images that are rows of a table, sorted by class, then by name.

    Parameters
    ----------
    labels
        Label of each row, int64.
    class_names
        Names of the classes.
    paths
        Path of each image, as the table has it, or None.
    files
        Name of each file of the table, and its number of rows.
    description, split, ignored, notes
        What `Source` takes under these names.
    """

    def __init__(
        self,
        labels: npt.NDArray[np.int64],
        class_names: tuple[str, ...],
        paths: pa.ChunkedArray | None,
        files: Sequence[tuple[str, int]],
        *,
        description: str,
        split: str,
        ignored: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        ordered = order_rows(labels, class_names, paths, files)
        super().__init__(
            description=description,
            split=split,
            class_names=class_names,
            keys=ordered.keys,
            labels=ordered.labels,
            ignored=ignored,
            notes=[*notes, *ordered.notes],
        )
        self._rows = ordered.rows

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """SHA-256 over names, keys, labels and facts about rows; see `Source.fingerprint`."""
        digest = self._hash_of_names()
        digest.update(self.labels.astype("<i8").tobytes())
        rows = self._rows if indices is None else self._rows[np.fromiter(indices, np.int64)]
        digest.update(self._facts(rows))
        return digest.hexdigest()

    @abstractmethod
    def _facts(self, rows: npt.NDArray[np.int64]) -> bytes:
        """Return what is known about the contents of rows without reading the images."""
