"""A sample's set, filled up to the size of the whole one, so that its end can be measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydream.files import disk_errors
from pydream.rded.sample import Sample


def fill_up(sample: Sample, counts: Sequence[int]) -> None:
    """Repeat the images of a sample until every class of the set has as many as it will have.

    Image files are repeated as links, which take no space, and are read like any others.

    Parameters
    ----------
    sample
        A sample, whose classes are written.
    counts
        Number of distilled images of each class in the whole set.
    """
    writer, labels = sample.run.writer, sample.labels
    folders = {label: writer.set / "images" / f"{label:05d}" for label in range(len(counts))}
    records = {label: writer.finished_class(label) or {} for label in labels}
    files = {label: sorted(folders[label].iterdir()) for label in labels}
    for label, count in enumerate(counts):
        origin = label if label in records else labels[label % len(labels)]
        with disk_errors(folders[label]):
            folders[label].mkdir(exist_ok=True)
            for number in range(len(files.get(label, ())), count):
                file = files[origin][number % len(files[origin])]
                _link(file, folders[label] / f"{number:05d}{file.suffix}")
        record = records[origin] if label == origin else {**records[origin], "skipped": []}
        rows = _repeated(record["rows"], label, count, len(files[origin]))
        writer.keep(f"{label:05d}", {**record, "rows": rows})


def _repeated(
    rows: Sequence[Mapping[str, Any]], label: int, count: int, made: int
) -> list[dict[str, Any]]:
    """Return the rows of provenance for `count` images of a class, from those of `made` images."""
    cells = len(rows) // made
    return [
        {**row, "class": label, "image": number}
        for number in range(count)
        for row in rows[number % made * cells : (number % made + 1) * cells]
    ]


def _link(file: Path, place: Path) -> None:
    """Give a file a second place; where the file system has no links, copy it."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
