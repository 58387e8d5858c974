"""The context that all students of an evaluation share, and its record."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pydream.data import Source, has_split, open_source
from pydream.data.resized import LabelledImages, load_split
from pydream.data.whitening import Whitening, whitening_record
from pydream.devices import resolve_device
from pydream.errors import PydreamError
from pydream.evaluate.config import EvaluateConfig, is_of_set_alone, is_tiled, rule_of
from pydream.evaluate.observers import Given, open_observers
from pydream.evaluate.results import FinishedStudents
from pydream.evaluate.whitened import check_whitened, fit_for, fitted_when_asked, seen_whole
from pydream.files import check_place
from pydream.models import Observer
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from pydream.models.loading import resolve_precision
from pydream.ranks import Ranks
from pydream.sets.distilled import DistilledSet
from pydream.sets.opening import check_class_names, open_real, open_set
from pydream.sets.stored_images import StoredImages
from pydream.students.config import RecipeName, with_views_of_set
from pydream.students.recipe import ResolvedRecipe
from pydream.tiling import CellFit, Tiling
from pydream.timeline import stage
from pydream.urls import without_secrets
from pydream.versions import package_record

_FORMAT_VERSION = 2


@dataclass(frozen=True)
class EvaluationContext:
    """Context that all students of an evaluation share."""

    config: EvaluateConfig
    by_recipe: Mapping[RecipeName, EvaluateConfig]
    ranks: Ranks
    distilled: DistilledSet
    observers: tuple[Observer, ...]
    students: tuple[str, ...]
    train: Source | None
    test: Source
    test_images: LabelledImages
    device: torch.device
    precision: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whitening: Whitening | None
    folder: Path
    finished: FinishedStudents

    @property
    def observer(self) -> Observer | None:
        """The first observer, which normalises the images and chooses coresets; None without."""
        return self.observers[0] if self.observers else None

    @cached_property
    def _of_batches(self) -> tuple[Observer, ...]:
        return tuple(observer.with_batch_statistics() for observer in self.observers)

    def labelling_observers(self, recipe: ResolvedRecipe) -> tuple[Observer, ...]:
        """Return the observers that label images together, as a recipe asks them."""
        return self._of_batches if recipe.batch_statistics else self.observers

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels."""
        return self.distilled.manifest.side

    @property
    def factor(self) -> int:
        """Number of patches or cells along each side of an image of the set."""
        return _factor(self.config, self.distilled)

    @property
    def cells(self) -> CellFit:
        """Way to fit real images into cells: matched where the set is to be seen by its cells."""
        return _cells(self.distilled)

    @cached_property
    def images_per_class(self) -> list[int]:
        """Number of images of each class of the set."""
        classes = len(self.distilled.class_names)
        counts: list[int] = self.distilled.labels.bincount(minlength=classes).tolist()
        return counts

    @cached_property
    def train_fingerprint(self) -> str | None:
        """SHA-256 of the training images, which takes minutes on a network disk; by one rank."""
        return None if self.train is None else self.ranks.once(self.train.fingerprint)

    @cached_property
    def test_fingerprint(self) -> str:
        """SHA-256 of the test images; by one rank."""
        return self.ranks.once(self.test.fingerprint)

    def settings(self) -> dict[str, Any]:
        """Return the facts that all ranks must have in common, and hash real images before."""
        config = dataclasses.asdict(self.config)
        for name in ("device", "workers"):
            del config[name]
        return {
            "settings": config,
            "installation": [package_record(), torch.__version__],
            "kind of device": self.device.type,
            "precision": self.precision,
            "set": self.distilled.images_sha256,
            "observers": [observer.facts() for observer in self.observers],
            "number of test images": len(self.test_images),
            "real images": (
                self.train_fingerprint if self.config.baselines or self.whitening else None,
                self.test_fingerprint,
            ),
        }


def _check_observer(config: EvaluateConfig, given: Given) -> None:
    """Raise PydreamError if an observer is needed but missing."""
    if given is not None or config.observer is not None:
        return
    what = None
    kinds = {kind for recipe in config.named_recipes for kind in config.labels_of(recipe)}
    if "online" in kinds:
        what = "online labels need an observer: give --observer, or --labels hard, stored or own"
    elif any(map(is_of_set_alone, kinds)) and config.baselines:
        what = "stored and own labels are of the set alone: give --observer for the baselines"
    elif {"herding", "k-centre"} & {rule_of(name) for name in config.baselines}:
        what = "herding and k-centre go by an observer's features: give --observer"
    elif not config.students:
        what = "name architectures to train with --students, or give --observer"
    if what is not None:
        raise PydreamError(what)


def _factor(config: EvaluateConfig, distilled: DistilledSet) -> int:
    return config.factor if config.factor is not None else distilled.manifest.factor


def _cells(distilled: DistilledSet) -> CellFit:
    return "matched" if distilled.manifest.views == "dsa" else "shrunk"


def _check_outside(folder: Path, distilled: DistilledSet) -> None:
    """Raise PydreamError if the charts of the results would make the folder one more class."""
    if not isinstance(distilled.stored, StoredImages):
        return
    classes = Path(os.path.commonpath(distilled.stored.files)).resolve()
    if classes in folder.resolve().parents:
        raise PydreamError(
            f"{folder} is among the class folders of {distilled.path}, and charts there would be "
            "taken for images: give another --out"
        )


def _check_tiled(config: EvaluateConfig, distilled: DistilledSet) -> None:
    """Raise PydreamError if a baseline is to be tiled, but the set has no cells, or none fit."""
    tiled = [name for name in config.baselines if is_tiled(name)]
    if not tiled:
        return
    factor = _factor(config, distilled)
    if factor == 1:
        raise PydreamError(
            f"{tiled[0]}: the images of {distilled.path} are not tiled (factor 1): take "
            f"{rule_of(tiled[0])}, or give --factor"
        )
    Tiling(distilled.manifest.side, factor, _cells(distilled))


def open_evaluation(
    config: EvaluateConfig,
    ranks: Ranks,
    train: Source | None,
    test: Source | None,
    given: Given,
) -> EvaluationContext:
    """Open the set, the real images and the observer, and check that they fit together.

    Parameters
    ----------
    config
        The settings.
    ranks
        The ranks that share the evaluation.
    train, test
        Real images, if they are neither a file nor a known set.
    given
        An observer that is not a file, or several.

    Raises
    ------
    PydreamError
        If an input cannot be used, or the results cannot be written.
    """
    _check_observer(config, given)
    zca = fitted_when_asked(config, train)
    distilled = open_set(config, _class_names(config, test), zca)
    _check_tiled(config, distilled)
    whitened = config.zca or distilled.manifest.whitening is not None
    if whitened:
        check_whitened(config, distilled)
    by_recipe = _by_recipe(config, distilled, whitened)
    if not config.recipes:
        config = by_recipe[config.recipe]
    folder = config.out or distilled.beside("results")
    check_place(folder)
    _check_outside(folder, distilled)
    if "own" in config.labels and distilled.soft_labels is None:
        raise PydreamError(
            f"{distilled.path} came without soft labels; give --labels online, stored or hard"
        )
    if test is None:
        test = open_real(config.source, distilled, "test", config.exif)
    if train is None and (config.baselines or whitened):
        train = open_real(config.source, distilled, "train", config.exif)
    for source in (train, test):
        if source is not None:
            check_class_names(source, distilled)
    whitening = fit_for(config, distilled, train, zca, ranks) if whitened and train else None
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    observers = open_observers(config, distilled, given, precision, device)
    normalisation = observers[0] if observers else distilled.manifest
    test_images = _test_images(config, test, distilled.manifest.side, whitening, device)
    return EvaluationContext(
        config=config,
        by_recipe=by_recipe,
        ranks=ranks,
        distilled=distilled,
        observers=observers,
        students=config.students or tuple(observer.arch for observer in observers[:1]),
        train=train,
        test=test,
        test_images=test_images,
        device=device,
        precision=precision,
        mean=normalisation.mean or IMAGENET_MEAN,
        std=normalisation.std or IMAGENET_STD,
        whitening=whitening,
        folder=folder,
        finished=FinishedStudents(folder / "students", config.resume),
    )


def _by_recipe(
    config: EvaluateConfig, distilled: DistilledSet, whitened: bool
) -> dict[RecipeName, EvaluateConfig]:
    """Return the settings under each recipe, with the views that the set is to be seen by."""
    settings = {}
    for name in config.named_recipes:
        alone = dataclasses.replace(config, recipe=name, recipes=())
        views = distilled.manifest.views
        settings[name] = seen_whole(alone) if whitened else with_views_of_set(alone, views)
    return settings


def _class_names(config: EvaluateConfig, test: Source | None) -> tuple[str, ...] | None:
    """Return the class names for a set that only numbers its classes."""
    if test is None and config.source is not None and has_split(config.source, "test"):
        test = open_source(config.source, "test")
    return None if test is None else test.class_names


def _test_images(
    config: EvaluateConfig,
    test: Source,
    side: int,
    whitening: Whitening | None,
    device: torch.device,
) -> LabelledImages:
    """Load the test images on a device, as students see them."""
    with stage("load test images"):
        images = load_split(
            test,
            side,
            workers=config.workers,
            device=device if whitening is None else torch.device("cpu"),
            allow_skipped=config.allow_skipped,
        )
        return images if whitening is None else whitening.of_split(images, device)


def evaluation_facts(context: EvaluationContext) -> dict[str, Any]:
    """Return the inputs and settings of the evaluation, ready for JSON."""
    manifest, observer = context.distilled.manifest, context.observer
    settings = dataclasses.asdict(context.config)
    together = context.config.data_parallel and context.ranks.connected
    return {
        "format": _FORMAT_VERSION,
        "package": package_record(),
        "torch": torch.__version__,
        "device": str(context.device),
        "precision": context.precision,
        "threads": torch.get_num_threads(),
        # Students are then those of one process up to rounding.
        **({"data_parallel": context.ranks.count} if together else {}),
        "set": {
            "path": str(context.distilled.path),
            "method": manifest.method,
            "images_per_class": manifest.images_per_class,
            "images_bytes": context.distilled.images_bytes,
            "labels_bytes": context.distilled.labels_bytes,
            "images_sha256": context.distilled.images_sha256,
        },
        "observer": None if observer is None else {**observer.facts(), **observer.input_facts()},
        **_further_observers(context),
        "test": {
            "description": context.test.description,
            "images": len(context.test_images),
            "skipped": len(context.test) - len(context.test_images),
            "fingerprint": context.test_fingerprint,
        },
        **(
            {}
            if context.whitening is None
            else {"whitening": whitening_record(context.side, context.train_fingerprint)}
        ),
        "config": {
            name: without_secrets(str(value)) if isinstance(value, (str, Path)) else value
            for name, value in settings.items()
        },
    }


def _further_observers(context: EvaluationContext) -> dict[str, Any]:
    """Return the facts of the observers beside the first, if there are any."""
    others = [{**one.facts(), **one.input_facts()} for one in context.observers[1:]]
    return {"further_observers": others} if others else {}
