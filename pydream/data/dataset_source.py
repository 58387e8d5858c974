"""Images of a `datasets.Dataset`, the library of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pydream.data.parquet_columns import find_columns, names_of, numbers_of
from pydream.data.source import Source
from pydream.data.split_names import preference, split_name
from pydream.data.table_source import TableSource
from pydream.errors import ImageError, MissingSplitError, PydreamError


def dataset_splits(spec: Any) -> Mapping[str, Any]:
    """Return the splits of a data set by ``"train"`` and ``"test"``.

    Raises
    ------
    PydreamError
        If it has no random access.
    """
    if not isinstance(spec, dict):
        return {"train": _checked(spec)}
    named = {name: found for name in spec if (found := split_name(name))}
    splits = {}
    for name in sorted(named, key=lambda name: -preference(named[name].word)):
        if named[name].split != "unlabelled":
            splits[named[name].split] = _checked(spec[name])  # the preferred one comes last
    return splits


def open_dataset(spec: Any, split: str) -> Source:
    """Open a split of a data set, or of a dictionary of them.

    Raises
    ------
    PydreamError
        If it has no such split, no images or no labels.
    """
    splits = dataset_splits(spec)
    if split not in splits:
        raise MissingSplitError(
            f"the data set has no {split} split, only {', '.join(map(str, spec))}"
            if isinstance(spec, dict)
            else f"the data set has no {split} split: give a DatasetDict with one"
        )
    return DatasetSource(splits[split], split)


def _checked(dataset: Any) -> Any:
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        raise PydreamError(
            f"{type(dataset).__name__} has no random access: load the data set without streaming"
        )
    return dataset


class DatasetSource(TableSource):
    """The images of one data set.

    Images are named as in `ParquetSource`.

    Parameters
    ----------
    dataset
        The data set.
    split
        ``"train"`` or ``"test"``.
    """

    def __init__(self, dataset: Any, split: str) -> None:
        description = str(dataset.info.dataset_name or "the data set")
        columns = find_columns(dataset.features.arrow_schema, {}, description)
        plain = dataset.select_columns([columns.image, columns.label])
        image = columns.image
        if columns.in_struct:
            from datasets import Image

            plain = plain.cast_column(image, Image(decode=False)).flatten()
            image = f"{image}.bytes"
        labels = _column(plain, columns.label)
        names = names_of(labels, columns, description)
        super().__init__(
            numbers_of(labels, columns, names, description),
            names,
            _column(plain, f"{columns.image}.path") if columns.has_paths else None,
            [(split, len(dataset))],
            description=description,
            split=split,
        )
        self._image = image
        self._images = plain.select_columns([image]).with_format("arrow")

    def read(self, index: int) -> bytes:
        """Read the encoded image; see `Source.read`."""
        value = self._images[int(self._rows[index])][self._image][0].as_py()
        if value is None:
            raise ImageError("the row has no image, or only the path of one")
        return bytes(value)

    def _facts(self, rows: npt.NDArray[np.int64]) -> bytes:
        """Return the sizes of the images."""
        sizes = pc.fill_null(pc.binary_length(_column(self._images, self._image)), -1)
        encoded: bytes = sizes.to_numpy().astype("<i8")[rows].tobytes()
        return encoded


def _column(dataset: Any, name: str) -> pa.ChunkedArray:
    """Return a column, whose values stay where they are."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]
