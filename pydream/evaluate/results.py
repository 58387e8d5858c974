"""The outcome of an evaluation: rows, a table for people, a file for machines."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from pydream.errors import PydreamError
from pydream.evaluate.recipe import ResolvedRecipe
from pydream.evaluate.train import Checkpoint

_DERIVED = ("last_mean", "last_std", "best_mean", "best_std", "top5_mean", "top5_std", "seconds")


@dataclass(frozen=True)
class StudentRun:
    """One student, trained from one seed.

    Attributes
    ----------
    seed
        What it followed from.
    curve
        Its measurements; the last one is of the last epoch.
    steps
        Batches it was trained on.
    train_seconds, test_seconds
        Spent on training and on the measurements.
    """

    seed: int
    curve: tuple[Checkpoint, ...]
    steps: int
    train_seconds: float
    test_seconds: float

    @property
    def last(self) -> Checkpoint:
        """The measurement of the last epoch."""
        return self.curve[-1]

    @property
    def best(self) -> Checkpoint:
        """The measurement with the highest top-1; the first of them."""
        return max(self.curve, key=lambda each: each.top1)


@dataclass(frozen=True)
class EvaluationRow:
    """Students that differ in the seed alone.

    Attributes
    ----------
    images
        What they were trained on: ``"distilled"`` or ``"random"``.
    labels
        Where their targets came from: ``"online"``.
    student
        Their architecture.
    image_count
        How many images they were trained on.
    recipe
        How.
    runs
        One for each seed.
    """

    images: str
    labels: str
    student: str
    image_count: int
    recipe: ResolvedRecipe
    runs: tuple[StudentRun, ...]

    @property
    def last_mean(self) -> float:
        """Mean top-1 at the last epoch."""
        return fmean(run.last.top1 for run in self.runs)

    @property
    def last_std(self) -> float | None:
        """Standard deviation (n − 1) of top-1 at the last epoch; None of a single run."""
        return _deviation([run.last.top1 for run in self.runs])

    @property
    def best_mean(self) -> float:
        """Mean of the best top-1 of each run."""
        return fmean(run.best.top1 for run in self.runs)

    @property
    def best_std(self) -> float | None:
        """Standard deviation (n − 1) of the best top-1; None of a single run."""
        return _deviation([run.best.top1 for run in self.runs])

    @property
    def top5_mean(self) -> float:
        """Mean top-5 at the last epoch."""
        return fmean(run.last.top5 for run in self.runs)

    @property
    def top5_std(self) -> float | None:
        """Standard deviation (n − 1) of top-5 at the last epoch; None of a single run."""
        return _deviation([run.last.top5 for run in self.runs])

    @property
    def seconds(self) -> float:
        """Mean seconds of a run, measurements included."""
        return fmean(run.train_seconds + run.test_seconds for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, means and deviations included, as JSON takes it."""
        plain = dataclasses.asdict(self)
        for run, record in zip(self.runs, plain["runs"], strict=True):
            record["last"] = dataclasses.asdict(run.last)
            record["best"] = dataclasses.asdict(run.best)
        return {**plain, **{name: getattr(self, name) for name in _DERIVED}}


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate_set` gives.

    Attributes
    ----------
    path
        The file that holds all of this as JSON.
    facts
        What was evaluated with what: set, observer, test images, settings, versions.
    rows
        The distilled set first, then the baselines.
    """

    path: Path
    facts: dict[str, Any]
    rows: tuple[EvaluationRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return what the file holds, and its path."""
        return {"path": str(self.path), **_content(self.facts, self.rows)}


def write_results(
    folder: Path, facts: dict[str, Any], rows: tuple[EvaluationRow, ...]
) -> EvaluationResult:
    """Write ``results-0001.json``, or the first number that is free.

    Raises
    ------
    PydreamError
        If nothing can be written there.
    """
    text = json.dumps(_content(facts, rows), indent=2) + "\n"
    number = 1
    while True:
        path = folder / f"results-{number:04d}.json"
        try:
            with path.open("x") as file:
                file.write(text)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise PydreamError(f"{path} cannot be written: {error.strerror}") from error
        else:
            return EvaluationResult(path, facts, rows)


def result_table(result: EvaluationResult) -> Table:
    """Lay the rows out for a terminal; accuracies in percent, ± over the seeds."""
    test = result.facts["test"]
    seeds = len(result.facts["config"]["seeds"])
    table = Table(
        title=f"Accuracy on {test['images']:,} test images, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}"
    )
    for name in ("student", "labels", "images"):
        table.add_column(name)
    for name in ("number", "top-1", "best top-1", "top-5", "seconds"):
        table.add_column(name, justify="right")
    for row in result.rows:
        table.add_row(
            row.student,
            row.labels,
            row.images,
            f"{row.image_count:,}",
            _percent(row.last_mean, row.last_std),
            _percent(row.best_mean, row.best_std),
            _percent(row.top5_mean, row.top5_std),
            f"{row.seconds:.0f}",
        )
    return table


def _content(facts: dict[str, Any], rows: tuple[EvaluationRow, ...]) -> dict[str, Any]:
    """Return what the file holds."""
    return {**facts, "rows": [row.as_dict() for row in rows]}


def _deviation(values: list[float]) -> float | None:
    """Return the standard deviation of a sample of two or more."""
    return stdev(values) if len(values) > 1 else None


def _percent(mean: float, deviation: float | None) -> str:
    """Write a share as a percentage."""
    return f"{mean:.1%}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}%"
