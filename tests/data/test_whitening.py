"""ZCA whitening beside its formula in float64, and beside kornia's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pydream.data import open_source
from pydream.data.whitening import Whitening, fit_whitening, whitening_of
from pydream.errors import PydreamError

# Matrices are rounded to float32 once, and so is a product; values are of the order of 1.
ROUNDED = 1e-5
# Kornia computes covariances and their decomposition in float32.
FLOAT32 = 2e-4


def pictures(count: int, channels: int = 3, side: int = 5) -> torch.Tensor:
    """Random images whose neighbouring pixels are alike, (N, C, S, S) uint8."""
    generator = torch.Generator().manual_seed(count)
    noise = torch.rand(count, channels, side, side, generator=generator).cumsum(2).cumsum(3)
    return (noise / noise.max() * 255).round().to(torch.uint8)


def by_formula(
    images: torch.Tensor, others: torch.Tensor, epsilon: float = 0.1
) -> npt.NDArray[np.float64]:
    """Whiten `others` by the covariance of `images`, by singular values in float64."""
    fitted, seen = (
        part.numpy().astype(np.float64).reshape(len(part), -1) / 255 for part in (images, others)
    )
    axes, variances, _ = np.linalg.svd(np.cov(fitted, rowvar=False))
    matrix = axes @ np.diag(1 / np.sqrt(variances + epsilon)) @ axes.T
    whitened: npt.NDArray[np.float64] = (seen - fitted.mean(axis=0)) @ matrix
    return whitened.reshape(others.shape)


@pytest.mark.parametrize(
    ("count", "channels", "epsilon"), [(200, 3, 0.1), (20, 3, 0.01), (9, 1, 1.0)]
)
def test_images_are_whitened_by_the_formula(count: int, channels: int, epsilon: float) -> None:
    images, others = pictures(count, channels), pictures(7, channels)
    whitening = fit_whitening(images, epsilon)
    found = whitening(others / 255)
    np.testing.assert_allclose(found, by_formula(images, others, epsilon), atol=ROUNDED)
    pixels = whitening.of_pixels(others.movedim(1, -1))
    assert torch.equal(pixels.movedim(-1, 1), found)


def test_it_is_that_of_kornia() -> None:
    enhance = pytest.importorskip("kornia.enhance", reason="kornia is not installed")
    images, others = pictures(300), pictures(7)
    theirs = enhance.ZCAWhitening(eps=0.1, compute_inv=True).fit(images / 255)
    ours = fit_whitening(images)
    whitened = ours(others / 255)
    torch.testing.assert_close(whitened, theirs(others / 255), atol=FLOAT32, rtol=FLOAT32)
    undone = theirs.inverse_transform(whitened)
    torch.testing.assert_close(ours.undo(whitened), undone, atol=FLOAT32, rtol=FLOAT32)


def test_whitened_images_are_uncorrelated() -> None:
    images = pictures(500)
    rows = fit_whitening(images, epsilon=1e-12)(images / 255).flatten(1)
    covariance = torch.from_numpy(np.cov(rows.double().numpy(), rowvar=False))
    torch.testing.assert_close(covariance, torch.eye(75, dtype=torch.float64), atol=1e-3, rtol=0)


def test_it_is_undone() -> None:
    whitening = fit_whitening(pictures(50))
    colours = pictures(8).float().view(2, 4, 3, 5, 5) / 255 * 1.5 - 0.2  # beyond [0, 1], too
    whitened = whitening(colours)
    torch.testing.assert_close(whitening.undo(whitened), colours, atol=ROUNDED, rtol=0)
    step = torch.full_like(whitened, 0.25)
    moved = whitening.undo(whitened + step) - colours
    torch.testing.assert_close(whitening.undo_step(step), moved, atol=ROUNDED, rtol=0)
    assert whitening(colours[:0]).shape == (0, 4, 3, 5, 5)


def test_the_order_of_images_changes_nothing() -> None:
    images = pictures(1500)
    one, other = fit_whitening(images), fit_whitening(images.flip(0))
    assert torch.equal(one.matrix, other.matrix)
    assert torch.equal(one.mean, other.mean)


def test_images_of_another_size() -> None:
    whitening: Whitening = fit_whitening(pictures(20))
    with pytest.raises(PydreamError, match="of 3 × 5 × 5, and these are of 3 × 4 × 4: fit"):
        whitening(torch.zeros(2, 3, 4, 4))
    with pytest.raises(PydreamError, match="these are of 1 × 5 × 5"):
        whitening.undo(torch.zeros(2, 1, 5, 5))


def test_images_that_are_too_large_or_too_few() -> None:
    message = r"of 128 pixels a side needs matrices of 49,152 × 49,152 .*: the largest .* 64"
    with pytest.raises(PydreamError, match=message):
        fit_whitening(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))
    with pytest.raises(PydreamError, match="on two images or more, not on 1"):
        fit_whitening(pictures(1))
    with pytest.raises(PydreamError, match="of 65 pixels a side needs matrices"):
        whitening_of(open_source("digits"), 65, workers=1)
