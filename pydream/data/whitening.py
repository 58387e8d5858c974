"""ZCA whitening: images whose pixels are decorrelated, as MTT trains on CIFAR."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pydream.data.cache import DIGEST, cache_folder, forget_damaged, make_once
from pydream.data.resized import LabelledImages, load_split
from pydream.data.source import Source
from pydream.errors import PydreamError
from pydream.formatting import byte_words
from pydream.progress import say

EPSILON = 0.1
"""What MTT adds to every variance, on the scale of [0, 1]."""

_MOST_SIDE = 64
_ROWS = 1024  # images whitened in a product of matrices; it is fixed, as last bits depend on it
# Images whose products are summed in float32. Values are from -128 to 127, so that a sum has at
# most 2^24, up to which float32 has all whole numbers.
_SUMMED = 1024
_VERSION = 1  # counts changes of what is fitted and of how it is kept
_KEPT_FROM = 1024  # values of an image; with fewer, the fit takes a fraction of a second


@dataclass(frozen=True)
class Whitening:
    """A fitted whitening, and its inverse.

    Attributes
    ----------
    mean
        float32 (D,): mean of the colours on the scale of [0, 1]; D is C · S · S, in this order.
    matrix, inverse
        float32 (D, D), symmetric.
    shape
        C, S and S of the images.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor
    shape: tuple[int, int, int]

    def __call__(self, images: Tensor) -> Tensor:
        """Whiten images.

        Parameters
        ----------
        images
            (..., C, S, S), on the scale of [0, 1].

        Raises
        ------
        PydreamError
            If it was fitted on images of another shape.
        """
        return self._transformed(images, lambda rows: (rows - self.mean) @ self.matrix)

    def undo(self, whitened: Tensor) -> Tensor:
        """Return the colours of whitened images, (..., C, S, S), which may lie beyond [0, 1]."""
        return self._transformed(whitened, lambda rows: rows @ self.inverse + self.mean)

    def undo_step(self, step: Tensor) -> Tensor:
        """Return how far colours move if whitened images move by a step, (..., C, S, S)."""
        return self._transformed(step, lambda rows: rows @ self.inverse)

    def of_pixels(self, images: Tensor) -> Tensor:
        """Whiten (N, S, S, C) uint8: float32 of the same shape."""
        return self(images.movedim(-1, 1).float() / 255).movedim(1, -1).contiguous()

    def of_split(self, split: LabelledImages, device: torch.device) -> LabelledImages:
        """Whiten (N, S, S, C) uint8 images where they are, and move them to a device."""
        return LabelledImages(self.of_pixels(split.images).to(device), split.labels.to(device))

    def to(self, device: torch.device) -> Whitening:
        """Return the whitening on a device."""
        mean, matrix, inverse = (
            values.to(device) for values in (self.mean, self.matrix, self.inverse)
        )
        return Whitening(mean, matrix, inverse, self.shape)

    def _transformed(self, images: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        if tuple(images.shape[-3:]) != self.shape:
            ours, theirs = (
                " × ".join(map(str, shape)) for shape in (self.shape, images.shape[-3:])
            )
            raise PydreamError(
                f"the whitening (ZCA) was fitted on images of {ours}, and these are of {theirs}: "
                "fit it on images of their size"
            )
        rows = images.reshape(-1, self.mean.numel()).float()
        done = [transform(part) for part in rows.split(_ROWS)]
        return torch.cat(done).view(images.shape) if done else images.float()


def fit_whitening(images: Tensor, epsilon: float = EPSILON) -> Whitening:
    """Fit ZCA whitening on images.

    With the covariance of the colours, U diag(S) Uᵀ, which is divided by N - 1, the matrix is
    U diag((S + epsilon)^-½) Uᵀ, and its inverse U diag((S + epsilon)^½) Uᵀ.

    Parameters
    ----------
    images
        (N, C, S, S) uint8, at least two.
    epsilon
        What is added to every variance.

    Returns
    -------
    Whitening
        Computed in float64, from exact sums. It is that of ``kornia.enhance.ZCAWhitening``, which
        MTT uses, up to rounding. Its bytes depend neither on the order of the images nor on the
        number of threads.

    Raises
    ------
    PydreamError
        If there are fewer images, or they are too large.
    """
    count, shape = len(images), (*images.shape[1:],)
    check_side(shape[-1])
    if count < 2:
        raise PydreamError(f"whitening (ZCA) is fitted on two images or more, not on {count}")
    rows = images.reshape(count, -1).numpy()
    totals = rows.sum(axis=0, dtype=np.int64)
    centred = totals - 128 * count
    covariance = _centred_products(rows)
    covariance -= np.outer(centred, centred / count)
    covariance /= (count - 1) * 255**2
    # Several threads would change last bits, and beside other programs wait for each other.
    with threadpool_limits(1, user_api="blas"):
        variances, axes = np.linalg.eigh(covariance)
        del covariance
        scales = np.sqrt(variances.clip(min=0) + epsilon)
        matrix, inverse = (_symmetric(axes, powers) for powers in (1 / scales, scales))
    mean = torch.from_numpy(totals / count / 255).float()
    return Whitening(mean, matrix, inverse, shape)


def _centred_products(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the sums of products of all pairs of values, less 128, over (N, D): exact, (D, D)."""
    products = np.zeros((rows.shape[1],) * 2)
    for first in range(0, len(rows), _SUMMED):
        values = rows[first : first + _SUMMED].astype(np.float32) - 128
        products += values.T @ values  # NumPy computes one half of a matrix by its transpose
    return products


def _symmetric(axes: npt.NDArray[np.float64], powers: npt.NDArray[np.float64]) -> Tensor:
    """Return U diag(powers) Uᵀ in float32."""
    half = axes * np.sqrt(powers)
    return torch.from_numpy((half @ half.T).astype(np.float32))


def fit_once(images: Tensor) -> Whitening:
    """Return the whitening of images, from the cache if it has been fitted before.

    The name of a file in the cache is a hash of the colours and of all else that the whitening
    depends on. It holds the mean, the matrix and the inverse as little-endian float32, and their
    SHA-256. A damaged file is replaced. If the cache cannot be written, that is said, and the
    whitening is returned all the same. That of small images is not kept.

    Parameters
    ----------
    images
        (N, C, S, S) uint8 on the CPU, at least two.

    Raises
    ------
    PydreamError
        The same as for `fit_whitening`.
    """
    folder = cache_folder()
    if len(images) < 2 or images[0].numel() < _KEPT_FROM or folder is None:
        return fit_whitening(images)
    images, shape, fitted = images.contiguous(), (*images.shape[1:],), list[Whitening]()
    digest = hashlib.sha256(f"{_VERSION} {EPSILON} {tuple(images.shape)} ".encode())
    digest.update(images.numpy().data)
    place = folder / f"zca-{digest.hexdigest()[:32]}.whitening"
    announcement = f"whitening (ZCA): kept once it is fitted, as {place}"
    for _ in range(2):
        try:
            make_once(place, partial(_fit_into, images, fitted), announcement)
        except OSError as error:
            say(
                f"whitening (ZCA): cannot be kept in {folder}: {error.strerror or error}; set "
                "XDG_CACHE_HOME to a folder with enough room, or each run fits it again"
            )
            break
        known = fitted[0] if fitted else _read(place, shape)
        if known is not None:
            return known
        forget_damaged(place)
    return fitted[0] if fitted else fit_whitening(images)


def _fit_into(images: Tensor, fitted: list[Whitening], file: IO[bytes]) -> None:
    """Fit a whitening, append it to a list, and write it."""
    whitening = fit_whitening(images)
    fitted.append(whitening)
    digest = hashlib.sha256()
    for values in (whitening.mean, whitening.matrix, whitening.inverse):
        content = values.numpy().astype("<f4", copy=False).data
        digest.update(content)
        file.write(content)
    file.write(digest.digest())


def _read(place: Path, shape: tuple[int, int, int]) -> Whitening | None:
    """Read what `_fit_into` has written; None if that cannot be read or is damaged."""
    size = int(np.prod(shape))
    try:
        content = np.fromfile(place, np.uint8)
    except OSError:
        return None
    values, digest = content[:-DIGEST], content[-DIGEST:].tobytes()
    if len(values) != 4 * size * (1 + 2 * size) or hashlib.sha256(values.data).digest() != digest:
        return None
    mean, matrix, inverse = torch.from_numpy(
        values.view("<f4").astype(np.float32, copy=False)
    ).split([size, size**2, size**2])
    return Whitening(mean, matrix.view(size, size), inverse.view(size, size), shape)


def whitening_of(
    source: Source, side: int, *, workers: int, allow_skipped: float = 0.01
) -> Whitening:
    """Fit ZCA whitening on all images of a source, once for all runs: see `fit_once`.

    Parameters
    ----------
    source
        The training images.
    side, workers, allow_skipped
        The same as for `pydream.data.resized.load_split`.

    Raises
    ------
    PydreamError
        If the images are too large, or too many of them cannot be read.
    """
    check_side(side)
    cpu = torch.device("cpu")
    split = load_split(source, side, workers=workers, device=cpu, allow_skipped=allow_skipped)
    say(f"whitening (ZCA): fitted on {len(split):,} training images of {side} pixels a side")
    return fit_once(split.images.movedim(-1, 1))


def whitening_record(side: int, fingerprint: str | None = None) -> Mapping[str, Any]:
    """Describe a whitening for a manifest, so that it can be fitted again.

    Parameters
    ----------
    side
        Side of the images, in pixels.
    fingerprint
        Fingerprint of the training images, if it is known.
    """
    record: dict[str, Any] = {"method": "zca", "epsilon": EPSILON, "side": side}
    return record if fingerprint is None else {**record, "source_fingerprint": fingerprint}


def check_side(side: int) -> None:
    """Raise PydreamError if images are too large for a matrix of all pairs of their values."""
    if side > _MOST_SIDE:
        size = 3 * side**2
        raise PydreamError(
            f"whitening (ZCA) of images of {side} pixels a side needs matrices of {size:,} × "
            f"{size:,} numbers, {byte_words(8 * size**2)} each: the largest side is {_MOST_SIDE}"
        )
