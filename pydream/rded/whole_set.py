"""The end of a run: its set, put together from what was kept of each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydream import report
from pydream.progress import say
from pydream.rded.finishing import MAPPED
from pydream.refinement.classes import (
    kept_unrefined,
    refinement_pictures,
    refinement_results,
)
from pydream.sets.distilled import DistilledSet
from pydream.sets.manifest import with_images
from pydream.sets.run import MadeSet, finish_run, kept_draft
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch


def finish_set(writer: SetWriter, watch: Stopwatch) -> MadeSet:
    """Finish a set, all classes of which are written.

    Neither source nor observer is needed, so a process that has seen neither can do it.

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
    cells = sum(counts) * draft.factor**2
    filled = sum(record.get("filled", 0) for record in records)
    if filled:
        say(
            f"{filled} of {cells} key patches were chosen by realism: their classes have fewer "
            "distinct patches than clusters"
        )
    with watch("write"):
        writer.write_provenance([row for record in records for row in record["rows"]])
        refinement = draft.refinement
        if refinement is not None:
            writer.write_tensors(counts, draft.side)
            refinement = {**refinement, **refinement_results(writer, cells)}
        manifest = dataclasses.replace(
            with_images(draft, writer.set),
            skipped=[image for record in records for image in record["skipped"]],
            refinement=refinement,
            enlarged=sum(record.get("enlarged", 0) for record in records),
            filled=filled or None,
        )
    return finish_run(writer, manifest, watch, partial(_write_report, writer))


def _write_report(
    writer: SetWriter, distilled: DistilledSet, write: Callable[[Path, bytes], None]
) -> None:
    """Write the report, with maps of features if a rule went by them."""
    names = distilled.class_names
    records = [writer.finished_class(label) for label in range(min(MAPPED, len(names)))]
    maps = {
        name: record["map"]
        for name, record in zip(names, records, strict=False)
        if record is not None and "map" in record
    }
    refined = None
    if distilled.manifest.refinement is not None:
        refined = refinement_pictures(writer, partial(kept_unrefined, writer), distilled)
    report.write_report(distilled, write, refined=refined, maps=maps)
