"""A page of an evaluation: one self-contained HTML file with its table, figure and recipes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pydream.formatting import percent_words
from pydream.pages import page_template


def results_page(
    facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figures: Mapping[str, bytes]
) -> str:
    """Render the rows of an evaluation.

    Parameters
    ----------
    facts
        Inputs of the evaluation, as in `EvaluationResult`.
    rows
        Its rows, from `EvaluationRow.as_dict`.
    figures
        The figures by their titles, PNG files.

    Returns
    -------
    str
        The page, which needs no other file.
    """
    page = page_template("pydream.evaluate", "results.html", percent=percent_words, plain=_plain)
    recipes: dict[str, Any] = {}
    for row in rows:  # rows of one recipe differ in the numbers of its labels at most
        recipes.setdefault(row["recipe"]["name"], row["recipe"])
    return page.render(
        facts=facts,
        rows=rows,
        recipes=recipes,
        figures={title: base64.b64encode(data).decode() for title, data in figures.items()},
    )


def _plain(value: Any) -> str:
    """Write a number or numbers of a recipe for reading."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
