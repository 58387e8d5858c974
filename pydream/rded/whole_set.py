"""The end of a run: its set, put together from what was kept of each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydream import report
from pydream.progress import say
from pydream.rded.finishing import MAPPED
from pydream.refinement.classes import (
    kept_unrefined,
    refinement_pictures,
    refinement_results,
)
from pydream.sets import run
from pydream.sets.distilled import DistilledSet
from pydream.sets.manifest import Manifest
from pydream.sets.run import MadeSet
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch


def finish_set(writer: SetWriter, watch: Stopwatch) -> MadeSet:
    """Finish a set, all classes of which are written; see `pydream.sets.run.finish_set`."""
    return run.finish_set(writer, watch, partial(_entries, writer), partial(_write_report, writer))


def _entries(
    writer: SetWriter, draft: Manifest, records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write ``images.pt`` of a refined set; return the manifest's entries about the patches."""
    cells = sum(draft.class_counts) * draft.factor**2
    filled = sum(record.get("filled", 0) for record in records)
    if filled:
        say(
            f"{filled} of {cells} key patches were chosen by realism: their classes have fewer "
            "distinct patches than clusters"
        )
    refinement = draft.refinement
    if refinement is not None:
        writer.write_tensors(draft.class_counts, draft.side)
        refinement = {**refinement, **refinement_results(writer, cells)}
    return {
        "skipped": [image for record in records for image in record["skipped"]],
        "refinement": refinement,
        "enlarged": sum(record.get("enlarged", 0) for record in records),
        "filled": filled or None,
    }


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
