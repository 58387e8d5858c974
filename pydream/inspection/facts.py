"""Facts of a distilled set, and a check of its files against its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pydream.formatting import byte_words, score_words
from pydream.inspection.measure_rows import measure_rows
from pydream.sets.distilled import DistilledSet
from pydream.sets.image_formats import hash_image_files


def inspect_set(
    distilled: DistilledSet, measures: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe a distilled set, and check its image files against its manifest.

    Parameters
    ----------
    distilled
        The set, as `pydream.sets.imported.open_distilled` opens it.
    measures
        Result of `pydream.inspection.realism.measure_set`.

    Returns
    -------
    dict
        Ready for JSON: ``path``, ``format``, ``method``, ``package``, ``classes``,
        ``images_per_class``, ``images``, ``side``, ``factor``, ``seed``, ``source``,
        ``observer``, ``skipped`` and ``enlarged`` (how many source images), ``bytes`` (of the
        image files), ``integrity`` (``images_sha256``, ``expected``, ``intact``), ``scores``
        (``mean``, ``min``, ``max`` of the realism scores, ``cells``, ``distinct_sources``),
        ``per_class`` (the same for every class, with ``class`` and ``name``), ``measures`` (as
        given). ``scores`` and ``per_class`` are None for a set without provenance; so is all that
        another's set does not tell.
    """
    manifest = distilled.manifest
    provenance = distilled.provenance
    scored = provenance if has_scores(provenance) else None
    return {
        "path": str(distilled.path),
        "format": manifest.format,
        "method": manifest.method,
        "package": manifest.package,
        "classes": len(distilled.class_names),
        "images_per_class": manifest.images_per_class,
        "images": len(distilled.stored),
        "side": manifest.side,
        "factor": manifest.factor,
        "seed": manifest.seed,
        "source": manifest.source,
        "observer": manifest.observer,
        "skipped": len(manifest.skipped or ()),
        "enlarged": manifest.enlarged,
        "bytes": distilled.images_bytes,
        "integrity": _check_files(distilled) if distilled.is_ours else None,
        "scores": None if scored is None else overall_scores(scored),
        "per_class": None if scored is None else class_scores(scored, distilled.class_names),
        "measures": measures,
    }


def _check_files(distilled: DistilledSet) -> dict[str, Any]:
    """Compare the image files with what the manifest says of them."""
    found, expected = hash_image_files(distilled.path), distilled.images_sha256
    return {"images_sha256": found, "expected": expected, "intact": found == expected}


def has_scores(provenance: pa.Table | None) -> bool:
    """Tell whether cells were chosen by their realism scores."""
    return provenance is not None and provenance["score"].null_count == 0


def overall_scores(provenance: pa.Table) -> dict[str, Any]:
    """Summarise the realism scores of all cells of a set."""
    scores = provenance["score"].cast(pa.float64())
    return {
        "mean": pc.mean(scores).as_py(),
        "min": pc.min(scores).as_py(),
        "max": pc.max(scores).as_py(),
        "cells": provenance.num_rows,
        "distinct_sources": pc.count_distinct(provenance["source"]).as_py(),
    }


def class_scores(provenance: pa.Table, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Summarise the realism scores of every class that has cells, in the order of the labels."""
    summary = (
        provenance.group_by("class", use_threads=False)
        .aggregate(
            [
                ("score", "mean"),
                ("score", "min"),
                ("score", "max"),
                ("score", "count"),
                ("source", "count_distinct"),
            ]
        )
        .sort_by("class")
    )
    return [
        {
            "class": row["class"],
            "name": class_names[row["class"]],
            "mean": row["score_mean"],
            "min": row["score_min"],
            "max": row["score_max"],
            "cells": row["score_count"],
            "distinct_sources": row["source_count_distinct"],
        }
        for row in summary.to_pylist()
    ]


def render_inspection(facts: dict[str, Any], *, per_class: bool = False) -> RenderableType:
    """Lay out what `inspect_set` returned for a terminal.

    Parameters
    ----------
    facts
        Result of `inspect_set`.
    per_class
        Whether to add a table of the scores of every class.
    """
    parts: list[RenderableType] = [_overview(facts)]
    if facts["measures"] is not None:
        parts += [Text(), _measure_table(facts["measures"])]
    if per_class and facts["per_class"] is not None:
        parts += [Text(), _class_table(facts["per_class"])]
    return Group(*parts)


def _overview(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    source, observer, package = facts["source"], facts["observer"], facts["package"]
    made_by = facts["method"]
    if package is not None:
        made_by += f", {package['name']} {package['version']}, format {facts['format']}"
    rows = {
        "set": facts["path"],
        "made by": made_by,
        "images": f"{facts['images']}: {facts['classes']} classes x {facts['images_per_class']}, "
        f"{facts['side']} pixels a side, factor {facts['factor']}",
        "bytes": f"{facts['bytes']:,} ({byte_words(facts['bytes'])})",
    }
    if source is not None:
        rows["source"] = f"{source['description']}, {source['split']} split"
        rows["fingerprint"] = source["fingerprint"]
    if facts["seed"] is not None:
        rows["seed"] = str(facts["seed"])
    if observer is not None:
        rows["observer"] = (
            f"{observer['arch']}, {observer['precision']}, right on "
            f"{observer['top1']:.1%} of {observer['images']} images"
        )
    if facts["skipped"]:
        rows["skipped"] = f"{facts['skipped']} source images, listed in manifest.json"
    if facts["enlarged"]:
        rows["enlarged"] = f"{facts['enlarged']} source images smaller than a patch"
    if facts["scores"] is not None:
        scores = facts["scores"]
        rows["scores"] = (
            f"mean {score_words(scores['mean'])}, lowest {score_words(scores['min'])}, "
            f"highest {score_words(scores['max'])}"
        )
        rows["patches"] = (
            f"{scores['cells']} from {scores['distinct_sources']} distinct source images"
        )
    for name, value in rows.items():
        table.add_row(name, Text(value))
    if facts["integrity"] is not None:
        table.add_row("integrity", _integrity(facts["integrity"]))
    return table


def _integrity(integrity: dict[str, Any]) -> Text:
    if integrity["intact"]:
        return Text(f"intact, sha256 {integrity['images_sha256']}", style="green")
    return Text(
        "the image files are not those the manifest describes: sha256 "
        f"{integrity['images_sha256']}, expected {integrity['expected']}",
        style="bold red",
    )


def _measure_table(measures: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("measure", overflow="fold")
    table.add_column("this set", justify="right")
    real = measures["real"]
    if real is not None:
        table.add_column("random real images", justify="right")
    table.add_column("what", style="dim", overflow="fold")
    for row in measure_rows(measures):
        compared = [] if real is None else [row.random_real or ""]
        table.add_row(row.name, row.distilled, *compared, row.note)
    if real is not None:
        table.caption = f"{real['samples']} real samples of {real['classes']} classes to be covered"
        table.caption_justify = "left"
    return table


def _class_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in ("mean score", "lowest", "highest", "patches", "distinct sources"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            Text(row["name"]),
            *(score_words(row[key]) for key in ("mean", "min", "max")),
            str(row["cells"]),
            str(row["distinct_sources"]),
        )
    return table
