"""Results of an evaluation: rows, a table for the terminal, and files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pydream.durable import make_folder
from pydream.entry_types import parse_json
from pydream.errors import PydreamError, error_words
from pydream.evaluate.label_curve import curve_facts, curve_table, label_curve
from pydream.files import RESUME, disk_errors, write_whole
from pydream.formatting import byte_words, percent_words
from pydream.students.recipe import ResolvedRecipe
from pydream.students.recipe_tables import reported_words
from pydream.students.recipes import recipe_named
from pydream.students.train import Checkpoint

_LEGEND_INCHES = 2.0  # width of an entry of the legend
_DERIVED = (
    *("last_mean", "last_std", "best_mean", "best_std"),
    *("reported", "reported_mean", "reported_std"),
    *("top5_mean", "top5_std", "seconds"),
)


@dataclass(frozen=True)
class StudentRun:
    """One student, trained from one seed.

    Attributes
    ----------
    seed
        Random seed of the training.
    curve
        Its measurements, the last one after the last epoch.
    steps
        Number of training steps.
    train_seconds, test_seconds
        Time spent on training and on measurements.
    """

    seed: int
    curve: tuple[Checkpoint, ...]
    steps: int
    train_seconds: float
    test_seconds: float

    @property
    def last(self) -> Checkpoint:
        """The measurement after the last epoch."""
        return self.curve[-1]

    @property
    def best(self) -> Checkpoint:
        """The measurement with the highest top-1, the first of equals."""
        return max(self.curve, key=lambda checkpoint: checkpoint.top1)

    def reported(self, recipe: ResolvedRecipe) -> Checkpoint:
        """Return the measurement that a recipe's authors report.

        It is the best one after the epochs that `ResolvedRecipe.best_of_last` leaves out, or the
        last one.
        """
        left_out = round((1 - recipe.best_of_last) * recipe.epochs)
        late = [point for point in self.curve if point.epoch > left_out] or [self.last]
        return max(late, key=lambda checkpoint: checkpoint.top1)


@dataclass(frozen=True)
class EvaluationRow:
    """Students that differ only in their seed.

    Attributes
    ----------
    images
        Training images: ``"distilled"``, or a `Baseline` such as ``"random-tiled"``.
    labels
        Source of their targets: ``"online"``, ``"stored"``, ``"stored@300MB"``, ``"own"`` or
        ``"hard"``.
    student
        Their architecture.
    image_count
        Number of training images.
    recipe
        Training recipe.
    runs
        The students, by seed.
    label_bytes
        Size in bytes of what one student's labels need besides the images: stored labels, or the
        weights of the observer that is asked online.
    label_form
        Form of stored labels: ``every``, ``top_k``, ``bits`` and ``hard_epochs``; None for others.
    """

    images: str
    labels: str
    student: str
    image_count: int
    recipe: ResolvedRecipe
    runs: tuple[StudentRun, ...]
    label_bytes: int
    label_form: dict[str, int | None] | None

    @property
    def last_mean(self) -> float:
        """Mean top-1 at the last epoch."""
        return fmean(run.last.top1 for run in self.runs)

    @property
    def last_std(self) -> float | None:
        """Standard deviation (n − 1) of top-1 at the last epoch; None for a single run."""
        return _deviation([run.last.top1 for run in self.runs])

    @property
    def best_mean(self) -> float:
        """Mean of the best top-1 of each run."""
        return fmean(run.best.top1 for run in self.runs)

    @property
    def best_std(self) -> float | None:
        """Standard deviation (n − 1) of the best top-1; None for a single run."""
        return _deviation([run.best.top1 for run in self.runs])

    @property
    def reported(self) -> str:
        """What the recipe's authors report, in words."""
        return reported_words(self.recipe, recipe_named(self.recipe.name))

    @property
    def reported_mean(self) -> float:
        """Mean top-1 as the recipe's authors report it."""
        return fmean(run.reported(self.recipe).top1 for run in self.runs)

    @property
    def reported_std(self) -> float | None:
        """Standard deviation (n − 1) of top-1 as they report it; None for a single run."""
        return _deviation([run.reported(self.recipe).top1 for run in self.runs])

    @property
    def top5_mean(self) -> float:
        """Mean top-5 at the last epoch."""
        return fmean(run.last.top5 for run in self.runs)

    @property
    def top5_std(self) -> float | None:
        """Standard deviation (n − 1) of top-5 at the last epoch; None for a single run."""
        return _deviation([run.last.top5 for run in self.runs])

    @property
    def seconds(self) -> float:
        """Mean time of a run in seconds, including measurements."""
        return fmean(run.train_seconds + run.test_seconds for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, means and deviations, ready for JSON."""
        plain = dataclasses.asdict(self)
        for run, record in zip(self.runs, plain["runs"], strict=True):
            record["last"] = dataclasses.asdict(run.last)
            record["best"] = dataclasses.asdict(run.best)
            record["reported"] = dataclasses.asdict(run.reported(self.recipe))
        return {**plain, **{name: getattr(self, name) for name in _DERIVED}}


@dataclass(frozen=True)
class EvaluationResult:
    """Result of `evaluate_set`.

    Attributes
    ----------
    path
        The JSON file of this result.
    facts
        Inputs of the evaluation: set, observer, test images, settings and versions.
    rows
        Rows by student, recipe and labels: the distilled set first, then the baselines.
    """

    path: Path
    facts: dict[str, Any]
    rows: tuple[EvaluationRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the file, and its path."""
        return {"path": str(self.path), **content(self.facts, self.rows)}


def result_table(result: EvaluationResult) -> RenderableType:
    """Format the rows for a terminal, as a table for each student; ± is over the seeds."""
    seeds = len(result.facts["config"]["seeds"])
    size = result.facts["set"]
    weight = f"images of the set: {byte_words(size['images_bytes'])}"
    if size["labels_bytes"]:
        weight += f"; stored labels: {byte_words(size['labels_bytes'])}"
    words = (
        f"accuracy on {result.facts['test']['images']:,} test images, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}"
    )
    if "whitening" in result.facts:
        words += ", all images whitened (ZCA)"
    if ranks := result.facts.get("data_parallel"):
        words += f", each student on {ranks} ranks, as in one process up to rounding"
    students = list(dict.fromkeys(row.student for row in result.rows))
    tables: list[RenderableType] = []
    for student in students:
        rows = [row for row in result.rows if row.student == student]
        tables.append(_student_table(f"{student}: {words}", rows))
        tables.append(_reported_table(rows))
        if curve := label_curve(rows):
            tables.append(curve_table(student, curve))
    return Group(*tables, Text(weight))


def _student_table(title: str, rows: Sequence[EvaluationRow]) -> Table:
    """Format the rows of one student in less than 80 columns."""
    several = len({row.recipe.name for row in rows}) > 1
    images = not several or len({row.images for row in rows}) > 1
    table = Table(title=Text(title), box=None, padding=(0, 2, 0, 0), title_justify="left")
    for name in ("recipe", "labels") if several else ("labels",):
        table.add_column(name, no_wrap=True)
    if images:
        table.add_column("images")
    for name in ("steps",) if several else ("number", "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("top-1", "best top-1", "top-5", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *([row.recipe.name] if several else []),
            row.labels,
            # Two lines where a terminal is narrow.
            *([row.images.replace("-tiled", " tiled")] if images else []),
            *([] if several else [f"{row.image_count:,}"]),
            f"{row.runs[0].steps:,}",
            percent_words(row.last_mean, row.last_std),
            percent_words(row.best_mean, row.best_std),
            percent_words(row.top5_mean, row.top5_std),
            f"{row.seconds:.0f}",
        )
    return table


def _reported_table(rows: Sequence[EvaluationRow]) -> Table:
    """Format top-1 as the authors of each recipe report it, and what that is."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("as published:", "labels", "images"):
        table.add_column(name)
    table.add_column("top-1", justify="right", no_wrap=True)
    table.add_column("which is")
    for row in rows:
        table.add_row(
            row.recipe.name,
            row.labels,
            row.images.replace("-tiled", " tiled"),
            percent_words(row.reported_mean, row.reported_std),
            row.reported,
        )
    return table


def accuracy_figure(rows: Sequence[EvaluationRow]) -> bytes:
    """Draw the accuracy of all rows as bars, a panel for each student: a PNG file."""
    students = list(dict.fromkeys(row.student for row in rows))
    images = list(dict.fromkeys(row.images for row in rows))
    several = len({row.recipe.name for row in rows}) > 1
    kinds = list(dict.fromkeys((row.recipe.name, row.labels) for row in rows))
    width = 0.8 / len(kinds)
    with matplotlib.style.context("default"):
        bars = len(images) * len(students) * max(1, len(kinds) / 3)
        figure = Figure(figsize=(1.6 + 1.3 * bars, 3.4), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(students), sharey=True, squeeze=False)[0]
        for panel, student in zip(panels, students, strict=True):
            for number, (recipe, labels) in enumerate(kinds):
                kind = (student, recipe, labels)
                shown = [row for row in rows if (row.student, row.recipe.name, row.labels) == kind]
                panel.bar(
                    [images.index(row.images) + (number + 0.5) * width - 0.4 for row in shown],
                    [100 * row.last_mean for row in shown],
                    width * 0.92,
                    yerr=[100 * (row.last_std or 0.0) for row in shown],
                    capsize=3,
                    label=f"{recipe}, {labels} labels" if several else f"{labels} labels",
                    color=f"C{number}"
                    if len(kinds) <= 10
                    else matplotlib.colormaps["tab20"](number),
                )
            panel.set_title(student)
            panel.set_xticks(range(len(images)), images)
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", alpha=0.3)
            panel.set_axisbelow(True)
        panels[0].set_ylabel("top-1 at the last epoch, %")
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            fontsize="small",
            loc="outside lower center",
            ncols=min(len(kinds), max(1, round(figure.get_figwidth() / _LEGEND_INCHES))),
            frameon=False,
        )
        stream = io.BytesIO()
        figure.savefig(stream, format="png", bbox_inches="tight")  # a wide legend, too
    return stream.getvalue()


def content(facts: dict[str, Any], rows: tuple[EvaluationRow, ...]) -> dict[str, Any]:
    """Return the content of the JSON file of a result."""
    curve = label_curve(rows)
    return {
        **facts,
        "rows": [row.as_dict() for row in rows],
        **({"label_curve": curve_facts(curve)} if curve else {}),
    }


def _deviation(values: list[float]) -> float | None:
    """Return the standard deviation of two or more values, else None."""
    return stdev(values) if len(values) > 1 else None


def _checksum(run: Mapping[str, Any]) -> str:
    """Return the CRC-32 of the measurements of a student, in hex."""
    return f"{zlib.crc32(json.dumps(run).encode()):08x}"


class FinishedStudents:
    """A folder with a file for every trained student, named after everything that decides it.

    Parameters
    ----------
    folder
        Folder of the files, made with the first student; also an attribute.
    resume
        Reuse students whose files exist.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder, self._resume = folder, resume

    def find(self, identity: Mapping[str, Any]) -> StudentRun | None:
        """Return the student of this identity, if it exists and may be reused."""
        file = self._file(identity)
        if not (self._resume and file.is_file()):
            return None
        try:
            kept = parse_json(file.read_bytes())
            run = kept["run"]
            if kept["crc32"] != _checksum(run):
                raise ValueError("its checksum differs")
            curve = tuple(Checkpoint(**point) for point in run.pop("curve"))
            return StudentRun(curve=curve, **run)
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise PydreamError(
                f"{file} cannot be read ({error_words(error)}): remove it, and the student is "
                "trained again"
            ) from error

    def keep(self, identity: Mapping[str, Any], run: StudentRun) -> None:
        """Store a student's measurements."""
        measured = dataclasses.asdict(run)
        content = {"identity": identity, "run": measured, "crc32": _checksum(measured)}
        with disk_errors(self.folder, RESUME):
            make_folder(self.folder)
        write_whole(self._file(identity), (json.dumps(content, indent=1) + "\n").encode(), RESUME)

    def _file(self, identity: Mapping[str, Any]) -> Path:
        text = json.dumps(identity, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
