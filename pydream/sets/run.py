"""The end of a run that makes a distilled set, for all methods."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pydream.collector import nothing_collected
from pydream.errors import UnfinishedError
from pydream.ranks import Ranks
from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.manifest import Manifest, with_images
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

DRAFT = "manifest"
"""Name of the record that `keep_draft` stores."""


def keep_draft(writer: SetWriter, manifest: Manifest) -> None:
    """Store what is known of a set before its images are made, for the process that finishes it."""
    writer.keep(DRAFT, manifest.as_json())


def kept_draft(writer: SetWriter) -> Manifest:
    """Return the manifest that `keep_draft` stored."""
    record = writer.record(DRAFT)
    assert record is not None
    return Manifest.from_json(record)


@nothing_collected()  # records, paths and images by the ten thousands, and hardly a cycle
def finish_set(
    writer: SetWriter,
    watch: Stopwatch,
    own_entries: Callable[[Manifest, list[dict[str, Any]]], Mapping[str, Any]],
    write_report: WriteReport,
) -> MadeSet:
    """Finish a set, all classes of which are written, from what was kept of them.

    Neither source nor networks are needed, so a process that has not seen them can do it.

    Parameters
    ----------
    writer
        Writer of the set, with the draft of its manifest.
    watch
        Stopwatch of the stages.
    own_entries
        Function of the draft and of the record of each class, which has its provenance as
        ``rows``. It writes further files of the method, and returns the method's entries of the
        manifest.
    write_report
        The same as for `finish_run`.

    Raises
    ------
    PydreamError
        If a file cannot be written, or the place of the set is no longer free.
    """
    draft = kept_draft(writer)
    records = [writer.finished_class(label) or {} for label in range(len(draft.class_names))]
    with watch("write"):
        rows = [row for record in records for row in record["rows"]]
        if rows:  # images that began as noise come from nowhere
            writer.write_provenance(rows)
        entries = own_entries(draft, records)
        manifest = dataclasses.replace(with_images(draft, writer.set), **entries)
    return finish_run(writer, manifest, watch, write_report)


def finish_together(
    writer: SetWriter, ranks: Ranks, num_classes: int, finish: Callable[[], MadeSet]
) -> MadeSet:
    """Let one of the processes that share a run finish its set, and return the set to all ranks.

    Parameters
    ----------
    writer
        Writer of the set.
    ranks
        The processes. Each calls this once it has written its classes.
    num_classes
        Number of all classes.
    finish
        Function that finishes the set.

    Raises
    ------
    UnfinishedError
        If a class is left to another shard, or another shard is finishing the set.
    """
    ranks.wait()
    if not ranks.first:
        ranks.wait()
        return MadeSet(writer.out, Manifest.read(writer.out), {})
    missing = [label for label in range(num_classes) if writer.finished_class(label) is None]
    shard = f"shard {ranks.number}/{ranks.count} is done"
    if missing:
        raise UnfinishedError(
            f"{shard}; {len(missing):,} of {num_classes:,} classes are left to other shards: the "
            "last one finishes the set, or the same command with --resume in place of --shard"
        )
    if ranks.is_shard and not writer.claim("finish"):
        raise UnfinishedError(f"{shard}, and another one is finishing the set")
    made = finish()
    ranks.wait()
    return made


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
