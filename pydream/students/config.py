"""Settings of how students are trained: shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pydream.students.recipe import Mix, Optimizer, Schedule, Views


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """A recipe, and numbers that take the place of its own."""

    recipe: Literal["rded", "idc"] = "rded"
    """How students are trained; the following settings replace its numbers."""
    epochs: int | None = None
    """Passes over the set."""
    batch_size: int | None = None
    """Images of a step, at most."""
    learning_rate: float | None = None
    """Of the first epoch."""
    optimizer: Optimizer | None = None
    """How weights move."""
    schedule: Schedule | None = None
    """How the learning rate falls: half of a half cosine, or to a fifth at 2/3 and at 5/6."""
    betas: tuple[float, float] | None = None
    """Of AdamW."""
    momentum: float | None = None
    """Of SGD."""
    weight_decay: float | None = None
    """Of the weights with two dimensions or more; of SGD, of all."""
    views: Views | None = None
    """What a student sees: random crops of images with shuffled patches, or their enlarged cells
    with DSA's augmentations."""
    factor: int | None = None
    """Patches or cells per side of an image; by default the set's. Baselines have one."""
    crop_scale: tuple[float, float] | None = None
    """Least and greatest share of an image's area in a crop; by default 1/factor and 1."""
    crop_ratio: tuple[float, float] | None = None
    """Least and greatest width by height of a crop."""
    horizontal_flip: bool | None = None
    """Whether half of the views are mirrored."""
    mix: Mix | None = None
    """How two images become one."""
    mix_probability: float | None = None
    """Share of the batches that are mixed."""
    mix_concentration: float | None = None
    """Parameter of the beta distribution that an image's share is drawn from."""
    temperature: float | None = None
    """What logits are divided by before student and observer are compared."""

    def overrides(self) -> dict[str, Any]:
        """Return the settings that take the place of the recipe's; `factor` goes by the images."""
        fields = [field.name for field in dataclasses.fields(RecipeSettings)]
        values = {name: getattr(self, name) for name in fields}
        return {
            name: value
            for name, value in values.items()
            if value is not None and name not in ("recipe", "factor")
        }
