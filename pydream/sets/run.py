"""The end of a run that makes a distilled set, whatever its method."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.manifest import Manifest
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch


def finish_run(
    writer: SetWriter,
    manifest: Manifest,
    watch: Stopwatch,
    write_report: Callable[[DistilledSet, Callable[[Path, bytes], None]], None],
) -> tuple[Path, dict[str, float]]:
    """Write what stands beside the images of a set, and put the set in its place.

    Parameters
    ----------
    writer
        Writer of the set, which has written images and provenance.
    manifest
        What ``manifest.json`` says.
    watch
        Counted the seconds of the run, which ``run.json`` tells.
    write_report
        Writes the report of a set; told the set, and what writes a file there.

    Returns
    -------
    tuple[Path, dict[str, float]]
        The folder of the set; wall-clock seconds by stage, and of the whole.

    Raises
    ------
    PydreamError
        If something cannot be written, or something else lies in the place of the set by now.
    """
    with watch("write"):
        writer.write_text(writer.set / "manifest.json", manifest.as_text())
    with watch("report"):
        write_report(load_set(writer.set), writer.write_bytes)
    seconds = watch.report()
    notes = {"seconds": seconds, "machine": platform.machine(), "threads": torch.get_num_threads()}
    writer.write_text(writer.set / "run.json", json.dumps(notes, indent=2) + "\n")
    return writer.finish(), seconds
