"""The end of a run that makes a distilled set, for all methods."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.manifest import Manifest
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch


@dataclass(frozen=True)
class MadeSet:
    """A distilled set that a method has made.

    Attributes
    ----------
    path
        The folder of the distilled set.
    manifest
        Its description, as in ``manifest.json``.
    seconds
        Wall-clock seconds of each stage and of the whole run. Stages may overlap. Nothing if the
        set was finished before.
    """

    path: Path
    manifest: Manifest
    seconds: dict[str, float]


WriteReport: TypeAlias = Callable[[DistilledSet, Callable[[Path, bytes], None]], None]
"""Writes the report of a set, with a function that writes a file."""


def finish_run(
    writer: SetWriter, manifest: Manifest, watch: Stopwatch, write_report: WriteReport
) -> MadeSet:
    """Write the other files of a set, and move the set to its place.

    Parameters
    ----------
    writer
        Writer of the set, after images and provenance.
    manifest
        Content of ``manifest.json``.
    watch
        Stopwatch of the run, whose seconds go into ``run.json``.
    write_report
        Function of the set and of a function that writes a file; writes the report of the set.

    Returns
    -------
    MadeSet
        The set at its place.

    Raises
    ------
    PydreamError
        If a file cannot be written, or the place of the set is no longer free.
    """
    with watch("write"):
        writer.write_text(writer.set / "manifest.json", manifest.as_text())
    with watch("report"):
        write_report(load_set(writer.set), writer.write_bytes)
    seconds = watch.report()
    notes = {"seconds": seconds, "machine": platform.machine(), "threads": torch.get_num_threads()}
    writer.write_text(writer.set / "run.json", json.dumps(notes, indent=2) + "\n")
    return MadeSet(writer.finish(), manifest, seconds)
