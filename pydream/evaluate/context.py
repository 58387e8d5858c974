"""What all students of an evaluation share, and what is said of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydream import __version__
from pydream.data import Source
from pydream.data.resized import LabelledImages, load_split
from pydream.devices import resolve_device
from pydream.errors import PydreamError
from pydream.evaluate.config import EvaluateConfig
from pydream.evaluate.results import FinishedStudents
from pydream.models import Observer
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from pydream.models.loading import resolve_precision
from pydream.sets.distilled import DistilledSet
from pydream.sets.opening import open_observer
from pydream.timeline import stage

_FORMAT_VERSION = 2


@dataclass(frozen=True)
class EvaluationContext:
    """What all students of an evaluation share."""

    config: EvaluateConfig
    distilled: DistilledSet
    observer: Observer | None
    students: tuple[str, ...]
    train: Source | None
    test: LabelledImages
    train_fingerprint: str | None
    test_fingerprint: str
    device: torch.device
    precision: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    finished: FinishedStudents

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.distilled.manifest["side"])


def check_observer(config: EvaluateConfig, given: nn.Module | None) -> None:
    """Raise PydreamError if an observer is needed and there is none."""
    if given is not None or config.observer is not None:
        return
    what = None
    if "online" in config.labels:
        what = "online labels need an observer: give --observer, or --labels hard, stored or own"
    elif {"stored", "own"} & {*config.labels} and config.baselines:
        what = "stored and own labels are of the set alone: give --observer for the baselines"
    elif {"herding", "k-centre"} & {*config.baselines}:
        what = "herding and k-centre go by an observer's features: give --observer"
    elif not config.students:
        what = "name architectures to train with --students, or give --observer"
    if what is not None:
        raise PydreamError(what)


def prepare_context(
    config: EvaluateConfig,
    distilled: DistilledSet,
    train: Source | None,
    test: Source,
    given: nn.Module | None,
) -> EvaluationContext:
    """Open what the students need; `given` is an observer that is no file."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    observer = None
    network = given if given is not None else config.observer
    if network is not None:
        observer = open_observer(
            network,
            distilled,
            config,
            arch=config.observer_arch,
            precision=precision,
            device=device,
        )
    mean, std = (
        (observer.mean, observer.std)
        if observer is not None
        else (
            tuple(distilled.manifest.get("mean", IMAGENET_MEAN)),
            tuple(distilled.manifest.get("std", IMAGENET_STD)),
        )
    )
    side = distilled.manifest["side"]
    with stage("load test images"):
        tested = load_split(
            test,
            side,
            workers=config.workers,
            device=device,
            allow_skipped=config.allow_skipped,
        )
    return EvaluationContext(
        config=config,
        distilled=distilled,
        observer=observer,
        students=config.students or ((observer.arch,) if observer is not None else ()),
        train=train,
        test=tested,
        train_fingerprint=None if train is None else train.fingerprint(),
        test_fingerprint=test.fingerprint(),
        device=device,
        precision=precision,
        mean=mean,
        std=std,
        finished=FinishedStudents(results_folder(config, distilled) / "students", config.resume),
    )


def results_folder(config: EvaluateConfig, distilled: DistilledSet) -> Path:
    """Return where the results go."""
    return config.out or distilled.beside("results")


def evaluation_facts(bench: EvaluationContext, test: Source) -> dict[str, Any]:
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
            "images_bytes": bench.distilled.images_bytes,
            "labels_bytes": bench.distilled.labels_bytes,
            "images_sha256": bench.distilled.images_sha256,
        },
        "observer": None if observer is None else {**observer.facts(), **observer.input_facts()},
        "test": {
            "description": test.description,
            "images": len(bench.test.labels),
            "skipped": len(test) - len(bench.test.labels),
            "fingerprint": bench.test_fingerprint,
        },
        "config": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in settings.items()
        },
    }
