"""ZCA whitening: images whose pixels are decorrelated, as MTT trains on CIFAR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pydream.data.resized import LabelledImages, load_split
from pydream.data.source import Source
from pydream.errors import PydreamError
from pydream.formatting import byte_words
from pydream.progress import say

EPSILON = 0.1
"""What MTT adds to every variance, on the scale of [0, 1]."""

_MOST_SIDE = 64
_ROWS = 1024  # images in a product of matrices; it is fixed, as last bits depend on it


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
        MTT uses, up to rounding.

    Raises
    ------
    PydreamError
        If there are fewer images, or they are too large.
    """
    count, shape = len(images), (*images.shape[1:],)
    check_side(shape[-1])
    if count < 2:
        raise PydreamError(f"whitening (ZCA) is fitted on two images or more, not on {count}")
    rows = images.reshape(count, -1)
    size = rows.shape[1]
    # Whole numbers below 2^53, which float64 adds without rounding, whatever the order.
    products = torch.zeros(size, size, dtype=torch.float64)
    for part in rows.split(_ROWS):
        values = part.double()
        products.addmm_(values.T, values)
    mean = rows.sum(0, dtype=torch.int64).double() / count
    covariance = products.sub_(torch.outer(mean, mean), alpha=count).div_((count - 1) * 255**2)
    variances, axes = torch.linalg.eigh(covariance)
    scales = (variances.clamp(min=0) + epsilon).sqrt()
    matrix, inverse = ((axes * scale @ axes.T).float() for scale in (scales.reciprocal(), scales))
    return Whitening((mean / 255).float(), matrix, inverse, shape)


def whitening_of(
    source: Source, side: int, *, workers: int, allow_skipped: float = 0.01
) -> Whitening:
    """Fit ZCA whitening on all images of a source.

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
    return fit_whitening(split.images.movedim(-1, 1))


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
