"""The end of a run: its set, put together from what was kept of each class."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from pydream import report
from pydream.sets.manifest import with_images
from pydream.sets.run import MadeSet, finish_run, kept_draft
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch

STUDENTS = "students"
"""Name of the record of students: by iteration, the accuracy of each."""


def finish_set(writer: SetWriter, watch: Stopwatch) -> MadeSet:
    """Finish a set, all classes of which are written.

    The real images are not needed, so a process that has not seen them can do it.

    Parameters
    ----------
    writer
        Writer of the set.
    watch
        Stopwatch of the stages.

    Raises
    ------
    PydreamError
        If a file cannot be written, or the place of the set is no longer free.
    """
    draft = kept_draft(writer)
    counts = draft.class_counts
    records = [writer.finished_class(label) or {} for label in range(len(counts))]
    with watch("write"):
        writer.write_provenance([row for record in records for row in record["rows"]])
        writer.write_tensors(counts, draft.side)
        manifest = dataclasses.replace(
            with_images(draft, writer.set),
            history=_history(
                [record["losses"] for record in records if "losses" in record],
                writer.record(STUDENTS) or {},
            ),
        )
    pictures = _pictures(writer, len(counts))
    return finish_run(writer, manifest, watch, partial(report.write_report, pictures=pictures))


def _history(losses: list[list[float]], students: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return an entry for each iteration: the loss of all parts, and students if there were any."""
    of_all = [None, *(sum(of_parts) for of_parts in zip(*losses, strict=True))]
    return [
        {
            "iteration": at,
            "loss": loss,
            **({"top1": students[str(at)]} if str(at) in students else {}),
        }
        for at, loss in enumerate(of_all)
    ]


def _pictures(writer: SetWriter, num_classes: int) -> dict[int, Tensor]:
    """Return snapshots by iteration: the first image of some classes, uint8 (k, S, S, 3)."""
    kept = [writer.kept_bytes(pictures_of(label)) for label in range(num_classes)]
    shown = [load(data) for data in kept if data is not None]
    return {at: torch.stack([of[str(at)] for of in shown]) for at in sorted(map(int, shown[0]))}


def pictures_of(label: int) -> str:
    """Return the name of the snapshots that are kept of a class."""
    return f"{label:05d}.pictures"
