"""Training recipes as data: published numbers, and their resolution for one student."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydream import checks
from pydream.errors import PydreamError

Mix: TypeAlias = Literal["cutmix", "mixup"]
"""Method of mixing two images."""
Views: TypeAlias = Literal["crop", "dsa"]
"""Views of an image: random crops with its patches shuffled, or each of its cells enlarged to a
whole image (multi-formation) with DSA's augmentations."""
Optimizer: TypeAlias = Literal["adamw", "sgd"]
Schedule: TypeAlias = Literal["half-cosine", "steps"]
"""Learning-rate schedule: the first half of a cosine decay, down to one half; or a division by 5
after 2/3 and again after 5/6 of the epochs."""

_FALLS = (2 / 3, 5 / 6)  # shares of the epochs after which the learning rate falls
_FALL = 0.2  # factor of the learning rate


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
    """A published deviation for one image set, and possibly for one student only."""

    num_classes: int
    side: int
    student: str | None = None
    batch_size: int | None = None
    learning_rate: float | None = None

    def applies(self, student: str, num_classes: int, side: int) -> bool:
        """Return whether the deviation applies to this student on images of this kind."""
        same_student = self.student is None or student.partition("-")[0] == self.student
        return same_student and (self.num_classes, self.side) == (num_classes, side)


@dataclass(frozen=True)
class Recipe:
    """A published way to train a student, with its tables, which `resolve` reads.

    Attributes
    ----------
    name
        Its name on the command line.
    epochs
        Number of passes over the set.
    batch_sizes
        Batch size by images per class. Other values use the entry nearest in ratio.
    batch_multiples
        Factor of the batch size by number of classes. Other values use the entry nearest in ratio.
    learning_rate
        Learning rate of students that are not in `learning_rates`.
    learning_rates
        Learning rate by the first part of the student's name.
    special_cases
        Image sets with numbers of their own.
    optimizer, schedule
        Optimiser, and schedule of the learning rate.
    betas
        AdamW's beta1 and beta2.
    momentum
        SGD's momentum.
    weight_decay
        Weight decay: AdamW applies it to weights of two or more dimensions, SGD to all.
    views
        Views that a student is trained on.
    crop_ratio
        Smallest and largest ratio of width to height of a random crop.
    horizontal_flip
        Mirror half of the views.
    mix
        Method of mixing two images.
    mix_probability
        Share of the batches that are mixed.
    mixes
        Rule for each way of mixing.
    """

    name: str
    epochs: int
    batch_sizes: Mapping[int, int]
    batch_multiples: Mapping[int, int]
    learning_rate: float
    learning_rates: Mapping[str, float]
    special_cases: tuple[SpecialCase, ...]
    optimizer: Optimizer
    schedule: Schedule
    betas: tuple[float, float]
    momentum: float
    weight_decay: float
    views: Views
    crop_ratio: tuple[float, float]
    horizontal_flip: bool
    mix: Mix
    mix_probability: float
    mixes: Mapping[Mix, MixRule]


RDED = Recipe(
    name="rded",
    epochs=300,
    batch_sizes={1: 10, 10: 50, 50: 100},
    batch_multiples={10: 1, 100: 2, 1000: 2},
    learning_rate=0.001,
    learning_rates={
        "mobilenet_v2": 0.0025,
        "mobilenetv2": 0.0025,
        "efficientnet_b0": 0.002,
        "vit": 0.0001,
        "swin": 0.0001,
        "alexnet": 0.0001,
    },
    special_cases=(
        SpecialCase(num_classes=200, side=64, batch_size=100),
        SpecialCase(
            num_classes=100, side=32, student="convnet3", batch_size=25, learning_rate=0.002
        ),
    ),
    optimizer="adamw",
    schedule="half-cosine",
    betas=(0.9, 0.999),
    momentum=0.0,
    weight_decay=0.01,
    views="crop",
    crop_ratio=(3 / 4, 4 / 3),
    horizontal_flip=True,
    mix="cutmix",
    mix_probability=1.0,
    mixes={"cutmix": MixRule(1.0, 20.0), "mixup": MixRule(0.8, 4.0)},
)
"""Recipe of RDED (arXiv 2312.03526, section 5.1 and appendix)."""

IDC = Recipe(
    name="idc",
    epochs=1000,
    batch_sizes={1: 64},
    batch_multiples={10: 1},
    learning_rate=0.01,
    learning_rates={},
    special_cases=(),
    optimizer="sgd",
    schedule="steps",
    betas=(0.9, 0.999),
    momentum=0.9,
    weight_decay=5e-4,
    views="dsa",
    crop_ratio=(3 / 4, 4 / 3),
    horizontal_flip=True,
    mix="cutmix",
    mix_probability=0.5,
    mixes={"cutmix": MixRule(1.0, 20.0), "mixup": MixRule(0.8, 4.0)},
)
"""Recipe of IDC, by which DREAM and DREAM+ are measured (ICML 2022; arXiv 2310.15052, section 4.1),
for hard labels; the temperatures are RDED's."""

CELLS = dataclasses.replace(RDED, name="cells", schedule="steps", views="dsa")
"""RDED's recipe, but on enlarged cells, and with a learning rate that falls twice. Under RDED's
schedule, which ends at half the rate, accuracy still varies by some points from epoch to epoch."""

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (RDED, IDC, CELLS)}


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe in which every number is set: everything that training needs.

    Attributes
    ----------
    name
        Name of the published recipe.
    epochs, batch_size, learning_rate, optimizer, schedule, betas, momentum, weight_decay, views
        The same as in `Recipe`. The batch size is an upper limit: the views of an epoch are split
        evenly into as few batches as possible.
    factor
        Patches or cells along each side of an image: patches are shuffled, and cells enlarged. With
        1, images do not change.
    crop_scale, crop_ratio
        Bounds of the area of a random crop (as a share of the image's), and of its width by height.
    horizontal_flip
        Mirror half of the views.
    mix, mix_probability, mix_concentration, temperature
        The same as in `Recipe` and `MixRule`.

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

    def __post_init__(self) -> None:
        checks.at_least(1, epochs=self.epochs, batch_size=self.batch_size, factor=self.factor)
        for name in ("learning_rate", "mix_concentration", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PydreamError(f"{name} must be a number above 0, got {value}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise PydreamError(f"weight_decay must be a number from 0 up, got {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise PydreamError(
                f"betas must be two numbers from 0 to below 1, got {' '.join(map(str, self.betas))}"
            )
        if not 0 <= self.momentum < 1:
            raise PydreamError(f"momentum must be from 0 to below 1, got {self.momentum}")
        if not 0 <= self.mix_probability <= 1:
            raise PydreamError(f"mix_probability must be from 0 to 1, got {self.mix_probability}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise PydreamError(f"crop_scale must be 0 < least <= greatest <= 1, got {low} {high}")
        low, high = self.crop_ratio
        if not 0 < low <= high < math.inf:
            raise PydreamError(f"crop_ratio must be 0 < least <= greatest, got {low} {high}")

    @property
    def views_per_image(self) -> int:
        """Number of views of one image in an epoch: its cells if they are enlarged, else 1."""
        return self.factor**2 if self.views == "dsa" else 1

    def learning_rate_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch (the first is 0).

        The factor is ½(1 + cos(π·epoch / 2·epochs)), from 1 down to a half; or 0.2 from 2/3 of the
        epochs on, and again from 5/6.
        """
        if self.schedule == "steps":
            falls = sum(epoch >= int(self.epochs * share) for share in _FALLS)
            return float(self.learning_rate * _FALL**falls)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / (2 * self.epochs)))


def resolve(
    recipe: Recipe,
    *,
    student: str,
    num_images: int,
    num_classes: int,
    side: int,
    factor: int,
    overrides: Mapping[str, Any],
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

    Raises
    ------
    PydreamError
        If a number is out of its range.
    """
    mix: Mix = overrides.get("mix", recipe.mix)
    if mix not in recipe.mixes:
        raise PydreamError(f"mix must be {' or '.join(recipe.mixes)}, got {mix!r}")
    batch_size, learning_rate = _published(recipe, student, num_images, num_classes, side)
    values: dict[str, Any] = {
        "name": recipe.name,
        "epochs": recipe.epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": recipe.optimizer,
        "schedule": recipe.schedule,
        "betas": recipe.betas,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "views": recipe.views,
        "factor": factor,
        "crop_scale": (1 / max(factor, 1), 1.0),
        "crop_ratio": recipe.crop_ratio,
        "horizontal_flip": recipe.horizontal_flip,
        "mix": mix,
        "mix_probability": recipe.mix_probability,
        "mix_concentration": recipe.mixes[mix].concentration,
        "temperature": recipe.mixes[mix].temperature,
    }
    resolved = ResolvedRecipe(**{**values, **overrides})
    most = num_images * resolved.views_per_image
    return dataclasses.replace(resolved, batch_size=min(resolved.batch_size, most))


def _published(
    recipe: Recipe, student: str, num_images: int, num_classes: int, side: int
) -> tuple[int, float]:
    """Return batch size and learning rate from the recipe's tables."""
    batch_size = _nearest(recipe.batch_sizes, num_images / num_classes)
    batch_size *= _nearest(recipe.batch_multiples, num_classes)
    architecture = student.removeprefix("timm/")
    learning_rate = next(
        (rate for name, rate in recipe.learning_rates.items() if architecture.startswith(name)),
        recipe.learning_rate,
    )
    for case in recipe.special_cases:
        if case.applies(student, num_classes, side):
            batch_size = case.batch_size or batch_size
            learning_rate = case.learning_rate or learning_rate
    return batch_size, learning_rate


def _nearest(table: Mapping[int, int], value: float) -> int:
    """Return the entry whose key is nearest to the value in ratio."""
    return table[min(table, key=lambda key: abs(math.log(value / key)))]
