from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pydream.students import views as module
from pydream.students.mixing import cut_box
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import IDC, RDED
from pydream.students.views import (
    MixedBatch,
    mix,
    patch_orders,
    shuffle_patches,
    views,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Normalising in another order of operations costs a few roundings of float32 at values below 3.
NORMALISE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}
# The same, weighted by up to 960 in the mean.
DIGEST = 1e-2
# A statistical test that a right program fails once in a million seeds.
UNLIKELY = 1e-6


def recipe(**changes: Any) -> ResolvedRecipe:
    plain = resolve(
        RDED, student="convnet3", num_images=1000, num_classes=10, side=32, factor=1, overrides={}
    )
    return dataclasses.replace(plain, **changes)


def images(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def epoch(pixels: torch.Tensor, number: int, seed: int, how: ResolvedRecipe) -> list[MixedBatch]:
    return list(views(pixels, number, seed, how, mean=MEAN, std=STD))


def unmixed(batch: MixedBatch, rows: torch.Tensor) -> dict[int, torch.Tensor]:
    return dict(zip(rows.tolist(), batch.images, strict=True))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    scaled = pixels.permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return ((scaled - mean) / std).float()


@pytest.fixture
def no_mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(batch: torch.Tensor, how: ResolvedRecipe, seed: int) -> tuple[Any, Any, float]:
        return batch, torch.arange(len(batch)), 1.0

    monkeypatch.setattr(module, "mix", alone)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (7, 3), (19, 19), (20, 10), (101, 50)])
def test_an_epoch_shows_every_image_once_in_even_batches(count: int, batch_size: int) -> None:
    batches = epoch(images(count, 8), 0, 1, recipe(batch_size=batch_size))
    sizes = [len(batch.rows) for batch in batches]
    assert len(sizes) == -(-count // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    rows = torch.cat([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(count))
    for batch in batches:
        assert sorted(batch.partners.tolist()) == sorted(batch.rows.tolist())
        assert batch.images.shape == (len(batch.rows), 3, 8, 8)
        assert batch.images.dtype == torch.float32


@pytest.mark.parametrize("mixing", ["cutmix", "mixup"])
def test_batches_are_channels_last(mixing: Any) -> None:
    for batch in epoch(images(9, 8), 0, 1, recipe(batch_size=4, mix=mixing)):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("factor", "mixing"), [(1, "cutmix"), (2, "mixup"), (3, "cutmix")])
def test_an_epoch_can_be_made_again(factor: int, mixing: Any) -> None:
    how = recipe(batch_size=6, factor=factor, crop_scale=(1 / factor, 1.0), mix=mixing)
    pixels = images(13, 17)
    torch.manual_seed(1)
    first = epoch(pixels, 3, 8, how)
    torch.manual_seed(2)
    np.random.seed(2)
    epoch(pixels, 4, 8, how)
    for one, other in zip(first, epoch(pixels, 3, 8, how), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.partners, other.partners)
        assert one.share == other.share


def test_epochs_and_seeds_differ() -> None:
    pixels, how = images(40, 9), recipe(batch_size=40, factor=2, crop_scale=(0.3, 1.0))
    made = [epoch(pixels, number, seed, how)[0] for number, seed in [(0, 0), (1, 0), (0, 1)]]
    for one, other in itertools.combinations(made, 2):
        assert not torch.equal(one.rows, other.rows)
        assert one.share != other.share
        assert not torch.equal(one.images[one.rows.argsort()], other.images[other.rows.argsort()])


@pytest.mark.usefixtures("no_mixing")
@pytest.mark.parametrize("factor", [1, 2])
def test_a_view_depends_on_seed_image_and_epoch_alone(factor: int) -> None:
    pixels = images(23, 12)
    how = recipe(batch_size=23, factor=factor, crop_scale=(0.3, 1.0))
    (whole,) = epoch(pixels, 2, 6, how)
    wanted = unmixed(whole, whole.rows)
    smaller = [*epoch(pixels, 2, 6, dataclasses.replace(how, batch_size=4))]
    fewer = [*epoch(pixels[:11], 2, 6, dataclasses.replace(how, batch_size=5))]
    for batch in smaller + fewer:
        for row, image in unmixed(batch, batch.rows).items():
            assert torch.equal(image, wanted[row])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    pixels = images(23, 8)
    orders = [
        torch.cat([batch.rows for batch in epoch(pixels, 1, 3, recipe(batch_size=size))])
        for size in (1, 5, 23)
    ]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


@pytest.mark.usefixtures("no_mixing")
def test_whole_views_are_the_images_or_their_mirrors() -> None:
    pixels = images(200, 11)
    (batch,) = epoch(pixels, 0, 0, recipe(batch_size=200))
    plain = normalised(pixels[batch.rows])
    same = ((batch.images - plain).abs() < NORMALISE["atol"]).flatten(1).all(1)
    mirrored = ((batch.images - plain.flip(3)).abs() < NORMALISE["atol"]).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert stats.binomtest(int(mirrored.sum()), 200, 0.5).pvalue > UNLIKELY


@pytest.mark.usefixtures("no_mixing")
def test_without_flips_whole_views_are_the_images() -> None:
    pixels = images(30, 11)
    (batch,) = epoch(pixels, 0, 0, recipe(batch_size=30, horizontal_flip=False))
    torch.testing.assert_close(batch.images, normalised(pixels[batch.rows]), **NORMALISE)


@pytest.mark.usefixtures("no_mixing")
def test_crops_are_smaller_than_the_image() -> None:
    # A ramp across the image: the range of a crop says how wide it is, between 0.5 and 0.5·√(4/3).
    side = 32
    ramp = (torch.arange(side, dtype=torch.uint8) * 8).view(1, 1, side, 1)
    pixels = ramp.expand(100, side, side, 3).contiguous()
    how = recipe(batch_size=100, crop_scale=(0.25, 0.25), crop_ratio=(1.0, 4 / 3))
    (batch,) = epoch(pixels, 0, 0, how)
    levels = batch.images[:, 0].double() * STD[0] * 255
    ranges = levels.amax((1, 2)) - levels.amin((1, 2))
    # Rounding to whole pixels, and the half pixel at either end of an enlarged ramp.
    assert ranges.min() >= 8 * (0.5 * side - 1 - 1)
    assert ranges.max() <= 8 * (0.5 * side * (4 / 3) ** 0.5 + 1)
    assert len(ranges.unique()) > 1


@pytest.mark.parametrize(("side", "factor"), [(4, 1), (6, 2), (12, 3), (19, 2), (11, 4)])
def test_shuffling_permutes_the_rows_and_columns_of_patches(side: int, factor: int) -> None:
    pixels, orders = images(9, side), patch_orders(9, factor, 77)
    shuffled = shuffle_patches(pixels, orders)
    assert shuffled.dtype == torch.uint8
    for image, got, (down, across) in zip(pixels, shuffled, orders.tolist(), strict=True):
        rows = np.array_split(image.numpy(), factor, axis=0)
        image_rows = np.concatenate([rows[row] for row in down], axis=0)
        columns = np.array_split(image_rows, factor, axis=1)
        wanted = np.concatenate([columns[column] for column in across], axis=1)
        assert np.array_equal(got.numpy(), wanted)


@pytest.mark.usefixtures("no_mixing")
def test_views_of_a_collage_hold_its_patches_in_another_place() -> None:
    # Patches of one colour each: shuffled whole views hold each colour a quarter of the time.
    colours = torch.tensor([10, 60, 120, 240], dtype=torch.uint8).view(2, 2)
    image = colours.repeat_interleave(5, 0).repeat_interleave(5, 1)[None, :, :, None]
    pixels = image.expand(64, 10, 10, 3).contiguous()
    (batch,) = epoch(pixels, 0, 0, recipe(batch_size=64, factor=2, horizontal_flip=False))
    levels = (batch.images[:, 0].double() * STD[0] + MEAN[0]).mul(255).round().int()
    seen = set()
    for view in levels:
        corners = view[::5, ::5]
        assert torch.equal(view, corners.repeat_interleave(5, 0).repeat_interleave(5, 1))
        assert sorted(corners.flatten().tolist()) == [10, 60, 120, 240]
        seen.add(tuple(corners.flatten().tolist()))
    assert len(seen) == 4  # two orders of the rows, two of the columns


def test_patch_orders_are_uniform() -> None:
    orders = patch_orders(6000, 3, 5)
    for axis in (0, 1):
        names = orders[:, axis] @ torch.tensor([9, 3, 1])
        counts = names.unique(return_counts=True)[1]
        assert len(counts) == 6
        assert stats.chisquare(counts.numpy()).pvalue > UNLIKELY


def test_cut_boxes_have_the_area_that_the_share_leaves() -> None:
    for share, down, across in itertools.product((0.0, 0.19, 0.5, 0.99), (0.5,), (0.5,)):
        top, bottom, left, right = cut_box(100, share, down, across)
        # Both halves are rounded down to whole pixels.
        assert bottom - top == right - left == 2 * (int(100 * (1 - share) ** 0.5) // 2)
        assert (top + bottom, left + right) == (100, 100)


def test_cut_boxes_are_cut_at_the_border() -> None:
    assert cut_box(32, 0.75, 0.0, 31.5 / 32) == (0, 8, 23, 32)
    assert cut_box(32, 1.0, 0.3, 0.3)[0] == cut_box(32, 1.0, 0.3, 0.3)[1]


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_takes_one_rectangle_from_the_partner(seed: int) -> None:
    before = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 16, 16).clone()
    after, partners, share = mix(before.clone(), recipe(), seed)
    assert sorted(partners.tolist()) == list(range(5))
    moved = partners != torch.arange(5)
    taken = after[moved] == partners[moved].view(-1, 1, 1, 1)
    assert torch.equal(after[~moved], before[~moved])
    assert ((after == before) | (after == partners.view(-1, 1, 1, 1))).all()
    assert (taken == taken[:1, :1]).all()  # the same pixels in all images and channels
    box = taken[0, 0]
    assert share == pytest.approx(1 - float(box.double().mean()))
    filled = torch.outer(box.any(1), box.any(0))
    assert torch.equal(box, filled)


@pytest.mark.parametrize("seed", range(4))
def test_mixup_is_a_weighted_mean_with_the_partner(seed: int) -> None:
    before = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    how = recipe(mix="mixup", mix_concentration=0.8)
    after, partners, share = mix(before.clone(), how, seed)
    wanted = share * before.double() + (1 - share) * before[partners].double()
    torch.testing.assert_close(after, wanted.float(), **NORMALISE)


@pytest.mark.parametrize("concentration", [1.0, 0.8, 3.0])
def test_shares_have_the_beta_distribution(concentration: float) -> None:
    how = recipe(mix="mixup", mix_concentration=concentration)
    pair = torch.zeros(2, 3, 2, 2)
    shares = [mix(pair, how, seed)[2] for seed in range(2000)]
    assert stats.kstest(shares, stats.beta(concentration, concentration).cdf).pvalue > UNLIKELY


def test_partners_are_uniform() -> None:
    pair = torch.zeros(3, 3, 2, 2)
    names = [mix(pair, recipe(), seed)[1] @ torch.tensor([9, 3, 1]) for seed in range(3000)]
    counts = torch.stack(names).unique(return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts.numpy()).pvalue > UNLIKELY


def test_what_a_seed_means_stays() -> None:
    # Labels stored for a set are only right as long as a seed gives the same views.
    batch = epoch(images(10, 8), 5, 124, recipe(batch_size=5, factor=2, crop_scale=(0.5, 1.0)))[1]
    assert batch.rows.tolist() == [8, 3, 9, 7, 1]
    assert batch.partners.tolist() == [3, 9, 7, 1, 8]
    assert batch.share == 0.875
    position = torch.arange(batch.images.numel(), dtype=torch.float64).view(batch.images.shape)
    digest = float((batch.images.double() * position).mean())
    assert digest == pytest.approx(122.57496, abs=DIGEST)


def by_cells(**changes: Any) -> ResolvedRecipe:
    plain = resolve(
        IDC, student="convnet3", num_images=1000, num_classes=10, side=32, factor=2, overrides={}
    )
    return dataclasses.replace(plain, **changes)


def test_cells_are_enlarged_by_the_published_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "diff_augment", lambda image, _: image)
    pixels, how = images(5, 9), by_cells(batch_size=6, mix_probability=0.0)
    seen = {}
    for batch in epoch(pixels, 0, 3, how):
        assert (batch.share, batch.partners.tolist()) == (1.0, batch.rows.tolist())
        seen.update(unmixed(batch, batch.rows))
    assert sorted(seen) == list(range(20))
    padded = torch.nn.functional.pad(pixels.permute(0, 3, 1, 2) / 255, (0, 1, 0, 1), value=0.5)
    for row, view in seen.items():
        (down, across), image = divmod(row // 5, 2), row % 5
        cell = padded[image, :, 5 * down : 5 * down + 5, 5 * across : 5 * across + 5]
        large = torch.nn.functional.interpolate(cell[None], (9, 9), mode="bilinear")[0]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        torch.testing.assert_close(view, (large - mean) / std, **NORMALISE)


def test_views_of_cells_do_not_depend_on_the_batch_size() -> None:
    pixels = images(7, 8)
    views_of = [
        {
            row: view
            for batch in epoch(pixels, 2, 3, by_cells(batch_size=size, mix_probability=0.0))
            for row, view in unmixed(batch, batch.rows).items()
        }
        for size in (3, 28)
    ]
    for row, view in views_of[0].items():
        torch.testing.assert_close(view, views_of[1][row], rtol=0.0, atol=0.0)
    again = epoch(pixels, 3, 3, by_cells(batch_size=28, mix_probability=0.0))[0]
    assert not torch.equal(again.images[again.rows.argsort()][0], views_of[0][0])


def test_the_share_of_batches_that_are_mixed() -> None:
    how = by_cells(mix_probability=0.5)
    batch = torch.randn(4, 3, 8, 8)
    mixed = [mix(batch.clone(), how, seed)[2] < 1.0 for seed in range(400)]
    # A box may also be empty; a binomial of 400 lies within these bounds but once in a million.
    assert 150 < sum(mixed) < 250
