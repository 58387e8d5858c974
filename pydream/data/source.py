"""Interface of all sources of images."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from pydream.data.decode import prepare
from pydream.data.image_names import check_told_apart, check_utf8, in_parts
from pydream.errors import ImageError, returned


class Source(ABC):
    """The labelled images of one split, in an order that depends only on their names.

    Images are sorted by class, then by key. All methods are thread-safe.

    Attributes
    ----------
    description : str
        Path or name that the user gave.
    split : str
        ``"train"`` or ``"test"``.
    class_names : tuple[str, ...]
        Name of each label: sorted for folders and archives, else in the order of the labels.
    keys : Sequence[str]
        Name of each image, unique within the split, for example ``"airplane/0000.jpg"``.
    labels : ndarray
        int64 (N,), non-decreasing, below ``len(class_names)``.
    ignored : int
        Number of files, folders and rows of tables that were ignored.
    ignored_kinds : Mapping[str, int]
        Number of these by kind, for example ``{".txt": 3, "@eaDir/": 1}``.
    notes : tuple[str, ...]
        Sentences on how the images were found.
    upright : bool
        True if images are rotated and mirrored according to their EXIF orientation.
    remote : bool
        True if reading waits for a network, so that many images are read at once.
    """

    upright: bool = False
    remote: bool = False

    def __init__(
        self,
        *,
        description: str,
        split: str,
        class_names: Sequence[str],
        keys: Sequence[str],
        labels: npt.NDArray[np.int64],
        ignored: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        check_utf8(class_names, description)
        check_told_apart(class_names, description)
        check_utf8(keys, description)
        self.description = description
        self.split = split
        self.class_names = tuple(class_names)
        self.keys = keys
        self.labels = labels
        self.ignored_kinds = dict(ignored or {})
        self.ignored = sum(self.ignored_kinds.values())
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def read(self, index: int) -> bytes | npt.NDArray[np.uint8]:
        """Read one image as stored.

        Parameters
        ----------
        index
            Index in `keys`.

        Returns
        -------
        bytes or ndarray
            The encoded file, or uint8 pixels (H, W), (H, W, 1) or (H, W, 3).

        Raises
        ------
        ImageError
            If it cannot be read.
        """

    def read_many(
        self, indices: Sequence[int]
    ) -> Sequence[bytes | npt.NDArray[np.uint8] | ImageError]:
        """Read images as stored; those next to each other in a store by one request.

        Parameters
        ----------
        indices
            Indices in `keys`.

        Returns
        -------
        Sequence[bytes or ndarray or ImageError]
            What `read` returns or raises for each.
        """
        return [returned(self.read, index) for index in indices]

    @abstractmethod
    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """Return the SHA-256, in hex, of class names, keys and the known facts about the contents.

        These facts are file sizes for a folder or tar, sizes and checksums for a zip, and pixels
        for arrays. Nothing is decoded.

        Parameters
        ----------
        indices
            Images whose contents are included, by default all: on a network disk, the sizes of a
            million files take minutes.
        """

    def image(self, index: int) -> torch.Tensor:
        """Decode one image.

        Parameters
        ----------
        index
            Index in `keys`.

        Returns
        -------
        Tensor
            uint8 (H, W, 3), contiguous; it may share memory with the source, so do not write to it.

        Raises
        ------
        ImageError
            If it cannot be read or decoded; the message is the reason, without the key.
        """
        _, decode = prepare(self.read(index), upright=self.upright)
        return decode()

    def class_indices(self, label: int) -> npt.NDArray[np.int64]:
        """Return the indices of the images of one class.

        Parameters
        ----------
        label
            Index in `class_names`.

        Returns
        -------
        ndarray
            int64, ascending.
        """
        first, end = np.searchsorted(self.labels, (label, label + 1))
        return np.arange(first, end, dtype=np.int64)

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Identity of every image, derived from its key, by which its random numbers are drawn.

        int64 (N,): the first 8 bytes of BLAKE2b of the key in UTF-8, little-endian, signed.
        """
        digests = bytearray()
        for part in in_parts(self.keys):
            digests += b"".join([hashlib.blake2b(key.encode()).digest()[:8] for key in part])
        return np.frombuffer(digests, dtype="<i8").astype(np.int64)

    def _hash_of_names(self) -> hashlib._Hash:
        """Begin a SHA-256 by the names of classes and images, with a zero byte between two."""
        digest = hashlib.sha256("\0".join((*self.class_names, "")).encode())
        for part in in_parts(self.keys):
            digest.update("\0".join(("", *part)).encode())
        return digest
