"""Settings of the training of students, shared by the API and the command line."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from pydream.progress import say
from pydream.students.recipe import (
    Combine,
    Decayed,
    Loss,
    Mix,
    Operations,
    Optimizer,
    Schedule,
    Views,
)
from pydream.students.recipes import recipe_named

RecipeName: TypeAlias = Literal[
    "rded",
    "idc",
    "cells",
    "rd3",
    "edc",
    "fadrm",
    "delt",
    "cim",
    "bps",
    "rethinkdc",
    "sre2l",
    "dc",
    "dsa",
    "mtt",
]
"""Name of a training recipe; `pydream.students.recipes` has their numbers and sources."""

Bits: TypeAlias = Literal[4, 8, 16]
"""Bits of a stored logit: 16 is a float16; 8 and 4 count steps below the highest of its row."""


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """A training recipe, and settings that override its own."""

    recipe: RecipeName = "rded"
    """Training recipe of the students, named after the method whose authors published it; cells is
    RDED's on enlarged cells with a learning rate that falls twice. The following settings replace
    its numbers."""
    epochs: int | None = None
    """Number of passes over the set. By default the recipe's."""
    batch_size: int | None = None
    """Largest number of images in a training step. By default the recipe's."""
    learning_rate: float | None = None
    """Learning rate of the first epoch. By default the recipe's."""
    optimizer: Optimizer | None = None
    """Optimiser of the students. By default the recipe's."""
    schedule: Schedule | None = None
    """Learning-rate schedule: half-cosine follows the first half of a cosine decay, to half the
    rate; cosine all of it, to 0; steps lets the rate fall after some shares of the epochs. By
    default the recipe's."""
    falls: tuple[float, ...] | None = None
    """Shares of the epochs after each of which the rate falls under steps. By default the
    recipe's."""
    fall_factor: float | None = None
    """Factor of the learning rate in each fall. By default the recipe's."""
    betas: tuple[float, float] | None = None
    """AdamW's beta1 and beta2. By default the recipe's."""
    momentum: float | None = None
    """SGD's momentum. By default the recipe's."""
    weight_decay: float | None = None
    """Weight decay. By default the recipe's."""
    decayed: Decayed | None = None
    """Weights that AdamW decays: those of two or more dimensions (matrices), or all; SGD decays
    all. By default the recipe's."""
    ema_decay: float | None = None
    """Decay, by step, of the moving average of a student's weights that is measured in place of
    the weights; 0 measures the weights. By default the recipe's."""
    views: Views | None = None
    """Views that a student is trained on: crop takes random crops; with DSA's augmentations, dsa
    takes every enlarged cell, random-cell one of them or now and then the image, and whole the
    image. By default those that the set is made for, or else the recipe's."""
    operations: Operations | None = None
    """DSA's operations: on each view color, cutout and one of the others (several), or one of all
    on a whole batch (one). By default the recipe's."""
    factor: int | None = None
    """Number of patches or cells along each side of an image. By default the set's; baselines that
    are not tiled have 1."""
    crop_scale: tuple[float, float] | None = None
    """Smallest and largest area of a crop, as shares of the image's area. By default the recipe's,
    or else 1/factor and 1."""
    crop_ratio: tuple[float, float] | None = None
    """Smallest and largest ratio of a crop's width to its height. By default the recipe's."""
    shuffle: bool | None = None
    """Shuffle the patches of an image before it is cropped. By default the recipe's choice."""
    rand_augment: tuple[int, int] | None = None
    """Number of RandAugment's operations before a crop, and their magnitude from 0 to 10; 0 0 for
    none. By default the recipe's."""
    horizontal_flip: bool | None = None
    """Mirror half of the views at random. By default the recipe's choice."""
    mix: Mix | None = None
    """Method of mixing two images into one. By default the recipe's."""
    mix_probability: float | None = None
    """Share of the batches that are mixed. By default the recipe's."""
    mix_concentration: float | None = None
    """Parameter of the beta distribution that mixing ratios are drawn from. By default the
    recipe's."""
    temperature: float | None = None
    """Temperature that the logits of student and observer are divided by before they are compared.
    By default the recipe's."""
    loss: Loss | None = None
    """Comparison of students with their targets: Kullback-Leibler divergence (kl), the same times
    the squared temperature (kl-t2), or cross-entropy (ce); or, of logits, the mean squared
    difference (mse), or GIFT's cosine (gift). By default the recipe's."""
    hard_weight: float | None = None
    """Weight of the classes beside the observer under mse and gift. By default the recipe's."""
    least_observers: int | None = None
    """Number of observers that must be given. By default the recipe's."""
    combine: Combine | None = None
    """Mean of several observers: of their logits, or of their log-probabilities. By default the
    recipe's."""
    batch_statistics: bool | None = None
    """Let batch norms of the observers normalise over each batch of views, in place of the
    statistics of their training. By default the recipe's choice."""
    best_of_last: float | None = None
    """Share of the epochs, counted from the end, whose best measurement is reported as published; 0
    for the last one. By default the recipe's."""

    def overrides(self) -> dict[str, Any]:
        """Return the numbers that replace the recipe's; `factor` depends on the images."""
        fields = [field.name for field in dataclasses.fields(RecipeSettings)]
        values = {name: getattr(self, name) for name in fields}
        return {
            name: value
            for name, value in values.items()
            if value is not None and name not in ("recipe", "factor")
        }


Settings = TypeVar("Settings", bound=RecipeSettings)
_OF_CELLS = ("dsa", "random-cell")


def with_views_of_set(settings: Settings, made_for: Views | None) -> Settings:
    """Choose the views that a set is made for, where neither settings nor recipe show its cells.

    Settings that choose other views stay, with a warning.
    """
    if made_for is None or settings.views == made_for:
        return settings
    if settings.views is None and recipe_named(settings.recipe).views in _OF_CELLS:
        return settings
    if settings.views is not None:
        warnings.warn(
            f"the set is made for views {made_for}, and students see views {settings.views}: leave "
            "out --views to see it as it is meant",
            stacklevel=2,
        )
        return settings
    say(f"views: {made_for} (the set is made for them; --views chooses others)")
    return dataclasses.replace(settings, views=made_for)
