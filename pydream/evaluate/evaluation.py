"""Evaluates a distilled set: students trained on it from scratch, measured on real test images."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch
from torch import nn

from pydream import __version__
from pydream.data import Source, has_split, open_source
from pydream.data.resized import LabelledImages
from pydream.devices import announce_device
from pydream.errors import PydreamError
from pydream.evaluate.baselines import baseline_images
from pydream.evaluate.config import EvaluateConfig
from pydream.evaluate.context import (
    EvaluationContext,
    check_observer,
    evaluation_facts,
    prepare_context,
    results_folder,
)
from pydream.evaluate.results import EvaluationResult, EvaluationRow, StudentRun, write_results
from pydream.files import check_place, disk_errors
from pydream.models import Observer, build_model
from pydream.sets.opening import check_class_names, exif_of, open_real, open_set
from pydream.students.labels import Targets, hard_targets, online_targets, own_targets
from pydream.students.recipe import RECIPES, ResolvedRecipe, resolve
from pydream.students.stored_labels import StoredLabels
from pydream.students.train import train_student
from pydream.students.views import largest_batch, steps_per_epoch
from pydream.timeline import stage
from pydream.torch_state import usual_torch_state


@usual_torch_state()
def evaluate_set(
    config: EvaluateConfig,
    *,
    train: Source | None = None,
    test: Source | None = None,
    observer: nn.Module | None = None,
) -> EvaluationResult:
    """Train students on a distilled set and on baselines; measure them on real test images.

    Parameters
    ----------
    config
        The settings.
    train
        Real training images for the baselines, where they are no file or known set.
    test
        Real test images, likewise.
    observer
        A classifier of normalised (B, 3, S, S) float32 images, where it is no file;
        ``config.observer`` is then only a name for it, which may not be empty, and
        ``config.students`` must be given.

    Returns
    -------
    EvaluationResult
        For every student and kind of labels a row for the set and one for each baseline; also
        written to a new file, with a figure beside it.

    Raises
    ------
    PydreamError
        If something given cannot be used.
    """
    check_observer(config, observer)
    distilled = open_set(config, _class_names(config, test))
    folder = results_folder(config, distilled)
    check_place(folder)
    if "own" in config.labels and distilled.soft_labels is None:
        raise PydreamError(
            f"{distilled.path} came without soft labels; give --labels online, stored or hard"
        )
    if test is None:
        test = open_real(config.source, distilled, "test", config.exif)
    if train is None and config.baselines:
        train = open_real(config.source, distilled, "train", config.exif)
    for real in (train, test):
        if real is not None:
            check_class_names(real, distilled)
    bench = prepare_context(config, distilled, train, test, observer)
    _check_students(bench)
    plans = [
        (student, labels, images)
        for student in bench.students
        for labels, images in _combinations(config)
    ]
    for student, labels, images in plans:
        if images == "distilled":
            recipe = _resolve(bench, student, labels, images, len(distilled.stored))
            for seed in config.seeds if labels == "stored" else ():
                _stored(bench, recipe, seed)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    announce_device(config.device)
    if bench.observer is not None:
        bench.observer.announce()
    held: dict[tuple[str, int], LabelledImages] = {}
    rows = tuple(_train_row(bench, *plan, held) for plan in plans)
    return write_results(folder, evaluation_facts(bench, test), rows)


def _class_names(config: EvaluateConfig, test: Source | None) -> tuple[str, ...] | None:
    """Return the names that serve for a set which only numbers its classes."""
    if test is None and config.source is not None and has_split(config.source, "test"):
        test = open_source(config.source, "test")
    return None if test is None else test.class_names


def _check_students(bench: EvaluationContext) -> None:
    """Build every student once, so that one that does not fit is known before any is trained."""
    for student in bench.students:
        with torch.random.fork_rng(devices=[]):
            build_model(student, num_classes=len(bench.distilled.class_names), side=bench.side)


def _combinations(config: EvaluateConfig) -> list[tuple[str, str]]:
    """Return which labels go with which images; baselines have online labels for stored ones."""
    pairs: list[tuple[str, str]] = []
    for labels in config.labels:
        pairs.append((labels, "distilled"))
        of_the_set_alone = labels in ("stored", "own")
        if not (of_the_set_alone and "online" in config.labels):
            soft = "online" if of_the_set_alone else labels
            pairs += [(soft, name) for name in config.baselines]
    return list(dict.fromkeys(pairs))


def _train_row(
    bench: EvaluationContext,
    student: str,
    labels: str,
    images: str,
    held: dict[tuple[str, int], LabelledImages],
) -> EvaluationRow:
    """Train one student for each seed; random images are drawn anew for each."""
    runs = []
    for seed in bench.config.seeds:
        trained_on = _images(bench, images, seed, held)
        recipe = _resolve(bench, student, labels, images, len(trained_on))
        identity = _identity(bench, student, labels, images, recipe, seed)
        run = bench.finished.find(identity)
        if run is None:
            run = _train_one(bench, student, labels, images, trained_on, recipe, seed)
            bench.finished.keep(identity, run)
        runs.append(run)
    return EvaluationRow(images, labels, student, len(trained_on), recipe, tuple(runs))


def _train_one(
    bench: EvaluationContext,
    student: str,
    labels: str,
    images: str,
    trained_on: LabelledImages,
    recipe: ResolvedRecipe,
    seed: int,
) -> StudentRun:
    targets, labelled_every = _targets(bench, labels, trained_on, recipe, seed)
    trained = train_student(
        trained_on.images.to(bench.device),
        targets,
        bench.test,
        recipe,
        student=student,
        num_classes=len(bench.distilled.class_names),
        mean=bench.mean,
        std=bench.std,
        seed=seed,
        eval_every=_eval_every(bench, recipe),
        labelled_every=labelled_every,
        precision=bench.precision,
        description=f"{student}, {images} images, {labels} labels, seed {seed}",
    )
    return StudentRun(
        seed, trained.curve, trained.steps, trained.train_seconds, trained.test_seconds
    )


def _eval_every(bench: EvaluationContext, recipe: ResolvedRecipe) -> int:
    return bench.config.eval_every or max(1, recipe.epochs // 10)


def _images(
    bench: EvaluationContext, name: str, seed: int, held: dict[tuple[str, int], LabelledImages]
) -> LabelledImages:
    """Return the images of a row; what several rows share is made once."""
    key = (name, seed if name == "random" else 0)
    if key not in held:
        if name == "distilled":
            held[key] = LabelledImages(bench.distilled.images, bench.distilled.labels)
        else:
            assert bench.train is not None
            with stage("choose baseline"):
                held[key] = baseline_images(
                    name,
                    bench.train,
                    bench.distilled.manifest["images_per_class"],
                    bench.side,
                    seed=seed,
                    observer=bench.observer,
                    workers=bench.config.workers,
                    allow_skipped=bench.config.allow_skipped,
                )
    return held[key]


def _targets(
    bench: EvaluationContext,
    labels: str,
    trained_on: LabelledImages,
    recipe: ResolvedRecipe,
    seed: int,
) -> tuple[Targets, int]:
    """Return where the targets come from, and how many epochs share them."""
    if labels == "hard":
        of_rows = trained_on.labels.repeat(recipe.views_per_image).to(bench.device)
        return hard_targets(of_rows, len(bench.distilled.class_names)), 1
    if labels == "stored":
        stored = _stored(bench, recipe, seed)
        return stored.targets(recipe.temperature, bench.device), stored.plan.every
    if labels == "own":
        assert bench.distilled.soft_labels is not None  # seen when the set was opened
        of_rows = bench.distilled.soft_labels.repeat(recipe.views_per_image, 1).to(bench.device)
        return own_targets(of_rows, recipe.temperature), 1
    assert bench.observer is not None
    largest = largest_batch(len(trained_on), recipe)
    return online_targets(bench.observer, recipe.temperature, largest), 1


def _stored(bench: EvaluationContext, recipe: ResolvedRecipe, seed: int) -> StoredLabels:
    """Open the stored labels of a seed, and see that they are of this set and these views."""
    stored = StoredLabels(bench.distilled, seed)
    stored.check(recipe, bench.mean, bench.std)
    return stored


def _resolve(
    bench: EvaluationContext, student: str, labels: str, images: str, num_images: int
) -> ResolvedRecipe:
    """Settle the recipe for some images.

    Hard labels are compared at temperature 1, and a set's own soft labels too unless a
    temperature is given: those who make such labels train on them so (DATM, DD-Ranking).
    """
    config, distilled = bench.config, bench.distilled

    def resolved(count: int, factor: int) -> ResolvedRecipe:
        return resolve(
            RECIPES[config.recipe],
            student=student,
            num_images=count,
            num_classes=len(distilled.class_names),
            side=bench.side,
            factor=factor,
            overrides=config.overrides(),
        )

    own = config.factor if config.factor is not None else distilled.manifest.get("factor", 1)
    recipe = resolved(num_images, own if images == "distilled" else 1)
    if images == "full":
        number = len(distilled.stored)
        set_recipe = resolved(number, own)
        steps = config.full_steps or set_recipe.epochs * steps_per_epoch(number, set_recipe)
        epochs = max(1, round(steps / steps_per_epoch(num_images, recipe)))
        recipe = dataclasses.replace(recipe, epochs=epochs)
    at_one = labels == "hard" or (labels == "own" and config.temperature is None)
    return dataclasses.replace(recipe, temperature=1.0) if at_one else recipe


def _identity(
    bench: EvaluationContext,
    student: str,
    labels: str,
    images: str,
    recipe: ResolvedRecipe,
    seed: int,
) -> dict[str, Any]:
    """Say all that a student's measurements follow from."""
    observer, config = bench.observer, bench.config
    asked = labels == "online" or images in ("herding", "k-centre")
    # Only where it is applied, so that students of before there was a choice are found.
    exif = config.exif or exif_of(bench.distilled)
    return {
        **({"exif": exif} if exif == "apply" else {}),
        "set": bench.distilled.images_sha256,
        "images": images,
        "train": None if images == "distilled" else bench.train_fingerprint,
        "test": bench.test_fingerprint,
        "labels": labels,
        "stored": dataclasses.asdict(_stored(bench, recipe, seed).plan)
        if labels == "stored"
        else None,
        **({"own_labels": _own_labels_sha256(bench)} if labels == "own" else {}),
        "observer": observer.weights_sha256 if observer is not None and asked else None,
        **_resizing(observer if asked else None),
        "student": student,
        "recipe": dataclasses.asdict(recipe),
        "mean": bench.mean,
        "std": bench.std,
        "seed": seed,
        "eval_every": _eval_every(bench, recipe),
        "precision": bench.precision,
        "device": bench.device.type,
        "versions": [__version__, str(torch.__version__)],
    }


def _own_labels_sha256(bench: EvaluationContext) -> str:
    """Hash the soft labels that came with the set."""
    assert bench.distilled.soft_labels is not None
    return hashlib.sha256(bench.distilled.soft_labels.numpy().tobytes()).hexdigest()


def _resizing(observer: Observer | None) -> dict[str, int]:
    """Return the side that an observer resizes images to, if it does."""
    if observer is None or observer.side == observer.network_side:
        return {}
    return {"observer_side": observer.network_side}
