"""A part of a source: some of its classes, and some images of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pydream.data.source import Source
from pydream.errors import ImageError


class Subset(Source):
    """Some classes of a source, and the first images of each.

    Parameters
    ----------
    source
        The whole source.
    classes
        Labels of the classes, in their new order.
    per_class
        Number of images of each class, taken from the first on; None for all.
    description
        Name of the subset, by default that of the source.
    """

    def __init__(
        self,
        source: Source,
        classes: Sequence[int],
        per_class: int | None = None,
        description: str | None = None,
    ) -> None:
        self._source = source
        parts = [source.class_indices(label)[:per_class] for label in classes]
        self._rows = np.concatenate(parts)
        super().__init__(
            description=source.description if description is None else description,
            split=source.split,
            class_names=[source.class_names[label] for label in classes],
            keys=[source.keys[row] for row in self._rows],
            labels=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
            ignored=source.ignored_kinds,
            notes=source.notes,
        )
        self.upright, self.remote = source.upright, source.remote

    def read(self, index: int) -> bytes | npt.NDArray[np.uint8]:
        """Read one image as stored; see `Source.read`."""
        return self._source.read(int(self._rows[index]))

    def read_many(
        self, indices: Sequence[int]
    ) -> Sequence[bytes | npt.NDArray[np.uint8] | ImageError]:
        """Read images as stored; see `Source.read_many`."""
        return self._source.read_many([int(self._rows[index]) for index in indices])

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """SHA-256 over names and the whole source's hash of these images; see `Source.fingerprint`.

        The whole source hashes its own names, which do not tell the classes here or their order.
        """
        digest = self._hash_of_names()
        rows = range(len(self)) if indices is None else indices
        digest.update(self._source.fingerprint(int(self._rows[row]) for row in rows).encode())
        return digest.hexdigest()
