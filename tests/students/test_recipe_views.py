"""Views of the published recipes beyond RDED's and IDC's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from pydream.ops import random_augment
from pydream.students import views as module
from pydream.students.rand_augment import rand_augment
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import recipe_named
from pydream.students.views import MixedBatch, views

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
# Normalising in another order of operations costs a few roundings of float32 at values below 3.
NORMALISE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}
# A statistical test that a right program fails once in a million seeds.
UNLIKELY = 1e-6


def recipe(name: str, factor: int = 2, **changes: Any) -> ResolvedRecipe:
    plain = resolve(
        recipe_named(name),
        student="convnet3",
        num_images=1000,
        num_classes=10,
        side=12,
        factor=factor,
        overrides={"learning_rate": 0.01},
    )
    return dataclasses.replace(plain, **changes)


def images(count: int, side: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def epoch(pixels: torch.Tensor, seed: int, how: ResolvedRecipe) -> list[MixedBatch]:
    return list(views(pixels, 3, seed, how, mean=MEAN, std=STD))


def by_row(batches: list[MixedBatch]) -> torch.Tensor:
    rows = torch.cat([batch.rows for batch in batches])
    return torch.cat([batch.images for batch in batches])[torch.argsort(rows)]


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    scaled = pixels.permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return ((scaled - mean) / std).float()


def without_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DSA draw the parameters that change nothing."""
    monkeypatch.setattr(module, "random_augment", nothing)


def nothing(count: int, side: int, strategy: str, *, seed: int) -> torch.Tensor:
    parameters = random_augment(count, side, "flip", seed=seed)
    parameters[:, 3:9] = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    return parameters


def test_dc_shows_whole_images_as_they_are() -> None:
    pixels = images(7)
    shown = by_row(epoch(pixels, 0, recipe("dc", batch_size=3)))
    torch.testing.assert_close(shown, normalised(pixels), **NORMALISE)


def test_rand_augment_is_torchvisions_with_a_seed_for_each_image() -> None:
    pixels, seeds = images(6), [3, 1, 4, 1, 5, 2**62]
    state = torch.get_rng_state()
    augmented = rand_augment(pixels, seeds, 2, 6)
    assert torch.equal(torch.get_rng_state(), state)
    transform = v2.RandAugment(
        2, 6, 11, interpolation=v2.InterpolationMode.BILINEAR, fill=[124, 116, 104]
    )
    for image, seed, found in zip(pixels, seeds, augmented, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            wanted = transform(image.permute(2, 0, 1)).permute(1, 2, 0)
        assert torch.equal(found, wanted)
    # Nor does an image depend on those beside it.
    assert torch.equal(rand_augment(pixels[4:], seeds[4:], 2, 6), augmented[4:])


def test_views_of_rand_augment_follow_seed_image_and_epoch_alone() -> None:
    pixels = images(11)
    one, other, another = (
        by_row(epoch(pixels, seed, recipe("delt", batch_size=size, mix_probability=0.0)))
        for seed, size in ((7, 4), (7, 11), (8, 4))
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, another)
    plain = recipe("delt", batch_size=4, mix_probability=0.0, rand_augment=(0, 0))
    assert not torch.equal(one, by_row(epoch(pixels, 7, plain)))


def test_patches_are_shuffled_only_where_a_recipe_says_so() -> None:
    # Without crops and flips, a view has the patches of its image in their places, or elsewhere.
    pixels = images(20)
    plain: dict[str, Any] = {
        "crop_scale": (1.0, 1.0),
        "crop_ratio": (1.0, 1.0),
        "horizontal_flip": False,
    }
    still, moved = (
        by_row(epoch(pixels, 0, recipe(name, mix_probability=0.0, **plain)))
        for name in ("sre2l", "edc")
    )
    torch.testing.assert_close(still, normalised(pixels), **NORMALISE)
    assert (moved - normalised(pixels)).abs().amax(dim=(1, 2, 3)).gt(1e-3).float().mean() > 0.5
    torch.testing.assert_close(
        moved.flatten(2).sort(dim=2).values, still.flatten(2).sort(dim=2).values, **NORMALISE
    )


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_random_cells_are_enlarged_as_often_as_published(
    monkeypatch: pytest.MonkeyPatch, factor: int
) -> None:
    without_augmentation(monkeypatch)
    pixels = images(600)
    how = recipe("cim", factor, batch_size=37)
    assert how.views_per_image == 1
    shown = by_row(epoch(pixels, 1, how))
    side = 12 // factor
    forms = [normalised(pixels)]
    for down in range(factor):
        for across in range(factor):
            cell = pixels[:, down * side : (down + 1) * side, across * side : (across + 1) * side]
            enlarged = torch.nn.functional.interpolate(
                normalised(cell), size=(12, 12), mode="bilinear", antialias=False
            )
            forms.append(enlarged)
    distance = torch.stack([(shown - form).abs().amax(dim=(1, 2, 3)) for form in forms])
    assert distance.min(dim=0).values.max() < 1e-4
    if factor == 1:
        return
    counts = distance.argmin(dim=0).bincount(minlength=factor**2 + 1).tolist()
    # The image once in f², and the cells alike.
    wanted = [600 / factor**2, *[600 * (1 - 1 / factor**2) / factor**2] * factor**2]
    assert stats.chisquare(counts, wanted).pvalue > UNLIKELY
    again = by_row(epoch(pixels, 1, recipe("cim", factor, batch_size=600)))
    assert torch.equal(shown, again)


def test_dsa_shows_whole_images_with_one_operation_for_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = []

    def watched(count: int, side: int, strategy: str, *, seed: int) -> torch.Tensor:
        words.append(strategy)
        return random_augment(count, side, strategy, seed=seed)

    monkeypatch.setattr("pydream.students.augmentation.random_augment", watched)
    pixels = images(60)
    how = recipe("dsa", batch_size=2)
    shown = by_row(epoch(pixels, 0, how))
    assert len(words) == 30
    assert {*words} <= {"color", "crop", "cutout", "flip", "scale", "rotate"}
    assert len({*words}) > 3  # six words in thirty draws
    assert torch.equal(shown, by_row(epoch(pixels, 0, how)))
    monkeypatch.setattr("pydream.students.augmentation.random_augment", nothing)
    plain = by_row(epoch(pixels, 0, how))
    torch.testing.assert_close(plain, normalised(pixels), **NORMALISE)
