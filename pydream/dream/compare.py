"""Random sampling, DREAM and DREAM+ side by side: accuracy against iteration."""

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
from pydream.data.subset import Subset
from pydream.devices import announce_device, resolve_device
from pydream.dream.config import CompareConfig, DreamConfig
from pydream.dream.distill import distill
from pydream.errors import PydreamError
from pydream.files import check_place, disk_errors, write_whole
from pydream.torch_state import usual_torch_state
from pydream.urls import without_secrets

# The methods that arXiv 2310.15052 compares, on the same matching of IDC.
METHODS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "match": "gradient"},
    "DREAM": {"sampler": "representative", "match": "gradient"},
    "DREAM+": {"sampler": "representative", "match": "bidirectional"},
}


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
    """Run random sampling, DREAM and DREAM+ from the same seeds, measuring students on the way.

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
    if not config.full:
        chosen = range(min(config.classes or len(train.class_names), len(train.class_names)))
        train, test = Subset(train, chosen, config.images_per_class), Subset(test, chosen)
    named = config.device
    config = dataclasses.replace(config, device=str(resolve_device(named)))
    runs = {
        method: [
            _settings(config, matched, f"{method.lower()}-{seed}", seed)
            for seed in range(config.seeds)
        ]
        for method, matched in METHODS.items()
    }
    announce_device(named)
    histories: dict[str, list[list[dict[str, Any]]]] = {
        method: [
            distill(run, source=train, test=test).manifest.history or [] for run in runs[method]
        ]
        for method in METHODS
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
        },
        "iterations": result.iterations,
        "top1": result.top1,
    }
    text = json.dumps(record, indent=1) + "\n"
    write_whole(config.out / "comparison.json", text.encode())
    with disk_errors(config.out):
        _draw(result)
    return result


def _settings(config: CompareConfig, matched: dict[str, Any], name: str, seed: int) -> DreamConfig:
    """Return the settings of one run; a finished run is not repeated."""
    reduced: dict[str, Any] = {}
    if not config.full:
        reduced = {
            name: getattr(config, name)
            for name in (
                "arch",
                "iterations",
                "inner_loop",
                "batch_real",
                "network_images",
                "learning_rate",
            )
        }
    return DreamConfig(
        config.source,
        out=config.out / name,
        ipc=config.ipc,
        factor=config.factor,
        eval_every=config.eval_every,
        eval_epochs=config.eval_epochs,
        seed=seed,
        exif=config.exif,
        allow_skipped=config.allow_skipped,
        device=config.device,
        resume=True,
        **matched,
        **reduced,
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
