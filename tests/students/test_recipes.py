from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from small_digits import ARCH, MEAN, SIDE, STD, Digits
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR

from pydream.errors import PydreamError
from pydream.models import load_observer
from pydream.students.labels import hard_targets, online_targets
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import for_labels, reported_words, resolve
from pydream.students.recipes import EDC, MTT, RECIPES, recipe_named
from pydream.students.train import train_student
from pydream.students.views import largest_batch

# Learning rates of torch's schedulers, which multiply step by step, against ours in one formula.
CLOSE = 1e-6


def resolved(name: str, **changes: Any) -> ResolvedRecipe:
    """Resolve for ImageNet-1K at IPC 10 unless told otherwise."""
    shape: dict[str, Any] = {
        "student": "resnet18",
        "num_images": 10_000,
        "num_classes": 1000,
        "side": 224,
        "factor": 2,
        "learned_rate": None,
    }
    shape |= {field: changes.pop(field) for field in [*changes] if field in shape}
    return resolve(recipe_named(name), **shape, overrides=changes)


# The published table: epochs, batch, rate, weight decay and schedule for ImageNet-1K at IPC 10.
PUBLISHED = {
    "rded": (300, 100, 1e-3, 0.01, "half-cosine"),
    "idc": (1000, 64, 0.01, 5e-4, "steps"),
    "rd3": (400, 50, 1e-3, 0.0, "cosine"),
    "edc": (300, 100, 1e-3, 0.01, "half-cosine"),
    "fadrm": (300, 16, 1e-3, 0.01, "half-cosine"),
    "delt": (300, 100, 1e-3, 0.01, "half-cosine"),
    "cim": (300, 100, 1e-3, 1e-4, "steps"),
    "bps": (500, 128, 1e-3, 0.01, "half-cosine"),
    "rethinkdc": (300, 128, 1e-3, 0.01, "cosine"),
    "sre2l": (300, 1024, 1e-3, 0.01, "cosine"),
    "dc": (300, 256, 0.01, 5e-4, "steps"),
    "dsa": (1000, 256, 0.01, 5e-4, "steps"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_are_the_published_ones(name: str) -> None:
    how = resolved(name)
    found = (how.epochs, how.batch_size, how.learning_rate, how.weight_decay, how.schedule)
    assert found == PUBLISHED[name]


# Numbers of other shapes: what differs, and the number.
SHAPES: list[tuple[str, dict[str, Any], str, Any]] = [
    ("rd3", {"student": "convnet4"}, "schedule", "half-cosine"),
    ("rd3", {"student": "resnet18-modified"}, "schedule", "cosine"),
    ("fadrm", {"num_images": 50_000}, "schedule", "cosine"),
    ("fadrm", {"num_images": 1000, "num_classes": 100, "side": 32}, "epochs", 1000),
    ("cim", {"num_images": 50_000}, "batch_size", 200),
    ("cim", {"num_images": 100, "num_classes": 10, "side": 32}, "epochs", 1000),
    ("cim", {"num_images": 100, "num_classes": 10, "epochs": 7}, "epochs", 7),
    ("cim", {"num_images": 100, "num_classes": 10}, "batch_size", 50),
    ("cim", {"num_images": 10, "num_classes": 10, "factor": 1}, "batch_size", 10),
    ("bps", {"num_images": 100, "num_classes": 10, "side": 32}, "crop_scale", (0.1, 1.0)),
    ("bps", {"num_images": 100, "num_classes": 10, "side": 32}, "batch_size", 16),
    ("bps", {"num_images": 50_000}, "batch_size", 256),
    ("bps", {"num_classes": 7, "side": 50}, "batch_size", 128),
    ("rded", {}, "crop_scale", (0.5, 1.0)),
    ("edc", {}, "crop_scale", (0.5, 1.0)),
    ("delt", {}, "crop_scale", (0.25, 1.0)),
    ("sre2l", {}, "crop_scale", (0.08, 1.0)),
    ("dc", {}, "crop_scale", (1.0, 1.0)),
    ("edc", {"loss": "gift"}, "hard_weight", 0.1),
    ("edc", {"loss": "gift", "hard_weight": 0.3}, "hard_weight", 0.3),
]


@pytest.mark.parametrize(("name", "shape", "field", "wanted"), SHAPES)
def test_numbers_follow_set_and_student(
    name: str, shape: dict[str, Any], field: str, wanted: Any
) -> None:
    assert getattr(resolved(name, **shape), field) == wanted


# Least area of a crop and batch size by images per class: `get_training_config` in the code of BPS.
BPS_CONFIGS = {
    (10, 32): {
        **{10: (0.1, 16), 50: (0.2, 16), 100: (0.2, 32), 250: (0.4, 32), 500: (0.6, 64)},
        **{1000: (0.9, 128), 1500: (1.0, 128)},
    },
    (100, 32): {10: (0.2, 32), 25: (0.4, 32), 50: (0.6, 64), 100: (0.9, 128), 150: (1.0, 128)},
    (200, 64): {10: (0.2, 32), 50: (0.6, 64), 100: (0.9, 128)},
    (1000, 224): {10: (0.2, 128), 50: (0.2, 256), 100: (0.2, 512)},
}


@pytest.mark.parametrize(("classes", "side"), BPS_CONFIGS)
def test_bps_takes_the_numbers_nearest_in_ratio(classes: int, side: int) -> None:
    """Also of sets whose classes are unequal, and of more images than any of the table."""
    table = BPS_CONFIGS[classes, side]
    fractions = [math.floor(size * classes) for size in (0.5, 22.4, 35.7, 70.5, 122.4, 707.5, 4000)]
    for num_images in [*(count * classes for count in table), *fractions]:
        ratio = num_images / classes
        nearest = min(table, key=lambda count: max(count / ratio, ratio / count))
        found = resolved("bps", num_classes=classes, side=side, num_images=num_images)
        least, batch_size = table[nearest]
        assert found.crop_scale == (least, 1.0)
        assert found.batch_size == min(batch_size, num_images)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_its_source_and_what_its_authors_report(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.source
    assert recipe.evidence in ("code", "notes")
    share = recipe.best_of_last
    start = "last epoch" if share == 0 else "best"
    assert recipe.reported.startswith(start)
    assert reported_words(resolved(name, learned_rate=0.01), recipe) == recipe.reported


def test_an_overridden_rule_of_reporting_has_words_of_its_own() -> None:
    words = [
        reported_words(resolved("rded", best_of_last=share), RECIPES["rded"])
        for share in (0.0, 0.5)
    ]
    assert words == ["last epoch", "best of the last 50% of the epochs"]


def scheduler_of(how: ResolvedRecipe, optimizer: torch.optim.Optimizer) -> LRScheduler:
    if how.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=how.epochs)
    if how.schedule == "half-cosine":  # as in the code of RDED, EDC and DELT
        return LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / how.epochs / 2))
        )
    milestones = [int(share * how.epochs) for share in how.falls]
    return MultiStepLR(optimizer, milestones, gamma=how.fall_factor)


@pytest.mark.parametrize("name", [*PUBLISHED, "mtt"])
@pytest.mark.parametrize("epochs", [None, 7])
def test_schedules_are_those_of_torch(name: str, epochs: int | None) -> None:
    overrides = {} if epochs is None else {"epochs": epochs}
    how = resolved(name, learned_rate=0.02, **overrides)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=how.learning_rate)
    schedule = scheduler_of(how, optimizer)
    for epoch in range(how.epochs):
        rate = optimizer.param_groups[0]["lr"]
        # Near its end a cosine is a difference of almost equal numbers.
        assert how.learning_rate_at(epoch) == pytest.approx(rate, rel=CLOSE, abs=CLOSE * 1e-3)
        optimizer.step()
        schedule.step()


def test_the_rate_of_dc_falls_after_half_of_the_epochs() -> None:
    rates = [resolved("dc").learning_rate_at(epoch) for epoch in (0, 150, 151, 299)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    rates = [resolved("dsa").learning_rate_at(epoch) for epoch in (0, 500, 501, 999)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_a_learned_rate_is_needed_and_taken() -> None:
    with pytest.raises(
        PydreamError, match=r"mtt trains at the rate that was learned .* give --lear"
    ):
        resolved("mtt")
    assert resolved("mtt", learned_rate=0.037).learning_rate == 0.037
    assert resolved("mtt", learned_rate=0.037, learning_rate=0.5).learning_rate == 0.5
    assert MTT.learning_rate is None


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(PydreamError, match=r"no recipe .rdde.; there are rded, idc, .*, mtt"):
        recipe_named("rdde")


def test_hard_labels_are_compared_by_cross_entropy() -> None:
    for name, mixed in (("edc", 1.0), ("rethinkdc", 0.0), ("cim", 0.0), ("fadrm", 1.0)):
        recipe = RECIPES[name]
        how = for_labels(resolved(name), recipe, "hard", {})
        assert how.loss == ("ce" if recipe.loss == "mse" else "kl")
        assert (how.temperature, how.hard_weight, how.batch_statistics) == (1.0, 0.0, False)
        assert how.mix_probability == mixed
    how = for_labels(resolved("rethinkdc"), RECIPES["rethinkdc"], "hard", {"mix_probability": 1})
    assert how.mix_probability == 1.0


def test_students_and_labels_from_before_a_number_are_found_again() -> None:
    before = resolved("rded").as_known_before()
    assert [*before] == [
        *("name", "epochs", "batch_size", "learning_rate", "optimizer", "schedule", "betas"),
        *("momentum", "weight_decay", "views", "factor", "crop_scale", "crop_ratio"),
        *("horizontal_flip", "mix", "mix_probability", "mix_concentration", "temperature"),
    ]
    assert resolved("edc").as_known_before()["ema_decay"] == 0.99


BAD: list[tuple[str, Any, str]] = [
    ("ema_decay", 1.0, "ema_decay must be from 0 to below 1, got 1.0"),
    ("best_of_last", 1.1, "best_of_last must be from 0 to 1, got 1.1"),
    ("hard_weight", -1.0, "hard_weight must be a number from 0 up, got -1.0"),
    ("fall_factor", 0.0, "fall_factor must be a number above 0, got 0.0"),
    ("falls", (0.5, 1.0), "falls must be between 0 and 1, got 0.5 1.0"),
    ("rand_augment", (-1, 6), "rand_augment must be .* got -1 6"),
    ("rand_augment", (2, 11), "rand_augment must be .* got 2 11"),
    ("least_observers", 0, "least_observers must be at least 1, got 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_numbers_out_of_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        resolved("edc", **{name: value})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_a_student(digits: Digits, name: str) -> None:
    recipe = RECIPES[name]
    train = digits.train
    first = torch.cat([torch.where(train.labels == label)[0][:4] for label in range(10)])
    images, labels = train.images[first], train.labels[first]
    how = resolve(
        recipe,
        student=ARCH,
        num_images=len(images),
        num_classes=10,
        side=SIDE,
        factor=2,
        overrides={"epochs": 2},
        learned_rate=0.02,
    )
    how = for_labels(how, recipe, recipe.labels, {})
    targets = hard_targets(labels.repeat(how.views_per_image), 10)
    if recipe.labels == "online":
        observer = load_observer(digits.observer)
        if how.batch_statistics:
            observer = observer.with_batch_statistics()
        temperature = None if how.compares_logits else how.temperature
        several = [observer] * how.least_observers
        targets = online_targets(
            several, temperature, largest_batch(len(images), how), combine=how.combine
        )

    def trained() -> list[torch.Tensor]:
        student = train_student(
            images,
            targets,
            digits.test,
            how,
            student=ARCH,
            num_classes=10,
            mean=MEAN,
            std=STD,
            seed=3,
            eval_every=1,
            labels=labels,
        )
        losses = [point.loss for point in student.curve]
        assert [point.epoch for point in student.curve] == [1, 2]
        assert all(math.isfinite(loss) for loss in losses)
        return [*student.model.state_dict().values()]

    assert all(map(torch.equal, trained(), trained()))


def test_edc_differs_from_rded_in_what_its_code_says() -> None:
    edc, rded = (resolved(name) for name in ("edc", "rded"))
    differing = {
        field.name
        for field in dataclasses.fields(edc)
        if getattr(edc, field.name) != getattr(rded, field.name)
    }
    assert differing == {
        *("name", "loss", "hard_weight", "least_observers", "ema_decay", "best_of_last"),
    }
    assert (EDC.loss, EDC.hard_weight, EDC.least_observers) == ("mse", 0.025, 4)
