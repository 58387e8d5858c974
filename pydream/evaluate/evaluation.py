"""Evaluates a distilled set: students trained on it from scratch, measured on real test images."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydream import __version__
from pydream.data import Source
from pydream.data.distilled import DistilledSet, load_set
from pydream.errors import PydreamError
from pydream.evaluate.baselines import baseline_images
from pydream.evaluate.config import EvaluateConfig
from pydream.evaluate.finished import FinishedStudents
from pydream.evaluate.labels import Targets, hard_targets, online_targets
from pydream.evaluate.measure import RealImages
from pydream.evaluate.opening import check_class_names, check_images, open_observer, open_real
from pydream.evaluate.real import load_test_images
from pydream.evaluate.recipe import RECIPES, ResolvedRecipe, resolve
from pydream.evaluate.results import EvaluationResult, EvaluationRow, StudentRun, write_results
from pydream.evaluate.stored import StoredLabels
from pydream.evaluate.train import train_student
from pydream.evaluate.views import largest_batch, steps_per_epoch
from pydream.models import Observer
from pydream.models.loading import resolve_device, resolve_precision

_FORMAT_VERSION = 2


@dataclass(frozen=True)
class _Bench:
    """What all students of an evaluation share."""

    config: EvaluateConfig
    distilled: DistilledSet
    observer: Observer | None
    students: tuple[str, ...]
    train: Source | None
    test: RealImages
    train_fingerprint: str | None
    test_fingerprint: str
    device: torch.device
    precision: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    finished: FinishedStudents

    @property
    def side(self) -> int:
        return int(self.distilled.manifest["side"])


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
        ``config.observer`` then only names it, and ``config.students`` must be given.

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
    distilled = load_set(config.set)
    check_images(distilled)
    _check_observer(config, observer)
    if test is None:
        test = open_real(config.source, distilled, "test")
    if train is None and config.baselines:
        train = open_real(config.source, distilled, "train")
    for real in (train, test):
        if real is not None:
            check_class_names(real, distilled)
    bench = _prepare(config, distilled, train, test, observer)
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
    folder = _make_folder(config.out or distilled.path / "results")
    held: dict[tuple[str, int], RealImages] = {}
    rows = tuple(_train_row(bench, *plan, held) for plan in plans)
    return write_results(folder, _facts(bench, test), rows)


def _check_observer(config: EvaluateConfig, given: nn.Module | None) -> None:
    """Raise PydreamError if an observer is needed and there is none."""
    if given is not None or config.observer is not None:
        return
    what = None
    if "online" in config.labels:
        what = "online labels need an observer: give --observer, or --labels hard or stored"
    elif "stored" in config.labels and config.baselines:
        what = "stored labels are of the set alone, so soft labels of baselines need --observer"
    elif {"herding", "k-centre"} & {*config.baselines}:
        what = "herding and k-centre go by an observer's features: give --observer"
    elif not config.students:
        what = "name architectures to train with --students, or give --observer"
    if what is not None:
        raise PydreamError(what)


def _combinations(config: EvaluateConfig) -> list[tuple[str, str]]:
    """Return which labels go with which images; baselines have online labels for stored ones."""
    pairs: list[tuple[str, str]] = []
    for labels in config.labels:
        pairs.append((labels, "distilled"))
        if not (labels == "stored" and "online" in config.labels):
            soft = "online" if labels == "stored" else labels
            pairs += [(soft, name) for name in config.baselines]
    return pairs


def _prepare(
    config: EvaluateConfig,
    distilled: DistilledSet,
    train: Source | None,
    test: Source,
    given: nn.Module | None,
) -> _Bench:
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    observer = None
    network = given if given is not None else config.observer
    if network is not None:
        observer = open_observer(
            network,
            distilled,
            arch=config.observer_arch,
            precision=precision,
            device=config.device,
        )
    mean, std = (
        (observer.mean, observer.std)
        if observer is not None
        else (tuple(distilled.manifest["mean"]), tuple(distilled.manifest["std"]))
    )
    side = distilled.manifest["side"]
    return _Bench(
        config=config,
        distilled=distilled,
        observer=observer,
        students=config.students or ((observer.arch,) if observer is not None else ()),
        train=train,
        test=load_test_images(test, side, workers=config.workers, device=device),
        train_fingerprint=None if train is None else train.fingerprint(),
        test_fingerprint=test.fingerprint(),
        device=device,
        precision=precision,
        mean=mean,
        std=std,
        finished=FinishedStudents(
            (config.out or distilled.path / "results") / "students", config.resume
        ),
    )


def _train_row(
    bench: _Bench, student: str, labels: str, images: str, held: dict[tuple[str, int], RealImages]
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
    bench: _Bench,
    student: str,
    labels: str,
    images: str,
    trained_on: RealImages,
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


def _eval_every(bench: _Bench, recipe: ResolvedRecipe) -> int:
    return bench.config.eval_every or max(1, recipe.epochs // 10)


def _images(
    bench: _Bench, name: str, seed: int, held: dict[tuple[str, int], RealImages]
) -> RealImages:
    """Return the images of a row; what several rows share is made once."""
    key = (name, seed if name == "random" else 0)
    if key not in held:
        if name == "distilled":
            held[key] = RealImages(bench.distilled.images, bench.distilled.labels)
        else:
            assert bench.train is not None
            held[key] = baseline_images(
                name,
                bench.train,
                bench.distilled.manifest["images_per_class"],
                bench.side,
                seed=seed,
                observer=bench.observer,
                workers=bench.config.workers,
            )
    return held[key]


def _targets(
    bench: _Bench, labels: str, trained_on: RealImages, recipe: ResolvedRecipe, seed: int
) -> tuple[Targets, int]:
    """Return where the targets come from, and how many epochs share them."""
    if labels == "hard":
        of_rows = trained_on.labels.repeat(recipe.views_per_image).to(bench.device)
        return hard_targets(of_rows, len(bench.distilled.class_names)), 1
    if labels == "stored":
        stored = _stored(bench, recipe, seed)
        return stored.targets(recipe.temperature, bench.device), stored.plan.every
    assert bench.observer is not None
    largest = largest_batch(len(trained_on), recipe)
    return online_targets(bench.observer, recipe.temperature, largest), 1


def _stored(bench: _Bench, recipe: ResolvedRecipe, seed: int) -> StoredLabels:
    """Open the stored labels of a seed, and see that they are of this set and these views."""
    distilled = bench.distilled
    stored = StoredLabels(distilled.path, seed)
    stored.check(
        distilled.manifest["images_sha256"], distilled.class_names, recipe, (bench.mean, bench.std)
    )
    return stored


def _resolve(
    bench: _Bench, student: str, labels: str, images: str, num_images: int
) -> ResolvedRecipe:
    """Settle the recipe for some images; hard labels are compared at temperature 1."""
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
    return dataclasses.replace(recipe, temperature=1.0) if labels == "hard" else recipe


def _identity(
    bench: _Bench, student: str, labels: str, images: str, recipe: ResolvedRecipe, seed: int
) -> dict[str, Any]:
    """Say all that a student's measurements follow from."""
    observer = bench.observer
    asked = labels == "online" or images in ("herding", "k-centre")
    return {
        "set": bench.distilled.manifest["images_sha256"],
        "images": images,
        "train": None if images == "distilled" else bench.train_fingerprint,
        "test": bench.test_fingerprint,
        "labels": labels,
        "stored": dataclasses.asdict(_stored(bench, recipe, seed).plan)
        if labels == "stored"
        else None,
        "observer": observer.weights_sha256 if observer is not None and asked else None,
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


def _make_folder(folder: Path) -> Path:
    """Make the folder for the results, before anything long is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PydreamError(
            f"{folder} cannot be made for the results: {error.strerror}; give another --out"
        ) from error
    if not os.access(folder, os.W_OK):
        raise PydreamError(f"{folder} cannot be written to; give another --out")
    return folder


def _facts(bench: _Bench, test: Source) -> dict[str, Any]:
    """Say what was evaluated with what, as JSON takes it."""
    manifest, observer = bench.distilled.manifest, bench.observer
    settings = dataclasses.asdict(bench.config)
    return {
        "format": _FORMAT_VERSION,
        "package": {"name": "pydream-distill", "version": __version__},
        "torch": torch.__version__,
        "device": str(bench.device),
        "precision": bench.precision,
        "threads": torch.get_num_threads(),
        "set": {
            "path": str(bench.distilled.path),
            "method": manifest.get("method"),
            "images_per_class": manifest["images_per_class"],
            "images_bytes": manifest.get("images_bytes"),
            "labels_bytes": manifest.get("labels_bytes", 0),
            "images_sha256": manifest.get("images_sha256"),
        },
        "observer": None
        if observer is None
        else {
            "arch": observer.arch,
            "weights_sha256": observer.weights_sha256,
            "precision": observer.precision,
        },
        "test": {
            "description": test.description,
            "images": len(test),
            "fingerprint": bench.test_fingerprint,
        },
        "config": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in settings.items()
        },
    }
