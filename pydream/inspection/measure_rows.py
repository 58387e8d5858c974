"""Measures of a set in words, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pydream.formatting import byte_words, score_words
from pydream.inspection.realism import SetMeasures


class MeasureRow(NamedTuple):
    """One measure of a set and, if available, of random real images."""

    name: str
    note: str
    distilled: str
    random_real: str | None


def _share(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:.4g}"


_OF_IMAGES: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("realism", "realism", "mean log p of the right class; 0 is best", score_words),
    ("patch_realism", "realism of patches", "each resized to a whole image", score_words),
    ("agreement", "right class likeliest", "share of the images", _share),
    ("entropy", "entropy of soft labels", "mean, in nats, temperature 1", _number),
    ("pairwise_distance", "distance within a class", "mean of two images’ features", _number),
    (
        "coverage_distance",
        "distance from real images",
        "mean, features, to the nearest; less covers more",
        _number,
    ),
)


def measure_rows(measures: SetMeasures) -> list[MeasureRow]:
    """Describe measures in words.

    Parameters
    ----------
    measures
        Result of `pydream.inspection.realism.measure_set`.

    Returns
    -------
    list[MeasureRow]
        One row for each measure taken.
    """
    rows = []
    for key, name, note, words in _OF_IMAGES:
        value = getattr(measures.distilled, key, None)
        other = getattr(measures.random_real, key, None)
        if value is not None:
            rows.append(
                MeasureRow(name, note, words(value), None if other is None else words(other))
            )
    if measures.effective_sources is not None:
        count = f"{measures.effective_sources:.1f}"
        rows.append(
            MeasureRow("effective sources", "exp of the entropy of the cells’ sources", count, None)
        )
    for name, size in (
        ("bytes of images", measures.images_bytes),
        ("bytes of labels", measures.labels_bytes),
    ):
        rows.append(MeasureRow(name, "in files", byte_words(size), None))
    return rows
