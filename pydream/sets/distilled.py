"""A distilled set on disk, opened for reading."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pydream.data.arrow_arrays import as_numpy, numbers
from pydream.data.parquet_access import read_whole
from pydream.errors import PydreamError, first_line
from pydream.files import with_own_name
from pydream.sets.image_formats import image_files
from pydream.sets.manifest import Manifest
from pydream.sets.stored_images import ImagesInMemory, SetImages, SourceImages, StoredImages
from pydream.sets.tensor_files import read_tensors

PROVENANCE_SCHEMA = pa.schema(
    [
        ("class", pa.int32()),
        ("image", pa.int32()),
        ("cell", pa.int32()),
        ("source", pa.string()),
        ("top", pa.int32()),
        ("left", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("score", pa.float32()),
    ]
)


@dataclass(frozen=True)
class DistilledSet:
    """A distilled set; images on disk are read on access.

    Attributes
    ----------
    path
        Its folder or file.
    manifest
        Its description, from ``manifest.json``; for a set of another tool, as much as is known.
    stored
        Its images, read one by one, class by class.
    labels
        (N,) int64.
    class_names
        Names of the classes, in the order of the labels.
    provenance
        One row per cell with the origin of its patch; None if the set has no such file.
    soft_labels
        (N, K) float32 logits that came with a set of another tool; None if it has only hard labels.
    values
        (N, 3, S, S) float32 colours on the scale of [0, 1], and perhaps beyond it, of a whitened
        set of another tool; ``stored`` has them rounded to 8 bits. None for other sets.
    """

    path: Path
    manifest: Manifest
    stored: SetImages
    labels: torch.Tensor
    class_names: tuple[str, ...]
    provenance: pa.Table | None
    soft_labels: torch.Tensor | None = None
    values: torch.Tensor | None = None

    @functools.cached_property
    def images(self) -> torch.Tensor:
        """All images, (N, S, S, 3) uint8; raises as ``stored`` does."""
        return self.stored.stack()

    @property
    def float_images(self) -> torch.Tensor:
        """All images, (N, 3, S, S) float32 on the scale of [0, 1], as fine as the set has them.

        They come from ``values``, or from ``images.pt`` of a set of pydream that has one. It raises
        as ``images`` does, and PydreamError for an ``images.pt`` of another set.
        """
        if self.values is not None:
            return self.values
        file = self.path / "images.pt"
        if not self.is_ours or not file.is_file():
            return (self.images.float() / 255).movedim(-1, 1).contiguous()
        held = read_tensors(file)
        images, labels = held.images, held.labels
        side = self.stored.side
        fitting = images.shape == (len(self.labels), 3, side, side)
        if not fitting or labels is None or not torch.equal(labels, self.labels):
            raise PydreamError(
                f"{file} does not hold the images and labels of {self.path}; remove it, and the "
                "image files are taken"
            )
        return images.float()

    @functools.cached_property
    def images_sha256(self) -> str:
        """SHA-256 of the image files from the manifest, or of the pixels of another tool's set."""
        if self.is_ours:
            return str(self.manifest.images_sha256)
        pixels = self.images if self.values is None else self.values
        return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()

    @property
    def is_ours(self) -> bool:
        """Whether the set is a folder in pydream's layout."""
        return (self.path / "manifest.json").is_file()

    @property
    def images_bytes(self) -> int:
        """Bytes of the image files; of the pixels, if the images are in a file of tensors."""
        stored = self.stored
        if isinstance(stored, ImagesInMemory):
            return stored.nbytes
        if isinstance(stored, SourceImages):
            return stored.stored_bytes
        files = image_files(self.path) if self.is_ours else stored.files
        return sum(file.stat().st_size for file in files)

    @property
    def labels_bytes(self) -> int:
        """Bytes of the set's own soft labels and of those stored by `pydream relabel`."""
        own = 0 if self.soft_labels is None else self.soft_labels.nbytes
        files = self.beside("labels").rglob("*")
        return own + sum(file.stat().st_size for file in files if file.is_file())

    def beside(self, name: str) -> Path:
        """Return the path of a derived file: in the set's folder if the set is pydream's."""
        if self.is_ours:
            return self.path / name
        path = with_own_name(self.path)
        own = path.name if path.is_dir() else path.stem
        return path.parent / f"{own}-{name}"


def load_set(path: str | os.PathLike[str]) -> DistilledSet:
    """Open a distilled set.

    Parameters
    ----------
    path
        Folder with ``manifest.json`` and ``images/``.

    Raises
    ------
    PydreamError
        If the folder has no set, a set of a newer format, or numbers of images that contradict the
        manifest.
    """
    path = Path(path)
    manifest = Manifest.read(path)
    files = image_files(path)
    class_names, promised = manifest.class_names, manifest.class_counts
    counts = [0] * len(class_names)
    labels = []
    for file in files:
        if not file.parent.name.isdigit() or int(file.parent.name) >= len(class_names):
            raise PydreamError(f"{file}: the manifest of {path} has no class of that number")
        labels.append(int(file.parent.name))
        counts[labels[-1]] += 1
    if len(promised) != len(class_names):
        raise PydreamError(
            f"{path}: the manifest has {len(promised)} numbers of images for {len(class_names)} "
            "classes"
        )
    for name, count, wanted in zip(class_names, counts, promised, strict=True):
        if count != wanted:
            raise PydreamError(
                f"{path}: the manifest promises {wanted} images of class {name}, but its folder "
                f"holds {count}"
            )
    provenance = path / "provenance.parquet"
    return DistilledSet(
        path=path,
        manifest=manifest,
        stored=StoredImages(files, manifest.side),
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=class_names,
        provenance=_read_provenance(provenance, manifest) if provenance.exists() else None,
    )


def _read_provenance(file: Path, manifest: Manifest) -> pa.Table:
    """Read the origins of the cells, and check that they are those of the images of the set."""
    found = read_whole(file)
    try:
        table = found.select(PROVENANCE_SCHEMA.names).cast(PROVENANCE_SCHEMA)
    except (pa.ArrowException, LookupError, ValueError) as error:
        raise PydreamError(f"{file}: not the provenance of a set: {first_line(error)}") from error
    own = table.select(["class", "image", "cell", "source"])
    if own.num_rows == 0 or any(column.null_count for column in own.columns):
        raise PydreamError(f"{file}: not the provenance of a set: it has empty entries, or none")
    label, image, cell = (as_numpy(own[name]) for name in ("class", "image", "cell"))
    counts = np.array(manifest.class_counts)
    known = (label >= 0) & (label < len(counts))
    known &= (image >= 0) & (image < counts[np.where(known, label, 0)])
    known &= (cell >= 0) & (cell < manifest.factor**2)
    if not known.all():
        row = int(known.argmin())
        raise PydreamError(
            f"{file}: row {row} is of cell {cell[row]} of image {image[row]} of class {label[row]},"
            " which the set does not have"
        )
    scores = as_numpy(table["score"].drop_null())
    if not np.isfinite(scores).all():
        raise PydreamError(f"{file}: not the provenance of a set: a score is not a number")
    return table


def cells_of_class(provenance: pa.Table, label: int) -> pa.Table:
    """Return the rows of one class, in their order."""
    return provenance.take(numbers(np.flatnonzero(as_numpy(provenance["class"]) == label)))
