"""Training views of a student: shuffled patches, crops, flips and mixes, drawn from counters.

Nothing here depends on a model or a label, and no state is kept between calls: the batches of an
epoch can be made again at any time, on any machine, so their labels can be stored.

Each kind of draw of each epoch has its own 63-bit seed, from NumPy's
``SeedSequence(seed, spawn_key=(kind, epoch))``. Orders and crops pass it to `random_keys` and
`random_crop_boxes`, with the image's row in the set as its identity. Flips and patch orders are the
raw words of ``Philox(seed)``, a fixed number per row, in the order of the rows, and so are random
cells. DSA's parameters are rows of `random_augment`. RandAugment has a seed for each row.

So shuffle, crop and flip of an image depend only on (seed, row, epoch), not on the batch size or on
the number of later images. Mixes, and DSA's operation where a batch has only one, are drawn per
batch, from the spawn key ``(kind, epoch, step)``: they also depend on the batch size.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import betaincinv

from pydream.ops import (
    crop_resize,
    diff_augment,
    multi_formation,
    random_augment,
    random_crop_boxes,
    random_keys,
)
from pydream.seeds import derived_seed, uniform
from pydream.streams import to_device
from pydream.students.augmentation import one_operation_for_all
from pydream.students.mixing import cut_mix
from pydream.students.rand_augment import rand_augment
from pydream.students.recipe import ResolvedRecipe


class _Draw(enum.IntEnum):
    """The kinds of draws; their numbers are part of the meaning of a seed."""

    ORDER = 1
    PATCHES = 2
    CROP = 3
    FLIP = 4
    MIX = 5
    AUGMENT = 6
    RAND_AUGMENT = 7
    CELL = 8


@dataclass(frozen=True)
class MixedBatch:
    """One batch of an epoch, ready for a network.

    Attributes
    ----------
    images
        (B, 3, S, S) float32, normalised, mixed, channels last.
    rows
        (B,) int64: row of each image in the set, or among its enlarged cells, in which row k·N + i
        is cell k of image i of N.
    partners
        (B,) int64: the row that each image is mixed with.
    share
        Share of each image that is its own; the rest comes from its partner.
    epoch
        Epoch of these views.
    """

    images: torch.Tensor
    rows: torch.Tensor
    partners: torch.Tensor
    share: float
    epoch: int

    def part(self, rows: slice) -> MixedBatch:
        """Return some rows of the batch."""
        return replace(
            self, images=self.images[rows], rows=self.rows[rows], partners=self.partners[rows]
        )


def views(
    images: torch.Tensor,
    epoch: int,
    seed: int,
    recipe: ResolvedRecipe,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[MixedBatch]:
    """Make the batches of one epoch, in order.

    Parameters
    ----------
    images
        (N, S, S, 3) uint8, the whole set, on the training device; or float32, not for
        views ``"crop"``, of whitened images, which are not normalised.
    epoch
        Number of the epoch, from 0.
    seed
        Random seed, in [0, 2^63).
    recipe
        Recipe for the batches, the augmentation and the mixing.
    mean, std
        Mean and standard deviation to normalise with, three numbers each, for pixels in [0, 1].

    Yields
    ------
    MixedBatch
        As few batches as the batch size allows, of sizes that differ by at most one view. Each
        image, or each of its cells, appears once.
    """
    make = _crops if recipe.views == "crop" else _augmented
    for step, (whole, chosen) in enumerate(make(images, epoch, seed, recipe, mean, std)):
        mixed, partners, share = mix(whole, recipe, derived_seed(seed, _Draw.MIX, epoch, step))
        yield MixedBatch(mixed, chosen, chosen[partners], share, epoch)


def _crops(
    images: torch.Tensor,
    epoch: int,
    seed: int,
    recipe: ResolvedRecipe,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Make the batches of an epoch of random crops, with their rows."""
    count, side = images.shape[:2]
    rows, device = torch.arange(count), images.device
    boxes = random_crop_boxes(
        torch.full((count, 2), side),
        1,
        scale=recipe.crop_scale,
        ratio=recipe.crop_ratio,
        seed=derived_seed(seed, _Draw.CROP, epoch),
        ids=rows,
    )[:, 0]
    flips = torch.zeros(count, dtype=torch.bool)
    if recipe.horizontal_flip:
        flips = torch.from_numpy(uniform(derived_seed(seed, _Draw.FLIP, epoch), count) < 0.5)
    shuffle = patch_orders(count, recipe.factor, derived_seed(seed, _Draw.PATCHES, epoch))
    # One upload per epoch, so no step waits for a GPU.
    drawn = (_order(count, epoch, seed), boxes, flips, shuffle)
    order, boxes, flips, shuffle = (to_device(array, device) for array in drawn)
    for chosen in order.tensor_split(steps_per_epoch(count, recipe)):
        pixels = images[chosen]
        if recipe.factor > 1 and recipe.shuffle:
            pixels = shuffle_patches(pixels, shuffle[chosen])
        if recipe.rand_augment[0] > 0:
            seeds = [derived_seed(seed, _Draw.RAND_AUGMENT, epoch, row) for row in chosen.tolist()]
            pixels = rand_augment(pixels, seeds, *recipe.rand_augment)
        whole = crop_resize(
            pixels,
            boxes[chosen],
            side,
            flip=flips[chosen],
            mean=mean,
            std=std,
            channels_last=True,
        )
        yield whole, chosen


def _augmented(
    images: torch.Tensor,
    epoch: int,
    seed: int,
    recipe: ResolvedRecipe,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Make the batches of an epoch of augmented cells or images, with their rows."""
    device, side, whitened = images.device, images.shape[1], images.is_floating_point()
    count = len(images) * recipe.views_per_image
    strategy = "color_crop_cutout_scale_rotate" + ("_flip" if recipe.horizontal_flip else "")
    augment = random_augment(count, side, strategy, seed=derived_seed(seed, _Draw.AUGMENT, epoch))
    drawn = (_order(count, epoch, seed), augment, _forms(len(images), epoch, seed, recipe))
    order, augment, forms = (to_device(array, device) for array in drawn)
    scale = [torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std)]
    batches = order.tensor_split(steps_per_epoch(len(images), recipe))
    for step, chosen in enumerate(batches):
        pixels = images[chosen % len(images)].permute(0, 3, 1, 2)
        pixels = pixels if whitened else pixels.float() / 255
        shown = _enlarged(pixels, forms[chosen], recipe)
        parameters = augment[chosen]
        if recipe.operations == "one":
            of_batch = derived_seed(seed, _Draw.AUGMENT, epoch, step)
            one = one_operation_for_all(len(chosen), side, strategy, seed=of_batch)
            parameters = to_device(one, device)
        seen = diff_augment(shown if whitened else (shown - scale[0]) / scale[1], parameters)
        yield seen.contiguous(memory_format=torch.channels_last), chosen


def _forms(count: int, epoch: int, seed: int, recipe: ResolvedRecipe) -> torch.Tensor:
    """Return what each row shows: the number of a cell, or factor² for the whole image."""
    cells = recipe.factor**2
    if recipe.views == "dsa":
        return torch.arange(cells).repeat_interleave(count)
    if recipe.views == "whole":
        return torch.full((count,), cells)
    drawn = uniform(derived_seed(seed, _Draw.CELL, epoch), 2 * count).reshape(count, 2)
    whole = drawn[:, 0] >= 1 - 1 / cells
    return torch.from_numpy(np.where(whole, cells, (drawn[:, 1] * cells).astype(np.int64)))


def _enlarged(pixels: torch.Tensor, forms: torch.Tensor, recipe: ResolvedRecipe) -> torch.Tensor:
    """Enlarge a cell of each image, or return the whole image, as `_forms` says."""
    if recipe.views == "whole":
        return pixels
    cells = multi_formation(pixels, recipe.factor, pixels.shape[2])  # row k·B + i: cell k of i
    if recipe.views == "random-cell":
        cells = torch.cat([cells, pixels])
    within = torch.arange(len(pixels), device=pixels.device)
    return cells[forms * len(pixels) + within]


def _order(count: int, epoch: int, seed: int) -> torch.Tensor:
    keys = random_keys(torch.arange(count), seed=derived_seed(seed, _Draw.ORDER, epoch))
    return torch.argsort(keys, stable=True)


def steps_per_epoch(num_images: int, recipe: ResolvedRecipe) -> int:
    """Return the number of batches of an epoch."""
    return -(-num_images * recipe.views_per_image // recipe.batch_size)


def largest_batch(num_images: int, recipe: ResolvedRecipe) -> int:
    """Return the number of views in the largest batch of an epoch."""
    return -(-num_images * recipe.views_per_image // steps_per_epoch(num_images, recipe))


def patch_orders(count: int, factor: int, seed: int) -> torch.Tensor:
    """Draw for each image an order of its rows of patches, and one of its columns.

    Returns
    -------
    Tensor
        (count, 2, factor) int64, permutations of 0 to factor − 1.
    """
    drawn = uniform(seed, count * 2 * factor).reshape(count, 2, factor)
    return torch.from_numpy(np.argsort(drawn, axis=2, kind="stable"))


def shuffle_patches(images: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Reorder the rows and the columns of patches of each image.

    If the factor does not divide the side, the first rows and columns of patches are one pixel
    larger, as in the collages; they keep their size when they move.

    Parameters
    ----------
    images
        (B, S, S, 3) uint8.
    orders
        (B, 2, f) int64, from `patch_orders`, on the device of the images.

    Returns
    -------
    Tensor
        (B, S, S, 3) uint8: position i holds the patch from ``orders[..., i]``.
    """
    side, factor = images.shape[1], orders.shape[2]
    strips = torch.arange(side).tensor_split(factor)
    strip_of = torch.cat([torch.full_like(strip, place) for place, strip in enumerate(strips)])
    # Pixels move with their strip, and keep their order within it.
    place_of = torch.argsort(orders, dim=2)[:, :, to_device(strip_of, images.device)]
    down, across = torch.argsort(place_of, dim=2, stable=True).unbind(1)
    within = torch.arange(len(images), device=images.device)
    return images[within[:, None, None], down[:, :, None], across[:, None, :]]


def mix(
    images: torch.Tensor, recipe: ResolvedRecipe, seed: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mix each image of a batch with another one (or itself), with one share and box for all.

    If the recipe mixes only some batches, and not this one, each image is its own partner.

    The method is the recipe's: CutMix (arXiv 1905.04899) or MixUp (arXiv 1710.09412).

    Parameters
    ----------
    images
        (B, 3, S, S) floating point; may be overwritten.
    recipe
        Recipe with the method and concentration of mixing.
    seed
        Random seed of this batch.

    Returns
    -------
    Tensor
        (B, 3, S, S), mixed.
    Tensor
        (B,) int64: index of each image's partner in the batch.
    float
        The share of an image that is its own.
    """
    drawn = uniform(seed, 4 + len(images))
    if drawn[-1] >= recipe.mix_probability:
        return images, torch.arange(len(images), device=images.device), 1.0
    share = float(betaincinv(recipe.mix_concentration, recipe.mix_concentration, drawn[0]))
    order = torch.from_numpy(np.argsort(drawn[3:-1], kind="stable"))
    partners = to_device(order, images.device)
    if recipe.mix == "mixup":
        return torch.lerp(images[partners], images, share), partners, share
    own = cut_mix(images, partners, share, drawn[1], drawn[2])
    return images, partners, own
