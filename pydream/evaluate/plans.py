"""The students of an evaluation, all fully specified before the first one is trained."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from pydream import __version__
from pydream.data.resized import LabelledImages
from pydream.evaluate.baselines import Baselines
from pydream.evaluate.config import EvaluateConfig, is_tiled, rule_of
from pydream.evaluate.context import EvaluationContext
from pydream.models import Observer, build_model
from pydream.sets.opening import exif_of
from pydream.students.recipe import RECIPES, ResolvedRecipe, resolve
from pydream.students.stored_labels import StoredLabels
from pydream.students.views import steps_per_epoch
from pydream.timeline import stage


@dataclass(frozen=True)
class Plan:
    """One student.

    Attributes
    ----------
    student
        Its architecture.
    labels
        Source of its targets: ``"online"``, ``"stored"``, ``"own"`` or ``"hard"``.
    images
        Name of its training images: ``"distilled"`` or a baseline.
    trained_on
        Its training images.
    recipe
        Training recipe.
    seed
        Random seed of its training.
    stored
        The labels stored for this seed, for ``"stored"``.
    """

    student: str
    labels: str
    images: str
    trained_on: LabelledImages
    recipe: ResolvedRecipe
    seed: int
    stored: StoredLabels | None

    @property
    def row(self) -> tuple[str, str, str]:
        """Properties that students of different seeds share: a row of the result."""
        return self.student, self.labels, self.images


def check_plans(context: EvaluationContext) -> None:
    """Build every student, resolve its recipe and open stored labels, before anything is written.

    Raises
    ------
    PydreamError
        If a student does not fit the images, a number of the recipe is out of range, or stored
        labels do not fit.
    """
    config, distilled = context.config, context.distilled
    for student in context.students:
        with torch.random.fork_rng(devices=[]):
            build_model(student, num_classes=len(distilled.class_names), side=context.side)
        for labels in config.labels:
            recipe = settle_recipe(context, student, labels, "distilled", len(distilled.stored))
            for seed in config.seeds if labels == "stored" else ():
                _stored(context, recipe, seed)


def settle_plans(context: EvaluationContext) -> list[Plan]:
    """Select images, recipe and labels of every student, row by row, seed by seed.

    Random images are drawn anew for each seed; inputs shared by several rows are made once.

    Raises
    ------
    PydreamError
        If a baseline cannot be made.
    """
    config = context.config
    pairs = _combinations(config)
    baselines = _baselines(context)
    held = {
        (name, seed): _images(context, baselines, name, seed)
        for name in dict.fromkeys(images for _, images in pairs)
        for seed in (config.seeds if rule_of(name) == "random" else (0,))
    }
    plans = []
    for student in context.students:
        for labels, images in pairs:
            for seed in config.seeds:
                trained_on = held[images, seed if rule_of(images) == "random" else 0]
                recipe = settle_recipe(context, student, labels, images, len(trained_on))
                stored = _stored(context, recipe, seed) if labels == "stored" else None
                plans.append(Plan(student, labels, images, trained_on, recipe, seed, stored))
    return plans


def _combinations(config: EvaluateConfig) -> list[tuple[str, str]]:
    """Return the labels for each kind of images; baselines use online labels instead of stored."""
    pairs: list[tuple[str, str]] = []
    for labels in config.labels:
        pairs.append((labels, "distilled"))
        of_the_set_alone = labels in ("stored", "own")
        if not (of_the_set_alone and "online" in config.labels):
            soft = "online" if of_the_set_alone else labels
            pairs += [(soft, name) for name in config.baselines]
    return list(dict.fromkeys(pairs))


def _baselines(context: EvaluationContext) -> Baselines | None:
    config = context.config
    if context.train is None:
        return None
    return Baselines(
        context.train,
        context.images_per_class,
        context.side,
        factor=context.factor,
        cells=context.cells,
        observer=context.observer,
        workers=config.workers,
        allow_skipped=config.allow_skipped,
    )


def _images(
    context: EvaluationContext, baselines: Baselines | None, name: str, seed: int
) -> LabelledImages:
    if name == "distilled":
        return LabelledImages(context.distilled.images, context.distilled.labels)
    assert baselines is not None
    with stage("choose baseline"):
        return baselines.images(name, seed)


def _stored(context: EvaluationContext, recipe: ResolvedRecipe, seed: int) -> StoredLabels:
    """Open the stored labels of a seed, and check that they match the set and the views."""
    stored = StoredLabels(context.distilled, seed)
    stored.check(recipe, context.mean, context.std)
    return stored


def settle_recipe(
    context: EvaluationContext, student: str, labels: str, images: str, num_images: int
) -> ResolvedRecipe:
    """Resolve the recipe for some images.

    Hard labels are compared at temperature 1. So are a set's own soft labels unless a temperature
    is given, because methods that make such labels train on them that way (DATM, DD-Ranking).
    """
    config, distilled = context.config, context.distilled

    def resolved(count: int, factor: int) -> ResolvedRecipe:
        return resolve(
            RECIPES[config.recipe],
            student=student,
            num_images=count,
            num_classes=len(distilled.class_names),
            side=context.side,
            factor=factor,
            overrides=config.overrides(),
        )

    in_cells = images == "distilled" or is_tiled(images)
    recipe = resolved(num_images, context.factor if in_cells else 1)
    if images == "full":
        number = len(distilled.stored)
        set_recipe = resolved(number, context.factor)
        steps = config.full_steps or set_recipe.epochs * steps_per_epoch(number, set_recipe)
        epochs = max(1, round(steps / steps_per_epoch(num_images, recipe)))
        recipe = dataclasses.replace(recipe, epochs=epochs)
    at_one = labels == "hard" or (labels == "own" and config.temperature is None)
    return dataclasses.replace(recipe, temperature=1.0) if at_one else recipe


def identity(context: EvaluationContext, plan: Plan) -> dict[str, Any]:
    """Return everything that decides a student's measurements, ready for JSON."""
    observer, config = context.observer, context.config
    asked = plan.labels == "online" or rule_of(plan.images) in ("herding", "k-centre")
    # Only if it is applied, so that students from before this option are found.
    exif = config.exif or exif_of(context.distilled)
    return {
        **({"exif": exif} if exif == "apply" else {}),
        "set": context.distilled.images_sha256,
        "images": plan.images,
        **({"cells": context.cells} if is_tiled(plan.images) else {}),
        **_unequal_classes(context, plan),
        "train": None if plan.images == "distilled" else context.train_fingerprint,
        "test": context.test_fingerprint,
        "labels": plan.labels,
        "stored": None if plan.stored is None else dataclasses.asdict(plan.stored.plan),
        **({"own_labels": _own_labels_sha256(context)} if plan.labels == "own" else {}),
        "observer": observer.weights_sha256 if observer is not None and asked else None,
        **_resizing(observer if asked else None),
        "student": plan.student,
        "recipe": dataclasses.asdict(plan.recipe),
        "mean": context.mean,
        "std": context.std,
        "seed": plan.seed,
        "eval_every": eval_every(context, plan),
        "precision": context.precision,
        "device": context.device.type,
        "versions": [__version__, str(torch.__version__)],
    }


def eval_every(context: EvaluationContext, plan: Plan) -> int:
    """Return the epochs between two measurements, by default a tenth of all epochs."""
    return context.config.eval_every or max(1, plan.recipe.epochs // 10)


def _unequal_classes(context: EvaluationContext, plan: Plan) -> dict[str, list[int]]:
    """Return the images per class that a baseline was made for, if classes differ."""
    counts = context.images_per_class
    if plan.images in ("distilled", "full") or len(set(counts)) == 1:
        return {}
    return {"images_per_class": counts}


def _own_labels_sha256(context: EvaluationContext) -> str:
    """Hash the soft labels that came with the set."""
    assert context.distilled.soft_labels is not None
    return hashlib.sha256(context.distilled.soft_labels.numpy().tobytes()).hexdigest()


def _resizing(observer: Observer | None) -> dict[str, int]:
    """Return the side that an observer resizes images to, if it does."""
    if observer is None or observer.side == observer.network_side:
        return {}
    return {"observer_side": observer.network_side}
