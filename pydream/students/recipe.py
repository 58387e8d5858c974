"""A training recipe in which every number is set."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydream import checks
from pydream.errors import PydreamError

Mix: TypeAlias = Literal["cutmix", "mixup"]
"""Method of mixing two images."""
Views: TypeAlias = Literal["crop", "dsa", "random-cell", "whole"]
"""Views of an image: a random crop; or, with DSA's augmentations, each of its cells enlarged to a
whole image (multi-formation), one of them at random or now and then the image, or the image."""
Optimizer: TypeAlias = Literal["adamw", "sgd"]
Decayed: TypeAlias = Literal["matrices", "all"]
"""Weights that AdamW decays: those of two or more dimensions, or all."""
Schedule: TypeAlias = Literal["half-cosine", "cosine", "steps"]
"""Learning-rate schedule: the first half of a cosine decay, down to one half ("ζ = 2"); all of it,
down to 0 ("ζ = 1"); or a fall after each of some shares of the epochs."""
Loss: TypeAlias = Literal["kl", "kl-t2", "ce", "mse", "gift"]
"""Comparison of a student with its targets: the Kullback-Leibler divergence, the same times the
squared temperature, or the cross-entropy, all of softened outputs; or, of logits, the mean squared
difference, or GIFT's cosine."""
Operations: TypeAlias = Literal["several", "one"]
"""DSA's operations: on each view color, cutout, and one of the others; or one of all on a batch."""
Combine: TypeAlias = Literal["logits", "log-probabilities"]
"""What is averaged over several observers."""


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe in which every number is set: everything that training needs.

    Attributes
    ----------
    name
        Name of the published recipe.
    epochs
        Number of passes over the set.
    batch_size
        Largest number of views in a batch: the views of an epoch are split evenly into as few
        batches as possible.
    learning_rate
        Learning rate of the first epoch.
    optimizer, schedule
        Optimiser, and schedule of the learning rate.
    betas
        AdamW's beta1 and beta2.
    momentum
        SGD's momentum.
    weight_decay
        Weight decay: AdamW applies it to the weights that `decayed` names, SGD to all.
    views
        Views that a student is trained on.
    factor
        Patches or cells along each side of an image: patches are shuffled, and cells enlarged. With
        1, images do not change.
    crop_scale, crop_ratio
        Bounds of the area of a random crop (as a share of the image's), and of its width by height.
    horizontal_flip
        Mirror half of the views.
    mix, mix_probability
        Method of mixing two images, and the share of the batches that are mixed.
    mix_concentration, temperature
        The same as in `MixRule`.
    falls, fall_factor
        Shares of the epochs after which the schedule ``"steps"`` multiplies the learning rate by
        this factor.
    decayed
        Weights that AdamW decays.
    shuffle
        Shuffle the patches of an image before it is cropped.
    rand_augment
        Number and magnitude (of 10) of RandAugment's operations before a crop; 0 and 0 for none.
    operations
        DSA's operations on a view.
    loss
        Comparison of the student with its targets.
    hard_weight
        Weight of the classes beside the observer: of their cross-entropy beside ``"mse"``, of the
        smoothed class in the target of ``"gift"``.
    least_observers
        Number of observers that the recipe needs.
    combine
        What is averaged over several observers.
    batch_statistics
        Let batch norms of the observers normalise over each batch of views.
    ema_decay
        Decay, by step, of the moving average of the student's weights that is measured; with 0,
        the weights are measured themselves.
    best_of_last
        What is reported: the best measurement within this share of the epochs, counted from the
        end; 0 for the last one.

    Raises
    ------
    PydreamError
        If a number is out of its range.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Optimizer
    schedule: Schedule
    betas: tuple[float, float]
    momentum: float
    weight_decay: float
    views: Views
    factor: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    horizontal_flip: bool
    mix: Mix
    mix_probability: float
    mix_concentration: float
    temperature: float
    falls: tuple[float, ...] = (2 / 3, 5 / 6)
    fall_factor: float = 0.2
    decayed: Decayed = "matrices"
    shuffle: bool = True
    rand_augment: tuple[int, int] = (0, 0)
    operations: Operations = "several"
    loss: Loss = "kl"
    hard_weight: float = 0.0
    least_observers: int = 1
    combine: Combine = "logits"
    batch_statistics: bool = False
    ema_decay: float = 0.0
    best_of_last: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(1, epochs=self.epochs, batch_size=self.batch_size, factor=self.factor)
        checks.at_least(1, least_observers=self.least_observers)
        for name in ("learning_rate", "mix_concentration", "temperature", "fall_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PydreamError(f"{name} must be a number above 0, got {value}")
        for name in ("weight_decay", "hard_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise PydreamError(f"{name} must be a number from 0 up, got {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise PydreamError(
                f"betas must be two numbers from 0 to below 1, got {' '.join(map(str, self.betas))}"
            )
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise PydreamError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        for name in ("mix_probability", "best_of_last"):
            if not 0 <= getattr(self, name) <= 1:
                raise PydreamError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise PydreamError(f"crop_scale must be 0 < least <= greatest <= 1, got {low} {high}")
        low, high = self.crop_ratio
        if not 0 < low <= high < math.inf:
            raise PydreamError(f"crop_ratio must be 0 < least <= greatest, got {low} {high}")
        if not all(0 < share < 1 for share in self.falls):
            raise PydreamError(
                f"falls must be between 0 and 1, got {' '.join(map(str, self.falls))}"
            )
        operations, magnitude = self.rand_augment
        if operations < 0 or not 0 <= magnitude <= 10:
            raise PydreamError(
                "rand_augment must be a number of operations and a magnitude from 0 to 10, got "
                f"{operations} {magnitude}"
            )

    @property
    def views_per_image(self) -> int:
        """Number of views of one image in an epoch: its cells if all are enlarged, else 1."""
        return self.factor**2 if self.views == "dsa" else 1

    @property
    def compares_logits(self) -> bool:
        """Whether targets are logits, not probabilities."""
        return self.loss in ("mse", "gift")

    def learning_rate_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch (the first is 0).

        The factor is ½(1 + cos(π·epoch / ζ·epochs)), from 1 down to a half (ζ = 2) or to 0 (ζ = 1);
        or `fall_factor` from each share of the epochs on.
        """
        if self.schedule == "steps":
            falls = sum(epoch >= int(self.epochs * share) for share in self.falls)
            return float(self.learning_rate * self.fall_factor**falls)
        period = (2 if self.schedule == "half-cosine" else 1) * self.epochs
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / period))

    def as_known_before(self) -> dict[str, Any]:
        """Return what decides a student, without later fields that have their default.

        Students and labels from before such a field are thus found again.
        """
        values = dataclasses.asdict(self)
        defaults = {one.name: one.default for one in dataclasses.fields(self)}
        del values["best_of_last"], values["least_observers"]
        return {name: value for name, value in values.items() if value != defaults[name]}
