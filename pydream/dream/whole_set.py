"""The end of a run: its set, put together from what was kept of each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from pydream import report
from pydream.sets import run
from pydream.sets.distilled import DistilledSet
from pydream.sets.manifest import Manifest
from pydream.sets.run import MadeSet
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch

STUDENTS = "students"
"""Name of the record of students: by iteration, the accuracy of each."""


def finish_set(writer: SetWriter, watch: Stopwatch) -> MadeSet:
    """Finish a set, all classes of which are written; see `pydream.sets.run.finish_set`."""
    return run.finish_set(writer, watch, partial(_entries, writer), partial(_write_report, writer))


def _entries(
    writer: SetWriter, draft: Manifest, records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write ``images.pt``; return the manifest's history, and the rate that students learned."""
    writer.write_tensors(draft.class_counts, draft.side)
    losses = [record["losses"] for record in records if "losses" in record]
    rates = [record["student_rate"] for record in records if "student_rate" in record]
    return {
        "history": _history(losses, writer.record(STUDENTS) or {}),
        **({"student_rate": rates[0]} if rates else {}),
    }


def _write_report(
    writer: SetWriter, distilled: DistilledSet, write: Callable[[Path, bytes], None]
) -> None:
    """Write the report, with snapshots of some classes."""
    report.write_report(distilled, write, pictures=_pictures(writer, len(distilled.class_names)))


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
