"""Settings of the training of students, shared by the API and the command line."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydream.progress import say
from pydream.students.recipe import Mix, Optimizer, Schedule, Views


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """A training recipe, and settings that override its own."""

    recipe: Literal["rded", "idc", "cells"] = "rded"
    """Training recipe of the students: RDED's, IDC's, or RDED's on enlarged cells with a learning
    rate that falls twice. The following settings replace its numbers."""
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
    rate; steps divides the rate by 5 after 2/3 and again after 5/6 of the epochs. By default the
    recipe's."""
    betas: tuple[float, float] | None = None
    """AdamW's beta1 and beta2. By default the recipe's."""
    momentum: float | None = None
    """SGD's momentum. By default the recipe's."""
    weight_decay: float | None = None
    """Weight decay: AdamW applies it to weights of two or more dimensions, SGD to all. By default
    the recipe's."""
    views: Views | None = None
    """Views that a student is trained on: crop takes random crops of images with shuffled patches,
    and dsa takes enlarged cells with DSA's augmentations. By default those that the set is made
    for, or else the recipe's."""
    factor: int | None = None
    """Number of patches or cells along each side of an image. By default the set's; baselines that
    are not tiled have 1."""
    crop_scale: tuple[float, float] | None = None
    """Smallest and largest area of a crop, as shares of the image's area. By default 1/factor and
    1."""
    crop_ratio: tuple[float, float] | None = None
    """Smallest and largest ratio of a crop's width to its height. By default the recipe's."""
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


def with_views_of_set(settings: Settings, made_for: Views | None) -> Settings:
    """Choose the views that a set is made for, where the settings choose none.

    Settings that choose other views stay, with a warning.
    """
    if made_for is None or settings.views == made_for:
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
