"""ZCA whitening beside its formula in float64, and beside kornia's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from threadpoolctl import threadpool_limits

from pydream.data import open_source, whitening
from pydream.data.whitening import Whitening, fit_once, fit_whitening, whitening_of
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


def test_sums_are_exact_where_they_are_largest() -> None:
    # Dark and alike: a sum of products is ten thousand times what is left of it in the end, so
    # float32 would keep no digit of that if it rounded.
    images = torch.randint(0, 3, (3000, 1, 5, 5), dtype=torch.uint8)
    rows = images.flatten(1).long()
    covariance = (3000 * rows.T @ rows - torch.outer(rows.sum(0), rows.sum(0))).double()
    covariance /= 3000 * 2999 * 255**2
    inverse = fit_whitening(images, epsilon=1e-9).inverse.double()
    found = inverse @ inverse - 1e-9 * torch.eye(25)
    torch.testing.assert_close(found, covariance, rtol=0, atol=1e-6 * float(covariance.max()))


def test_the_number_of_threads_changes_nothing() -> None:
    images = pictures(400, side=14)
    fitted = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            fitted.append(fit_whitening(images))
    for values in ("mean", "matrix", "inverse"):
        assert torch.equal(getattr(fitted[0], values), getattr(fitted[1], values))
    assert torch.equal(fitted[0].matrix, fitted[0].matrix.T)


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


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of images of every fit, with an empty cache that keeps also those of small images."""
    counts = []

    def fit(images: torch.Tensor) -> Whitening:
        counts.append(len(images))
        return fit_whitening(images)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(whitening, "_KEPT_FROM", 1)
    monkeypatch.setattr(whitening, "fit_whitening", fit)
    return counts


def assert_same(found: Whitening, expected: Whitening) -> None:
    assert found.shape == expected.shape
    for name in ("mean", "matrix", "inverse"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "pydream").iterdir())


def test_a_whitening_is_fitted_once(tmp_path: Path, fits: list[int]) -> None:
    images = pictures(30)
    expected = fit_whitening(images)
    for _ in range(2):
        assert_same(fit_once(images), expected)
    assert fits == [30]
    assert_same(fit_once(images.movedim(1, -1).contiguous().movedim(-1, 1)), expected)  # strides
    others = images.clone()
    others[7, 1, 2, 3] ^= 1
    assert_same(fit_once(others), fit_whitening(others))
    fit_once(images.view(30, 1, 3, 25)[..., :5])
    assert fits == [30, 30, 30]
    assert len(kept_files(tmp_path)) == 3


def test_one_of_another_epsilon_or_version_is_not_read(
    fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_once(pictures(9))
    for name, value in (("EPSILON", 0.2), ("_VERSION", whitening._VERSION + 1)):
        monkeypatch.setattr(whitening, name, value)
        fit_once(pictures(9))
    assert fits == [9, 9, 9]


def test_one_of_a_source_is_fitted_once(fits: list[int]) -> None:
    digits = open_source("digits")
    first, second = (whitening_of(digits, 6, workers=1) for _ in range(2))
    assert_same(first, second)
    assert fits == [len(digits)]


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "digest only", "folder"])
def test_a_damaged_file_is_made_again(
    tmp_path: Path, fits: list[int], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(30)
    expected = fit_once(images)
    (place,) = kept_files(tmp_path)
    whole = place.read_bytes()
    if damage == "folder":  # which cannot be read, and not be replaced either
        place.unlink()
        place.mkdir()
    else:
        place.write_bytes(
            {
                "bit": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
                "cut": whole[:-100],
                "empty": b"",
                "digest only": whole[-32:],
            }[damage]
        )
    assert_same(fit_once(images), expected)
    assert fits == [30, 30]
    if damage == "folder":
        return
    assert f"{place}: is damaged, and made again" in capsys.readouterr().err
    assert place.read_bytes() == whole
    assert_same(fit_once(images), expected)
    assert fits == [30, 30]


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path,
    fits: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = pictures(30)
    expected = fit_whitening(images)
    (tmp_path / "cache").write_bytes(b"")
    assert_same(fit_once(images), expected)
    assert "cannot be kept in" in capsys.readouterr().err

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "cache").unlink()
    monkeypatch.setattr("pydream.data.cache.sync", full)
    assert_same(fit_once(images), expected)
    assert "No space left on device; set XDG_CACHE_HOME" in capsys.readouterr().err
    assert kept_files(tmp_path) == []
    monkeypatch.setattr(whitening, "cache_folder", lambda: None)  # no home
    assert_same(fit_once(images), expected)
    assert fits == [30, 30, 30]  # each time once, also where only the writing failed


def test_runs_at_once_fit_it_once(tmp_path: Path, fits: list[int]) -> None:
    images = pictures(300, side=8)
    with ThreadPoolExecutor(3) as runs:
        found = list(runs.map(fit_once, [images] * 3))
    for one in found:
        assert_same(one, found[0])
    assert fits == [300]
    assert len(kept_files(tmp_path)) == 1


def test_small_images_and_refused_ones_leave_nothing_in_the_cache(
    tmp_path: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PydreamError, match="on two images or more, not on 1"):
        fit_once(pictures(1))
    with pytest.raises(PydreamError, match="of 128 pixels a side needs matrices"):
        fit_once(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))
    monkeypatch.setattr(whitening, "_KEPT_FROM", 76)
    fit_once(pictures(9))
    assert not (tmp_path / "cache" / "pydream").exists() or kept_files(tmp_path) == []
