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
from pydream.data import Source, has_split, open_source
from pydream.data.distilled import DistilledSet, load_set
from pydream.errors import PydreamError
from pydream.evaluate.config import EvaluateConfig
from pydream.evaluate.labels import online_targets
from pydream.evaluate.measure import RealImages
from pydream.evaluate.real import load_test_images, random_real_images
from pydream.evaluate.recipe import RECIPES, ResolvedRecipe, resolve
from pydream.evaluate.results import EvaluationResult, EvaluationRow, StudentRun, write_results
from pydream.evaluate.train import train_student
from pydream.evaluate.views import largest_batch
from pydream.models import Observer, load_observer

_FORMAT_VERSION = 1
_NAMES_LISTED = 5


@dataclass(frozen=True)
class _Bench:
    """What all students of an evaluation share."""

    config: EvaluateConfig
    distilled: DistilledSet
    observer: Observer
    test: RealImages
    student: str


def evaluate_set(
    config: EvaluateConfig,
    *,
    train: Source | None = None,
    test: Source | None = None,
    observer: nn.Module | None = None,
) -> EvaluationResult:
    """Train students on a distilled set and measure them on real test images.

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
        ``config.observer`` then only names it, and ``config.student`` must be given.

    Returns
    -------
    EvaluationResult
        One row for the set and one for each baseline, also written to a new file.

    Raises
    ------
    PydreamError
        If something given cannot be used.
    """
    distilled = load_set(config.set)
    test = test if test is not None else _open(config, distilled, "test")
    _check_class_names(test, distilled)
    network = _load_observer(config, distilled, observer)
    bench = _Bench(
        config=config,
        distilled=distilled,
        observer=network,
        test=load_test_images(
            test, distilled.images.shape[1], workers=config.workers, device=network.device
        ),
        student=config.student or network.arch,
    )
    factor = config.factor if config.factor is not None else distilled.manifest.get("factor", 1)
    plans = {"distilled": _resolve(bench, factor)}
    if "random" in config.baselines:
        train = train if train is not None else _open(config, distilled, "train")
        _check_class_names(train, distilled)
        plans["random"] = _resolve(bench, 1)
    folder = _make_folder(config.out or distilled.path / "results")
    rows = tuple(_run_seeds(bench, name, recipe, train) for name, recipe in plans.items())
    return write_results(folder, _facts(bench, test), rows)


def _run_seeds(
    bench: _Bench, images: str, recipe: ResolvedRecipe, train: Source | None
) -> EvaluationRow:
    """Train one student for each seed; random images are drawn anew for each."""
    config, observer = bench.config, bench.observer
    runs = []
    for seed in config.seeds:
        trained_on = bench.distilled.images
        if images == "random":
            assert train is not None
            trained_on = random_real_images(
                train,
                bench.distilled.manifest["images_per_class"],
                trained_on.shape[1],
                seed=seed,
                workers=config.workers,
            ).images
        trained = train_student(
            trained_on.to(observer.device),
            online_targets(observer, recipe.temperature, largest_batch(len(trained_on), recipe)),
            bench.test,
            recipe,
            student=bench.student,
            num_classes=observer.num_classes,
            mean=observer.mean,
            std=observer.std,
            seed=seed,
            eval_every=config.eval_every or max(1, recipe.epochs // 10),
            precision=observer.precision,
            description=f"{images} images, seed {seed}",
        )
        runs.append(
            StudentRun(
                seed,
                trained.curve,
                trained.steps,
                trained.train_seconds,
                trained.test_seconds,
            )
        )
    return EvaluationRow(images, "online", bench.student, len(trained_on), recipe, tuple(runs))


def _resolve(bench: _Bench, factor: int) -> ResolvedRecipe:
    """Settle the recipe for images of so many patches per side."""
    images = bench.distilled.images
    return resolve(
        RECIPES[bench.config.recipe],
        student=bench.student,
        num_images=len(images),
        num_classes=len(bench.distilled.class_names),
        side=images.shape[1],
        factor=factor,
        overrides=bench.config.overrides(),
    )


def _open(config: EvaluateConfig, distilled: DistilledSet, split: str) -> Source:
    """Open the real images that were named, or that the set was distilled from."""
    named = config.source or distilled.manifest.get("source", {}).get("description")
    if named is None:
        raise PydreamError(
            f"{distilled.path} does not say what it was distilled from; "
            "name real images with a test split with --source"
        )
    if split == "test" and not has_split(named, "test"):
        raise PydreamError(
            f"{named} has no test split; name real images that have one with --source"
        )
    return open_source(named, split)


def _check_class_names(source: Source, distilled: DistilledSet) -> None:
    """Raise PydreamError unless the real images have the classes of the set, in their order."""
    real, own = source.class_names, distilled.class_names
    if real == own:
        return
    parts = [
        f"only {where} has {_listed(sorted(names))}"
        for where, names in (
            (source.description, {*real} - {*own}),
            (str(distilled.path), {*own} - {*real}),
        )
        if names
    ]
    raise PydreamError(
        f"the {source.split} images of {source.description} have other classes than the set: "
        f"{'; '.join(parts) or 'they come in another order'}"
    )


def _load_observer(
    config: EvaluateConfig, distilled: DistilledSet, given: nn.Module | None
) -> Observer:
    """Load the observer and put its classes in the order of the set's."""
    observer = load_observer(
        given if given is not None else config.observer,
        arch=config.observer_arch,
        side=distilled.images.shape[1],
        precision=config.precision,
        device=config.device,
    )
    names = distilled.class_names
    made_by = distilled.manifest.get("observer", {})
    if made_by.get("weights_sha256") == observer.weights_sha256 and "class_order" in made_by:
        return observer.with_class_order(made_by["class_order"])
    if observer.class_names is not None:
        missing = sorted({*names} - {*observer.class_names})
        if missing:
            raise PydreamError(
                f"observer {config.observer} does not know the classes {_listed(missing)} of the "
                "set; give one trained on them"
            )
        return observer.with_class_order([observer.class_names.index(name) for name in names])
    if observer.num_classes != len(names):
        raise PydreamError(
            f"observer {config.observer} has {observer.num_classes} classes, but the set has "
            f"{len(names)}; give one trained on them"
        )
    return observer


def _listed(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


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
        "device": str(observer.device),
        "threads": torch.get_num_threads(),
        "set": {
            "path": str(bench.distilled.path),
            "method": manifest.get("method"),
            "images_per_class": manifest["images_per_class"],
            "images_bytes": manifest.get("images_bytes"),
            "images_sha256": manifest.get("images_sha256"),
        },
        "observer": {
            "arch": observer.arch,
            "weights_sha256": observer.weights_sha256,
            "precision": observer.precision,
        },
        "test": {
            "description": test.description,
            "images": len(test),
            "fingerprint": test.fingerprint(),
        },
        "config": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in settings.items()
        },
    }
