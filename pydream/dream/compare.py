"""Random and representative real images side by side: accuracy against iteration."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from pydream.data import Source, check_classes, has_split, open_source
from pydream.data.sources import check_outside
from pydream.data.subset import Subset
from pydream.devices import announce_device, resolve_device
from pydream.dream.config import CompareConfig, DreamConfig
from pydream.dream.distill import distill
from pydream.dream.expert_training import train_experts
from pydream.dream.experts_config import ExpertsConfig
from pydream.dream.frameworks import FRAMEWORKS
from pydream.errors import PydreamError
from pydream.files import check_place, disk_errors, write_whole
from pydream.torch_state import usual_torch_state
from pydream.urls import without_secrets

# What arXiv 2310.15052 compares, on the same matching of IDC.
_IN_IDC: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "match": "gradient"},
    "DREAM": {"sampler": "representative", "match": "gradient"},
    "DREAM+": {"sampler": "representative", "match": "bidirectional"},
}
# All start from real images, so that the curves differ by the real images matched.
_IN_OTHERS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "start": "real"},
    "representative": {"sampler": "representative", "start": "real"},
    "bidirectional": {"sampler": "representative", "start": "real", "match": "bidirectional"},
}
# Numbers for two cores and a few minutes.
_SMALL: dict[str, dict[str, Any]] = {
    "idc": {"factor": 2, "iterations": 8, "inner_loop": 10, "network_images": 250},
    "dc": {"iterations": 8, "inner_loop": 10, "synthetic_epochs": 5},
    "dsa": {"iterations": 8, "inner_loop": 10, "synthetic_epochs": 5},
    "dm": {"iterations": 400},
    "mtt": {"iterations": 100, "student_steps": 10, "max_start": 5, "expert_epochs": 2},
}
_SMALL_IN_ALL: dict[str, Any] = {"arch": "convnet3-w32-instance", "batch_real": 64}
_SMALL_EXPERTS = {"count": 4, "epochs": 6}
# Settings of a run that replace the numbers above, or those of the recipe, if they are given.
_GIVEN = (
    *("factor", "arch", "iterations", "inner_loop", "batch_real", "network_images"),
    "learning_rate",
)
_EVERY_IN_FULL = 25  # iterations from one measurement of students to the next
_MEASUREMENTS = 4  # of students, after the one of the first images


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`.

    Attributes
    ----------
    iterations
        Iterations at which accuracy was measured.
    top1
        Accuracy by method, one list per seed with a value in [0, 1] for each iteration.
    path
        The folder with ``comparison.json``, ``comparison.svg`` and ``comparison.png``.
    """

    iterations: list[int]
    top1: dict[str, list[list[float]]]
    path: Path

    def mean(self, method: str) -> list[float]:
        """Return the mean over seeds at each measurement."""
        return [fmean(values) for values in zip(*self.top1[method], strict=True)]

    def first_reaching(self, method: str, level: float) -> int | None:
        """Return the first iteration at which the mean of a method reaches a level."""
        for at, mean in zip(self.iterations, self.mean(method), strict=True):
            if mean >= level:
                return at
        return None


@usual_torch_state()
def compare(
    config: CompareConfig, *, train: Source | None = None, test: Source | None = None
) -> Comparison:
    """Run a framework with random and with representative images, measuring students on the way.

    The seeds are the same. In IDC the methods are random sampling, DREAM and DREAM+; in the others
    random and representative images, and these with bidirectional matching where a network answers.

    Parameters
    ----------
    config
        The settings.
    train, test
        The images, if they are neither a file nor a known set.

    Raises
    ------
    PydreamError
        If there are no test images, or a run fails.
    """
    check_place(config.out)
    if train is None or test is None:
        if not has_split(config.source, "test"):
            raise PydreamError(
                f"{without_secrets(config.source)} has no test split to measure students on"
            )
        train = open_source(config.source, exif=config.exif)
        test = open_source(config.source, "test", exif=config.exif)
    check_classes(train)
    check_outside(train, config.out)
    if not config.full:
        chosen = range(min(config.classes or len(train.class_names), len(train.class_names)))
        train, test = Subset(train, chosen, config.images_per_class), Subset(test, chosen)
        usual = {name: own for name, own in _SMALL_IN_ALL.items() if getattr(config, name) is None}
        config = dataclasses.replace(config, **usual)
    named = config.device
    config = dataclasses.replace(config, device=str(resolve_device(named)))
    if config.framework == "mtt" and config.experts is None:
        config = dataclasses.replace(config, experts=_train_experts(config, train))
    methods = _methods(config)
    runs = {
        method: [
            _settings(config, matched, f"{method.lower()}-{seed}", seed)
            for seed in range(config.seeds)
        ]
        for method, matched in methods.items()
    }
    announce_device(named)
    histories: dict[str, list[list[dict[str, Any]]]] = {
        method: [
            distill(run, source=train, test=test).manifest.history or [] for run in runs[method]
        ]
        for method in methods
    }
    measured = [entry for entry in histories["random"][0] if entry.get("top1")]
    result = Comparison(
        [entry["iteration"] for entry in measured],
        {
            method: [
                [fmean(entry["top1"]) for entry in history if entry.get("top1")] for history in runs
            ]
            for method, runs in histories.items()
        },
        config.out,
    )
    record = {
        "config": {
            **dataclasses.asdict(config),
            "source": without_secrets(config.source),
            "out": str(config.out),
            "experts": None if config.experts is None else str(config.experts),
        },
        "iterations": result.iterations,
        "top1": result.top1,
    }
    text = json.dumps(record, indent=1) + "\n"
    write_whole(config.out / "comparison.json", text.encode())
    with disk_errors(config.out):
        _draw(result)
    return result


def _train_experts(config: CompareConfig, train: Source) -> Path:
    """Train the experts of the comparison, or what is left of them; return their folder."""
    settings: dict[str, Any] = {} if config.full else _SMALL_EXPERTS
    experts = ExpertsConfig(
        config.source,
        arch=config.arch,
        out=config.out / "experts",
        exif=config.exif,
        allow_skipped=config.allow_skipped,
        device=config.device,
        resume=True,
        **settings,
    )
    return train_experts(experts, source=train).path


def _methods(config: CompareConfig) -> dict[str, dict[str, Any]]:
    """Return the settings of each method by its name."""
    if config.framework == "idc":
        return _IN_IDC
    known = FRAMEWORKS[config.framework].matches
    return {
        name: settings
        for name, settings in _IN_OTHERS.items()
        if settings.get("match", known[0]) in known
    }


def _settings(config: CompareConfig, matched: dict[str, Any], name: str, seed: int) -> DreamConfig:
    """Return the settings of one run; a finished run is not repeated."""
    settings: dict[str, Any] = {"factor": _SMALL[config.framework].get("factor")}
    if not config.full:
        settings |= _SMALL[config.framework]
    for setting in _GIVEN:
        if getattr(config, setting) is not None:
            settings[setting] = getattr(config, setting)
    if matched["sampler"] == "representative" and config.weights != "equal":
        settings["weights"], name = config.weights, f"{name}-{config.weights}"
    every = max(1, settings["iterations"] // _MEASUREMENTS) if not config.full else _EVERY_IN_FULL
    return DreamConfig(
        config.source,
        out=config.out / name,
        framework=config.framework,
        experts=config.experts,
        ipc=config.ipc,
        eval_every=config.eval_every or every,
        eval_epochs=config.eval_epochs,
        seed=seed,
        exif=config.exif,
        allow_skipped=config.allow_skipped,
        device=config.device,
        resume=True,
        **matched,
        **settings,
    )


def _draw(result: Comparison) -> None:
    """Draw mean and standard deviation of the accuracies against the iteration."""
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for method, runs in result.top1.items():
            mean = [100 * value for value in result.mean(method)]
            spread = [100 * stdev(values) if len(runs) > 1 else 0.0
                      for values in zip(*runs, strict=True)]  # fmt: skip
            axes.errorbar(
                result.iterations, mean, spread, label=method, marker="o", markersize=3, capsize=2
            )
        axes.set_xlabel("iteration")
        axes.set_ylabel("students’ top-1, %")
        axes.grid(alpha=0.3)
        axes.legend()
        for suffix in ("svg", "png"):
            figure.savefig(result.path / f"comparison.{suffix}", dpi=150)
