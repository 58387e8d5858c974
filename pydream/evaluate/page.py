"""A page of an evaluation: one self-contained HTML file with its table, figure and recipes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pydream.formatting import percent_words
from pydream.pages import page_templates


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
    environment = page_templates("pydream.evaluate")
    environment.filters["percent"] = percent_words
    return environment.get_template("results.html").render(
        facts=facts,
        rows=rows,
        recipes={row["recipe"]["name"]: row["recipe"] for row in reversed(rows)},
        figures={title: base64.b64encode(data).decode() for title, data in figures.items()},
    )
