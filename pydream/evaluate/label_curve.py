"""Accuracy against the bytes of labels, as a table and a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from rich.table import Table
from rich.text import Text

from pydream.evaluate.config import is_stored
from pydream.formatting import byte_words, percent_words

if TYPE_CHECKING:
    from pydream.evaluate.results import EvaluationRow


def label_curve(rows: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """Return the rows of a set by the bytes of their labels; none if no labels were stored."""
    if not any(is_stored(row.labels) for row in rows):
        return []
    of_set = [row for row in rows if row.images == "distilled"]
    return sorted(of_set, key=lambda row: row.label_bytes)


def curve_facts(curve: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    """Return the points of a curve, ready for JSON."""
    names = ("student", "labels", "label_bytes", "label_form", "last_mean", "last_std")
    points = [{name: getattr(row, name) for name in names} for row in curve]
    return [{**point, "recipe": row.recipe.name} for point, row in zip(points, curve, strict=True)]


def curve_table(student: str, curve: Sequence[EvaluationRow]) -> Table:
    """Format the points of one student in less than 80 columns."""
    title = Text(f"{student}: accuracy against the bytes of its labels")
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), title_justify="left")
    several = _several(curve)
    for name in ("recipe", "labels") if several else ("labels",):
        table.add_column(name, no_wrap=True)
    for name in ("every", "top-k", "bits", "hard", "bytes", "top-1", "best top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in curve:
        form = row.label_form or {}
        table.add_row(
            *([row.recipe.name] if several else []),
            row.labels,
            str(form.get("every", "")),
            str(form.get("top_k") or ("all" if form else "")),
            str(form.get("bits", "")),
            str(form.get("hard_epochs", "")),
            byte_words(row.label_bytes),
            percent_words(row.last_mean, row.last_std),
            percent_words(row.best_mean, row.best_std),
        )
    return table


def curve_figure(curve: Sequence[EvaluationRow]) -> bytes:
    """Draw a line of accuracies for each student: a PNG file.

    Labels without bytes have no place on the logarithmic axis, and are lines across.
    """
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(6.4, 4.0), dpi=150)
        panel = figure.subplots()
        for number, (name, own) in enumerate(_by_student(curve).items()):
            color = f"C{number}"
            stored = [row for row in own if is_stored(row.labels)]
            _points(panel, stored, color=color, marker="o", label=f"{name}, stored labels")
            for row in own:
                words = f"{name}, {row.labels} labels"
                if row.label_bytes == 0:
                    height = 100 * row.last_mean
                    panel.axhline(height, color=color, linestyle="--", label=words)
                elif row not in stored:
                    _points(panel, [row], color=color, marker="D", label=words)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(EngFormatter(unit="B"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("size of the labels, or of the observer that gives them")
        panel.set_ylabel("top-1 at the last epoch, %")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", frameon=False)
        figure.tight_layout()
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return stream.getvalue()


def _by_student(curve: Sequence[EvaluationRow]) -> dict[str, list[EvaluationRow]]:
    """Group points by student, and by recipe if there are several."""
    several = _several(curve)
    groups: dict[str, list[EvaluationRow]] = {}
    for row in curve:
        name = f"{row.student}, {row.recipe.name}" if several else row.student
        groups.setdefault(name, []).append(row)
    return groups


def _several(curve: Sequence[EvaluationRow]) -> bool:
    return len({row.recipe.name for row in curve}) > 1


def _points(panel: Any, rows: Sequence[EvaluationRow], **style: Any) -> None:
    """Draw points with their deviations over seeds, and a line through them."""
    panel.errorbar(
        [row.label_bytes for row in rows],
        [100 * row.last_mean for row in rows],
        yerr=[100 * (row.last_std or 0.0) for row in rows],
        capsize=3,
        **style,
    )
