"""Published recipes as tables, and their resolution for one student.

`pydream.students.recipes` has the published numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydream.errors import PydreamError
from pydream.students.recipe import (
    Combine,
    Decayed,
    Loss,
    Mix,
    Operations,
    Optimizer,
    ResolvedRecipe,
    Schedule,
    Views,
)

Evidence: TypeAlias = Literal["code", "notes"]
"""Where the numbers of a recipe were read: in its authors' code, or in what others say of it."""

_HARD_WEIGHT_OF_GIFT = 0.1  # arXiv 2405.14736, and its code


@dataclass(frozen=True)
class MixRule:
    """Parameters of one way of mixing.

    Attributes
    ----------
    concentration
        Both parameters of the beta distribution that the share of the first image is drawn from.
    temperature
        Temperature that the logits of student and observer are divided by.
    """

    concentration: float
    temperature: float


@dataclass(frozen=True)
class SpecialCase:
    """Numbers that a recipe has for some image sets, set sizes or students.

    Attributes
    ----------
    num_classes, side
        The image set: number of classes, and side of the images in pixels; None for any.
    student
        First part of the student's name; None for any.
    per_class
        Least and greatest number of images per class; None for any.
    epochs, batch_size, learning_rate, schedule, crop_scale
        The numbers, as in `ResolvedRecipe`; None for those of the recipe.
    """

    num_classes: int | None = None
    side: int | None = None
    student: str | None = None
    per_class: tuple[float, float] | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    schedule: Schedule | None = None
    crop_scale: tuple[float, float] | None = None

    def applies(self, student: str, num_images: int, num_classes: int, side: int) -> bool:
        """Return whether a student trained on a set of this kind has these numbers."""
        low, high = self.per_class or (0.0, math.inf)
        return (
            self.student in (None, student.partition("-")[0])
            and self.num_classes in (None, num_classes)
            and self.side in (None, side)
            and low <= num_images / num_classes <= high
        )

    def numbers(self) -> dict[str, Any]:
        """Return the numbers that differ from the recipe's."""
        names = ("epochs", "batch_size", "learning_rate", "schedule", "crop_scale")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published way to train a student, with its tables, which `resolve` reads.

    Attributes
    ----------
    name
        Its name on the command line.
    source
        Its paper and its authors' code.
    evidence
        Where its numbers were read.
    reported
        What its authors report, in words.
    remarks
        Where its authors' code does otherwise, in words.
    labels
        Labels that its authors train with: the observer's at every step, or the classes.
    epochs
        Number of passes over the set.
    batch_sizes
        Batch size by images per class. Other values use the entry nearest in ratio.
    batch_multiples
        Factor of the batch size by number of classes. Other values use the entry nearest in ratio.
    batch_limits
        In place of both, the batch size by the greatest number of images of a set that has it.
    learning_rate
        Learning rate of students that are not in `learning_rates`; None for the one that was
        learned with the images.
    learning_rates
        Learning rate by the first part of the student's name.
    special_cases
        Image sets, sizes and students with numbers of their own; later ones take precedence.
    crop_scale
        Smallest and largest area of a random crop; None for 1/factor and 1.
    mixes
        Rule for each way of mixing.
    mixes_hard
        Whether images are mixed for hard labels, too.
    optimizer, schedule, falls, fall_factor, betas, momentum, weight_decay, decayed, views
        The same as in `ResolvedRecipe`.
    crop_ratio, shuffle, rand_augment, horizontal_flip, mix, mix_probability
        The same as in `ResolvedRecipe`.
    operations, loss, hard_weight, least_observers, combine, batch_statistics
        The same as in `ResolvedRecipe`.
    ema_decay, best_of_last
        The same as in `ResolvedRecipe`.
    """

    name: str
    source: str
    evidence: Evidence
    reported: str
    remarks: str = ""
    labels: Literal["online", "hard"] = "online"
    epochs: int
    batch_sizes: Mapping[int, int]
    batch_multiples: Mapping[int, int]
    batch_limits: Mapping[float, int] = field(default_factory=dict)
    learning_rate: float | None
    learning_rates: Mapping[str, float]
    special_cases: tuple[SpecialCase, ...]
    optimizer: Optimizer
    schedule: Schedule
    falls: tuple[float, ...] = (2 / 3, 5 / 6)
    fall_factor: float = 0.2
    betas: tuple[float, float]
    momentum: float
    weight_decay: float
    decayed: Decayed = "matrices"
    views: Views
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float]
    shuffle: bool = True
    rand_augment: tuple[int, int] = (0, 0)
    horizontal_flip: bool
    mix: Mix
    mix_probability: float
    mixes: Mapping[Mix, MixRule]
    mixes_hard: bool = True
    operations: Operations = "several"
    loss: Loss = "kl"
    hard_weight: float = 0.0
    least_observers: int = 1
    combine: Combine = "logits"
    batch_statistics: bool = False
    ema_decay: float = 0.0
    best_of_last: float


def resolve(
    recipe: Recipe,
    *,
    student: str,
    num_images: int,
    num_classes: int,
    side: int,
    factor: int,
    overrides: Mapping[str, Any],
    learned_rate: float | None = None,
) -> ResolvedRecipe:
    """Set every number of a recipe.

    Parameters
    ----------
    recipe
        Published recipe.
    student
        Architecture, as for `build_model`.
    num_images, num_classes, side, factor
        Size of the set: number of images and of classes, side of the images in pixels, and number
        of patches along it.
    overrides
        Values that replace the recipe's, by the field of `ResolvedRecipe`.
    learned_rate
        Learning rate that was learned with the images, if one was.

    Raises
    ------
    PydreamError
        If a number is out of its range, or the recipe needs a learned rate and there is none.
    """
    mix: Mix = overrides.get("mix", recipe.mix)
    if mix not in recipe.mixes:
        raise PydreamError(f"mix must be {' or '.join(recipe.mixes)}, got {mix!r}")
    fields = {one.name for one in dataclasses.fields(ResolvedRecipe)}
    values: dict[str, Any] = {
        **{one.name: getattr(recipe, one.name) for one in dataclasses.fields(Recipe)},
        "factor": factor,
        "crop_scale": recipe.crop_scale or (1 / max(factor, 1), 1.0),
        "mix_concentration": recipe.mixes[mix].concentration,
        "temperature": recipe.mixes[mix].temperature,
        **_tabulated(recipe, student, num_images, num_classes, side),
    }
    values = {name: value for name, value in values.items() if name in fields}
    if overrides.get("loss") == "gift":
        values["hard_weight"] = _HARD_WEIGHT_OF_GIFT
    values = {**values, **overrides}
    if values["learning_rate"] is None:
        values["learning_rate"] = learned_rate
    if values["learning_rate"] is None:
        raise PydreamError(
            f"recipe {recipe.name} trains at the rate that was learned with the images, and the "
            "set records none: give --learning-rate"
        )
    resolved = ResolvedRecipe(**values)
    most = num_images * resolved.views_per_image
    return dataclasses.replace(resolved, batch_size=min(resolved.batch_size, most))


def for_labels(
    resolved: ResolvedRecipe, recipe: Recipe, labels: str, overrides: Mapping[str, Any]
) -> ResolvedRecipe:
    """Adapt a resolved recipe to the source of its targets.

    Hard labels are compared at temperature 1, by cross-entropy where the recipe compares logits,
    and mixed only if the recipe mixes them. A set's own soft labels are also compared at
    temperature 1 unless another is given, because methods that make such labels train on them that
    way (DATM, DD-Ranking).

    Parameters
    ----------
    resolved, recipe, overrides
        A resolved recipe, and what it was resolved from.
    labels
        ``"online"``, ``"stored"``, ``"own"`` or ``"hard"``.
    """
    changes: dict[str, Any] = {}
    if labels == "hard":
        changes = {"temperature": 1.0, "batch_statistics": False}
        if resolved.compares_logits:
            changes |= {"loss": "ce", "hard_weight": 0.0}
        if not recipe.mixes_hard and "mix_probability" not in overrides:
            changes["mix_probability"] = 0.0
    elif labels == "own" and "temperature" not in overrides:
        changes = {"temperature": 1.0}
    return dataclasses.replace(resolved, **changes)


def reported_words(resolved: ResolvedRecipe, recipe: Recipe) -> str:
    """Say what is reported as published, in the words of the recipe unless it was overridden."""
    if resolved.best_of_last == recipe.best_of_last:
        return recipe.reported
    if resolved.best_of_last == 0:
        return "last epoch"
    return f"best of the last {resolved.best_of_last:.0%} of the epochs"


def _tabulated(
    recipe: Recipe, student: str, num_images: int, num_classes: int, side: int
) -> dict[str, Any]:
    """Return batch size, learning rate and the numbers of special cases from the tables."""
    if recipe.batch_limits:
        batch_size = recipe.batch_limits[min(n for n in recipe.batch_limits if num_images <= n)]
    else:
        batch_size = _nearest(recipe.batch_sizes, num_images / num_classes)
        batch_size *= _nearest(recipe.batch_multiples, num_classes)
    architecture = student.removeprefix("timm/")
    learning_rate = next(
        (rate for name, rate in recipe.learning_rates.items() if architecture.startswith(name)),
        recipe.learning_rate,
    )
    values: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate}
    for case in recipe.special_cases:
        if case.applies(student, num_images, num_classes, side):
            values |= case.numbers()
    return values


def _nearest(table: Mapping[int, int], value: float) -> int:
    """Return the entry whose key is nearest to the value in ratio."""
    return table[min(table, key=lambda key: abs(math.log(value / key)))]
