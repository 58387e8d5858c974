"""The students of an evaluation, each fully specified before it is trained."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pydream import __version__
from pydream.data.resized import LabelledImages
from pydream.data.whitening import whitening_record
from pydream.data_parallel import DataParallel
from pydream.errors import PydreamError
from pydream.evaluate.baselines import Baselines
from pydream.evaluate.config import (
    EvaluateConfig,
    budget_of,
    is_of_set_alone,
    is_stored,
    is_tiled,
    rule_of,
)
from pydream.evaluate.context import EvaluationContext
from pydream.evaluate.observers import check_observers
from pydream.evaluate.whitened import whitened_set
from pydream.models import build_model
from pydream.sets.opening import exif_of
from pydream.students.config import RecipeName
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import for_labels, resolve
from pydream.students.recipes import recipe_named
from pydream.students.stored_labels import StoredLabels
from pydream.students.views import steps_per_epoch
from pydream.timeline import stage


class StudentKey(NamedTuple):
    """Name of a student among those of an evaluation.

    Attributes
    ----------
    student
        Its architecture.
    recipe
        Name of its recipe.
    labels
        Source of its targets: ``"online"``, ``"stored"``, ``"stored@300MB"``, ``"own"`` or
        ``"hard"``.
    images
        Name of its training images: ``"distilled"`` or a baseline.
    seed
        Random seed of its training.
    """

    student: str
    recipe: RecipeName
    labels: str
    images: str
    seed: int

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Properties that students of different seeds share: a row of the result."""
        return self[:4]


@dataclass(frozen=True)
class Plan:
    """One student.

    Attributes
    ----------
    key
        Its name.
    trained_on
        Its training images.
    recipe
        Training recipe.
    stored
        The labels stored for this seed, if its targets are those.
    """

    key: StudentKey
    trained_on: LabelledImages
    recipe: ResolvedRecipe
    stored: StoredLabels | None


def check_plans(context: EvaluationContext, parallel: DataParallel) -> dict[str, int]:
    """Build every student, resolve its recipe and open stored labels, before anything is written.

    Returns
    -------
    dict[str, int]
        Number of parameters of each student.

    Raises
    ------
    PydreamError
        If a student does not fit the images or the ranks, a number of the recipe is out of range,
        or stored labels do not fit.
    """
    distilled = context.distilled
    parameters = {}
    for student in context.students:
        with torch.random.fork_rng(devices=[]):
            model = build_model(student, num_classes=len(distilled.class_names), side=context.side)
        parallel.prepare(model, student, context.device)
        parameters[student] = sum(values.numel() for values in model.parameters())
    for key in student_keys(context):
        if key.images == "distilled":
            recipe = settle_recipe(context, key, len(distilled.stored))
            if key.labels == "online":
                check_observers(recipe, len(context.observers))
                if recipe.batch_statistics and parallel.count > 1:
                    raise PydreamError(
                        f"recipe {recipe.name} labels whole batches: leave out --data-parallel"
                    )
            if is_stored(key.labels):
                _stored(context, recipe, key)
    return parameters


def student_keys(context: EvaluationContext) -> list[StudentKey]:
    """Return the names of all students, row by row, seed by seed."""
    config = context.config
    return [
        StudentKey(student, recipe, labels, images, seed)
        for student in context.students
        for recipe in config.named_recipes
        for labels, images in _combinations(config, recipe)
        for seed in config.seeds
    ]


class Plans:
    """Selects images, recipe and labels of the students of an evaluation.

    Random images are drawn anew for each seed; inputs shared by several students are made once.

    Parameters
    ----------
    context
        Context of the evaluation.
    """

    def __init__(self, context: EvaluationContext) -> None:
        self._context = context
        self._baselines = _baselines(context)
        self._held: dict[tuple[str, int], LabelledImages] = {}

    def settle(self, key: StudentKey) -> Plan:
        """Return the plan of a student.

        Raises
        ------
        PydreamError
            If its baseline cannot be made.
        """
        context = self._context
        name = key.images, key.seed if rule_of(key.images) == "random" else 0
        if name not in self._held:
            self._held[name] = _images(context, self._baselines, *name)
        trained_on = self._held[name]
        recipe = settle_recipe(context, key, len(trained_on))
        stored = _stored(context, recipe, key) if is_stored(key.labels) else None
        return Plan(key, trained_on, recipe, stored)

    def expected(self, key: StudentKey) -> tuple[int, int]:
        """Return the epochs that a student is expected to take, and the views of all of them.

        A baseline that has not been made may turn out to be smaller.
        """
        context, count = self._context, sum(self._context.images_per_class)
        if key.images == "full":
            assert context.train is not None
            count = len(context.train)
        recipe = settle_recipe(context, key, count)
        return recipe.epochs, recipe.epochs * count * recipe.views_per_image


def _combinations(config: EvaluateConfig, recipe: RecipeName) -> list[tuple[str, str]]:
    """Return the labels for each kind of images; baselines use online labels instead of stored."""
    pairs: list[tuple[str, str]] = []
    kinds = config.labels_of(recipe)
    for labels in kinds:
        pairs.append((labels, "distilled"))
        if not (is_of_set_alone(labels) and "online" in kinds):
            soft = "online" if is_of_set_alone(labels) else labels
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
    whitening = context.whitening
    if name == "distilled":
        if whitening is not None:
            return whitened_set(context.distilled, whitening)
        return LabelledImages(context.distilled.images, context.distilled.labels)
    assert baselines is not None
    with stage("choose baseline"):
        chosen = baselines.images(name, seed)
        return chosen if whitening is None else whitening.of_split(chosen, chosen.labels.device)


def _stored(context: EvaluationContext, recipe: ResolvedRecipe, key: StudentKey) -> StoredLabels:
    """Open the stored labels of a student, and check that they match the set and the views."""
    stored = StoredLabels(context.distilled, key.seed, budget_of(key.labels))
    stored.check(recipe, context.mean, context.std)
    return stored


def settle_recipe(context: EvaluationContext, key: StudentKey, num_images: int) -> ResolvedRecipe:
    """Resolve the recipe of a student for a number of images and its labels."""
    distilled, published = context.distilled, recipe_named(key.recipe)
    config = context.by_recipe[key.recipe]
    overrides = config.overrides()

    def resolved(count: int, factor: int) -> ResolvedRecipe:
        return resolve(
            published,
            student=key.student,
            num_images=count,
            num_classes=len(distilled.class_names),
            side=context.side,
            factor=factor,
            overrides=overrides,
            learned_rate=distilled.manifest.student_rate,
        )

    in_cells = key.images == "distilled" or is_tiled(key.images)
    recipe = resolved(num_images, context.factor if in_cells else 1)
    if key.images == "full":
        number = len(distilled.stored)
        set_recipe = resolved(number, context.factor)
        steps = config.full_steps or set_recipe.epochs * steps_per_epoch(number, set_recipe)
        epochs = max(1, round(steps / steps_per_epoch(num_images, recipe)))
        recipe = dataclasses.replace(recipe, epochs=epochs)
    return for_labels(recipe, published, key.labels, overrides)


def identity(context: EvaluationContext, plan: Plan) -> dict[str, Any]:
    """Return everything that decides a student's measurements, ready for JSON."""
    observer, config = context.observer, context.config
    asked = plan.key.labels == "online" or rule_of(plan.key.images) in ("herding", "k-centre")
    # Only if it is applied, so that students from before this option are found.
    exif = config.exif or exif_of(context.distilled)
    return {
        **({"exif": exif} if exif == "apply" else {}),
        "set": context.distilled.images_sha256,
        "images": plan.key.images,
        **({"cells": context.cells} if is_tiled(plan.key.images) else {}),
        **_unequal_classes(context, plan),
        "train": None if plan.key.images == "distilled" else context.train_fingerprint,
        "test": context.test_fingerprint,
        "labels": plan.key.labels,
        "stored": None if plan.stored is None else dataclasses.asdict(plan.stored.plan),
        **({"own_labels": _own_labels_sha256(context)} if plan.key.labels == "own" else {}),
        "observer": observer.identity() if observer is not None and asked else None,
        **_further_observers(context, plan),
        "student": plan.key.student,
        "recipe": plan.recipe.as_known_before(),
        **_whitening(context),
        "mean": context.mean,
        "std": context.std,
        "seed": plan.key.seed,
        "eval_every": eval_every(context, plan),
        "precision": context.precision,
        "device": context.device.type,
        **_divided(context),
        "versions": [__version__, str(torch.__version__)],
    }


def label_bytes(context: EvaluationContext, plan: Plan) -> int:
    """Return the bytes of files, or of the observer's weights, that a student's labels need."""
    if plan.stored is not None:
        return plan.stored.nbytes()
    if plan.key.labels == "own":
        assert context.distilled.soft_labels is not None
        return int(context.distilled.soft_labels.nbytes)
    if plan.key.labels == "online":
        return sum(observer.weights_bytes for observer in context.observers)
    return 0


def eval_every(context: EvaluationContext, plan: Plan) -> int:
    """Return the epochs between two measurements.

    By default there are as many as take about a tenth of the training, from 2 to 10. A step passes
    each view through the student, back, and mostly through an observer, four times the work of a
    pass; a measurement passes each test image once.
    """
    if context.config.eval_every is not None:
        return context.config.eval_every
    epochs = plan.recipe.epochs
    passes = 4 * epochs * plan.recipe.views_per_image * len(plan.trained_on)
    number = max(2, min(passes // (10 * len(context.test_images)), 10))
    return -(-epochs // number)


def _further_observers(context: EvaluationContext, plan: Plan) -> dict[str, list[Any]]:
    """Return what the observers beside the first are, if they label the images with it."""
    others = [one.identity() for one in context.observers[1:]]
    return {"further_observers": others} if others and plan.key.labels == "online" else {}


def _whitening(context: EvaluationContext) -> dict[str, Any]:
    """Return what the whitening of all images is fitted on, if students see whitened images."""
    if context.whitening is None:
        return {}
    return {"whitening": dict(whitening_record(context.side, context.train_fingerprint))}


def _divided(context: EvaluationContext) -> dict[str, int]:
    """Return the number of ranks that train a student together, if they are several."""
    together = context.config.data_parallel and context.ranks.connected
    return {"data_parallel": context.ranks.count} if together else {}


def _unequal_classes(context: EvaluationContext, plan: Plan) -> dict[str, list[int]]:
    """Return the images per class of the set, if classes differ and a student depends on them.

    A baseline is made for these numbers. The images of another tool's set come class by class, so
    the numbers are their labels, which are not in the hash of the images.
    """
    counts, images = context.images_per_class, plan.key.images
    known = images == "full" or (images == "distilled" and context.distilled.is_ours)
    return {} if known or len(set(counts)) == 1 else {"images_per_class": counts}


def _own_labels_sha256(context: EvaluationContext) -> str:
    """Hash the soft labels that came with the set."""
    assert context.distilled.soft_labels is not None
    return hashlib.sha256(context.distilled.soft_labels.numpy().tobytes()).hexdigest()
