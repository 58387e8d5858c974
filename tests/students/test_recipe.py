from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args, get_type_hints

import pytest

from pydream.errors import PydreamError
from pydream.students.config import RecipeSettings
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import resolve
from pydream.students.recipes import CELLS, IDC, RDED, RECIPES


def resolved(**changes: Any) -> ResolvedRecipe:
    """Resolve for CIFAR-10's shape unless told otherwise; recipe fields go to the overrides."""
    fitting: dict[str, Any] = {
        "student": "convnet3",
        "num_images": 100,
        "num_classes": 10,
        "side": 32,
        "factor": 1,
    }
    shape = {name: changes.pop(name, value) for name, value in fitting.items()}
    return resolve(RDED, **shape, overrides=changes)


def test_is_found_by_its_name() -> None:
    assert RECIPES["rded"] is RDED
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert {*RECIPES} == {*get_args(get_type_hints(RecipeSettings)["recipe"])}


def test_the_recipe_for_cells_is_that_of_rded_on_cells_with_a_rate_that_falls() -> None:
    shape = {"student": "convnet3", "num_images": 100, "num_classes": 10, "side": 32, "factor": 2}
    cells, usual = (resolve(recipe, **shape, overrides={}) for recipe in (CELLS, RDED))  # type: ignore[arg-type]
    differing = {
        field.name
        for field in dataclasses.fields(cells)
        if getattr(cells, field.name) != getattr(usual, field.name)
    }
    assert differing == {"name", "views", "schedule", "best_of_last"}
    assert cells.views_per_image == 4
    rates = [cells.learning_rate_at(epoch) for epoch in (0, 199, 200, 249, 250, 299)]
    assert rates == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4, 4e-5, 4e-5])


# images per class, classes, side, student → batch size, as the paper and the authors state it.
BATCHES = [
    (1, 10, 32, "convnet3", 10),
    (10, 10, 32, "convnet3", 50),
    (50, 10, 32, "resnet18-modified", 100),
    (1, 100, 224, "resnet18", 20),
    (10, 100, 224, "resnet18", 100),
    (50, 100, 224, "resnet18", 200),
    (10, 1000, 224, "resnet18", 100),
    (50, 1000, 224, "resnet18", 200),
    (1, 200, 64, "convnet4", 100),
    (50, 200, 64, "resnet18-modified", 100),
    (10, 100, 32, "convnet3", 25),
    (10, 100, 32, "resnet18-modified", 100),
    (10, 100, 32, "convnet4", 100),
    # In between: the nearest in ratio. 3 is nearer to 1, 4 to 10; 22 to 10, 23 to 50.
    (3, 10, 32, "convnet3", 10),
    (4, 50, 32, "convnet3", 100),
    (22, 10, 32, "convnet3", 50),
    (23, 10, 32, "convnet3", 100),
    (200, 10, 32, "convnet3", 100),
    # Never above the size of the set.
    (1, 3, 224, "resnet18", 3),
    (4, 10, 32, "convnet3", 40),
]


@pytest.mark.parametrize(("per_class", "classes", "side", "student", "wanted"), BATCHES)
def test_batch_size_follows_the_published_table(
    per_class: int, classes: int, side: int, student: str, wanted: int
) -> None:
    recipe = resolved(
        student=student, num_images=per_class * classes, num_classes=classes, side=side
    )
    assert recipe.batch_size == wanted


RATES = {
    "convnet3": 0.001,
    "convnet6-w64": 0.001,
    "resnet18": 0.001,
    "resnet101-modified": 0.001,
    "mobilenet_v2": 0.0025,
    "timm/mobilenetv2_100": 0.0025,
    "efficientnet_b0": 0.002,
    "vit_b_16": 0.0001,
    "timm/vit_tiny_patch16_224": 0.0001,
    "swin_v2_t": 0.0001,
    "alexnet": 0.0001,
}


@pytest.mark.parametrize(("student", "wanted"), RATES.items())
def test_learning_rate_follows_the_student(student: str, wanted: float) -> None:
    assert resolved(student=student, side=224).learning_rate == wanted


def test_cifar_100_has_a_learning_rate_of_its_own_for_convnet3_only() -> None:
    cifar100 = {"num_classes": 100, "num_images": 1000, "side": 32}
    assert resolved(student="convnet3", **cifar100).learning_rate == 0.002
    assert resolved(student="convnet3-w64", **cifar100).learning_rate == 0.002
    assert resolved(student="resnet18-modified", **cifar100).learning_rate == 0.001
    assert resolved(student="convnet3", num_classes=100, side=64).learning_rate == 0.001


def test_schedule_is_half_of_a_half_cosine() -> None:
    recipe = resolved()
    # By hand: cos 0 = 1; cos(π/4) = √½ after half of the epochs; towards cos(π/2) = 0 at the end.
    assert recipe.learning_rate_at(0) == 0.001
    assert recipe.learning_rate_at(150) == pytest.approx(0.001 * (1 + math.sqrt(0.5)) / 2)
    assert recipe.learning_rate_at(200) == pytest.approx(0.001 * 0.75)
    assert recipe.learning_rate_at(300) == pytest.approx(0.0005)


def test_idcs_learning_rate_falls_twice() -> None:
    how = resolve(
        IDC, student="convnet3", num_images=100, num_classes=10, side=32, factor=2, overrides={}
    )
    rates = [how.learning_rate_at(epoch) for epoch in (0, 665, 666, 832, 833, 999)]
    assert rates == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])
    assert (how.epochs, how.batch_size, how.views_per_image) == (1000, 64, 4)
    assert (how.optimizer, how.momentum, how.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (how.mix, how.mix_probability) == ("cutmix", 0.5)


def test_published_numbers() -> None:
    assert resolved(factor=2) == ResolvedRecipe(
        name="rded",
        epochs=300,
        batch_size=50,
        learning_rate=0.001,
        optimizer="adamw",
        schedule="half-cosine",
        betas=(0.9, 0.999),
        momentum=0.0,
        weight_decay=0.01,
        views="crop",
        factor=2,
        crop_scale=(0.5, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        horizontal_flip=True,
        mix="cutmix",
        mix_probability=1.0,
        mix_concentration=1.0,
        temperature=20.0,
        best_of_last=0.2,
    )


def test_mixup_brings_its_own_concentration_and_temperature() -> None:
    recipe = resolved(mix="mixup")
    assert (recipe.mix_concentration, recipe.temperature) == (0.8, 4.0)
    recipe = resolved(mix="mixup", temperature=7.0)
    assert (recipe.mix_concentration, recipe.temperature) == (0.8, 7.0)


OVERRIDES: dict[str, Any] = {
    "epochs": 7,
    "batch_size": 9,
    "learning_rate": 0.5,
    "betas": (0.5, 0.6),
    "weight_decay": 0.0,
    "crop_scale": (0.3, 0.4),
    "crop_ratio": (1.0, 1.0),
    "horizontal_flip": False,
    "mix_concentration": 0.2,
    "temperature": 3.0,
}


def test_every_number_can_be_overridden() -> None:
    recipe = resolved(**OVERRIDES)
    assert {name: getattr(recipe, name) for name in OVERRIDES} == OVERRIDES


def test_an_overridden_batch_size_is_not_above_the_size_of_the_set_either() -> None:
    assert resolved(batch_size=1000).batch_size == 100


BAD: list[tuple[str, Any, str]] = [
    ("epochs", 0, "epochs must be at least 1, got 0"),
    ("batch_size", 0, "batch_size must be at least 1, got 0"),
    ("factor", 0, "factor must be at least 1, got 0"),
    ("learning_rate", 0.0, "learning_rate must be a number above 0, got 0.0"),
    ("learning_rate", -1.0, "learning_rate .* got -1.0"),
    ("learning_rate", math.nan, "learning_rate .* got nan"),
    ("temperature", 0.0, "temperature must be a number above 0"),
    ("mix_concentration", math.inf, "mix_concentration .* got inf"),
    ("weight_decay", -0.1, "weight_decay must be a number from 0 up, got -0.1"),
    ("betas", (0.9, 1.0), "betas must be two numbers from 0 to below 1, got 0.9 1.0"),
    ("crop_scale", (0.0, 1.0), "crop_scale must be .* got 0.0 1.0"),
    ("crop_scale", (0.5, 1.1), "crop_scale must be .* got 0.5 1.1"),
    ("crop_scale", (0.9, 0.1), "crop_scale must be .* got 0.9 0.1"),
    ("crop_ratio", (2.0, 1.0), "crop_ratio must be .* got 2.0 1.0"),
    ("mix", "blend", "mix must be cutmix or mixup, got 'blend'"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_numbers_out_of_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        resolved(**{name: value})
