"""A distilled set on disk, opened for reading."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pydream.data.decode import decode_image
from pydream.errors import ImageError, PydreamError
from pydream.processors import usable_processors
from pydream.sets.image_formats import image_files
from pydream.sets.manifest import Manifest

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


class StoredImages(Sequence[torch.Tensor]):
    """The images of a set, each read on access.

    Parameters
    ----------
    files
        The image files, in order.
    side
        Required height and width of each image, in pixels.
    """

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self.files = tuple(files)
        self.side = side

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> StoredImages: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | StoredImages:
        """Return an image, (side, side, 3) uint8.

        Raises
        ------
        PydreamError
            If the file is unreadable, or the image has another size.
        """
        if isinstance(index, slice):
            return StoredImages(self.files[index], self.side)
        file = self.files[index]
        try:
            image = decode_image(file.read_bytes())
        except (ImageError, OSError) as error:
            raise PydreamError(f"{file}: {error}") from error
        if tuple(image.shape) != (self.side, self.side, 3):
            raise PydreamError(
                f"{file}: the image is {image.shape[0]}x{image.shape[1]}, "
                f"but those of its set are {self.side}x{self.side}"
            )
        return image

    @property
    def nbytes(self) -> int:
        """Bytes of all images together, once decoded."""
        return len(self) * 3 * self.side**2

    def stack(self) -> torch.Tensor:
        """Read all images, (N, side, side, 3) uint8; raises as reading one does."""
        with ThreadPoolExecutor(usable_processors()) as pool:
            return torch.stack(list(pool.map(self.__getitem__, range(len(self)))))


class ImagesInMemory(Sequence[torch.Tensor]):
    """Images of a set that are in memory.

    Parameters
    ----------
    pixels
        (N, S, S, 3) uint8.
    """

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels
        self.side = pixels.shape[1]

    def __len__(self) -> int:
        return len(self.pixels)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> ImagesInMemory: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | ImagesInMemory:
        """Return an image, (side, side, 3) uint8, or several of the images."""
        chosen = self.pixels[index]
        return ImagesInMemory(chosen) if isinstance(index, slice) else chosen

    @property
    def nbytes(self) -> int:
        """Bytes of all images together."""
        return self.pixels.nbytes

    def stack(self) -> torch.Tensor:
        """Return all images, (N, side, side, 3) uint8, without a copy."""
        return self.pixels


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
    """

    path: Path
    manifest: Manifest
    stored: StoredImages | ImagesInMemory
    labels: torch.Tensor
    class_names: tuple[str, ...]
    provenance: pa.Table | None
    soft_labels: torch.Tensor | None = None

    @functools.cached_property
    def images(self) -> torch.Tensor:
        """All images, (N, S, S, 3) uint8; raises as ``stored`` does."""
        return self.stored.stack()

    @functools.cached_property
    def images_sha256(self) -> str:
        """SHA-256 of the image files from the manifest, or of the pixels of another tool's set."""
        if self.is_ours:
            return str(self.manifest.images_sha256)
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()

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
        path = self.path
        return path / name if self.is_ours else path.with_name(f"{path.stem}-{name}")


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
        provenance=pq.read_table(provenance) if provenance.exists() else None,
    )
