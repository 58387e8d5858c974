"""The images of a distilled set: in files, in memory, or in a source of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, overload

import torch

from pydream.data.decode import decode_image
from pydream.data.source import Source
from pydream.errors import ImageError, PydreamError
from pydream.processors import usable_processors

SMALL_SIDE = 64
"""Side up to which threads cost more than they save: 10,000 images of 32 pixels take 1.0 s to read
in one thread and 2.1 s in two, which hold the interpreter's lock for most of the time."""


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
        if self.side <= SMALL_SIDE:
            return torch.stack([*self])
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


class SourceImages(Sequence[torch.Tensor]):
    """The images of a set in a source of another kind than files, each read on access.

    Parameters
    ----------
    source
        The source, with the images class by class.
    rows
        Numbers of the images in it; all by default.
    """

    def __init__(self, source: Source, rows: Sequence[int] | None = None) -> None:
        self._source = source
        self._rows = range(len(source)) if rows is None else rows
        height, width = self._image(0).shape[:2]
        if height != width:
            raise PydreamError(
                f"{source.description}: {source.keys[self._rows[0]]} is {height}x{width}; images "
                "of a distilled set must be square"
            )
        self.side = int(height)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> SourceImages: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | SourceImages:
        """Return an image, (side, side, 3) uint8, or several of the images.

        Raises
        ------
        PydreamError
            If it cannot be read, or has another size.
        """
        if isinstance(index, slice):
            return SourceImages(self._source, self._rows[index])
        image = self._image(index)
        if tuple(image.shape) != (self.side, self.side, 3):
            raise PydreamError(
                f"{self._source.description}: {self._source.keys[self._rows[index]]} is "
                f"{image.shape[0]}x{image.shape[1]}, but the first image of the set is "
                f"{self.side}x{self.side}"
            )
        return image

    def _image(self, index: int) -> torch.Tensor:
        row = self._rows[index]
        try:
            return self._source.image(row)
        except ImageError as error:
            raise PydreamError(
                f"{self._source.description}: {self._source.keys[row]}: {error}"
            ) from error

    @property
    def nbytes(self) -> int:
        """Bytes of all images together, once decoded."""
        return len(self) * 3 * self.side**2

    @property
    def stored_bytes(self) -> int:
        """Bytes of all images together, as they are stored."""
        return sum(len(self._source.read(row)) for row in self._rows)

    def stack(self) -> torch.Tensor:
        """Read all images, (N, side, side, 3) uint8; raises as reading one does."""
        with ThreadPoolExecutor(usable_processors()) as pool:
            return torch.stack(list(pool.map(self.__getitem__, range(len(self)))))


SetImages: TypeAlias = StoredImages | ImagesInMemory | SourceImages
