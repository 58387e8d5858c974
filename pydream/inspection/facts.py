"""Facts of a distilled set, and a check of its files against its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pydream.data.arrow_arrays import as_numpy, numbers
from pydream.errors import printable
from pydream.formatting import byte_words, count_words, score_words
from pydream.inspection.measure_rows import measure_rows
from pydream.inspection.realism import SetMeasures
from pydream.sets.distilled import DistilledSet
from pydream.sets.image_formats import hash_image_files
from pydream.sets.manifest import Manifest, SourceRecord


@dataclass(frozen=True)
class ScoreSummary:
    """Realism scores of the cells of a set, or of one of its classes.

    Attributes
    ----------
    mean, min, max
        Mean, lowest and highest score.
    cells
        Number of cells.
    distinct_sources
        Number of source images that the cells were cut from.
    """

    mean: float
    min: float
    max: float
    cells: int
    distinct_sources: int


@dataclass(frozen=True)
class ClassScores:
    """Realism scores of the cells of a class.

    Attributes
    ----------
    label, name
        Number and name of the class.
    scores
        Scores of its cells.
    """

    label: int
    name: str
    scores: ScoreSummary

    def as_json(self) -> dict[str, Any]:
        """Return the fields without nesting, with ``class`` for the number."""
        return {"class": self.label, "name": self.name, **asdict(self.scores)}


@dataclass(frozen=True)
class Integrity:
    """The image files compared with the manifest.

    Attributes
    ----------
    images_sha256, expected
        Hash of the files, and that in the manifest.
    intact
        True if the two hashes agree.
    """

    images_sha256: str
    expected: str
    intact: bool


@dataclass(frozen=True)
class SetFacts:
    """Description of a distilled set; None for facts that the set does not record.

    Attributes
    ----------
    path
        Folder or file of the set.
    format, method, package, images_per_class, side, factor, views, seed, source, observer
        Fields of its `pydream.sets.manifest.Manifest`.
    whitening
        The whitening of the images that students see, as in the manifest.
    refinement
        The refinement of its images, as in the manifest.
    cells
        Way that patches (RDED) or the first real images (DREAM+) were fitted into cells:
        ``"shrunk"`` or ``"matched"``; None for other sets and for factor 1.
    classes, images
        Number of classes and of images.
    skipped, enlarged
        Number of unreadable source images, and of those smaller than a patch.
    bytes
        Bytes of the image files.
    integrity
        The image files compared with the manifest; None for a set of another tool.
    scores, per_class
        Realism scores of the set and of every class; None if they did not select the patches.
    measures
        Realism and diversity, if measured.
    """

    path: str
    format: int
    method: str
    package: Mapping[str, str] | None
    classes: int
    images_per_class: int | tuple[int, ...]
    images: int
    side: int
    factor: int
    views: Literal["crop", "dsa"] | None
    cells: Literal["shrunk", "matched"] | None
    whitening: Mapping[str, Any] | None
    refinement: Mapping[str, Any] | None
    seed: int | None
    source: SourceRecord | None
    observer: Mapping[str, Any] | None
    skipped: int
    enlarged: int | None
    bytes: int
    integrity: Integrity | None
    scores: ScoreSummary | None
    per_class: list[ClassScores] | None
    measures: SetMeasures | None

    def as_json(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        facts = asdict(self)
        if self.per_class is not None:
            facts["per_class"] = [row.as_json() for row in self.per_class]
        return facts


def inspect_set(distilled: DistilledSet, measures: SetMeasures | None = None) -> SetFacts:
    """Describe a distilled set, and check its image files against its manifest.

    Parameters
    ----------
    distilled
        The set, as opened by `pydream.sets.imported.open_distilled`.
    measures
        Result of `pydream.inspection.realism.measure_set`.
    """
    manifest = distilled.manifest
    provenance = distilled.provenance
    scored = provenance if has_scores(provenance) else None
    return SetFacts(
        path=str(distilled.path),
        format=manifest.format,
        method=manifest.method,
        package=manifest.package,
        classes=len(distilled.class_names),
        images_per_class=manifest.images_per_class,
        images=len(distilled.stored),
        side=manifest.side,
        factor=manifest.factor,
        views=manifest.views,
        cells=cells_of(manifest),
        whitening=manifest.whitening,
        refinement=manifest.refinement,
        seed=manifest.seed,
        source=manifest.source,
        observer=manifest.observer,
        skipped=len(manifest.skipped or ()),
        enlarged=manifest.enlarged,
        bytes=distilled.images_bytes,
        integrity=_check_files(distilled) if distilled.is_ours else None,
        scores=None if scored is None else overall_scores(scored),
        per_class=None if scored is None else class_scores(scored, distilled.class_names),
        measures=measures,
    )


def cells_of(manifest: Manifest) -> Literal["shrunk", "matched"] | None:
    """Return the way that pictures were fitted into the cells of a set that pydream made."""
    if manifest.method not in ("rded", "dream") or manifest.factor == 1:
        return None
    return "matched" if (manifest.config or {}).get("cells") == "matched" else "shrunk"


WHITENING_WORDS = "ZCA for students; pictures and files show the colours"
"""Description of the whitening of a set."""


def refinement_words(refinement: Mapping[str, Any]) -> str:
    """Describe the steps of a refinement."""
    layers = [
        f"{layer} of {observer['arch']}"
        for layer, observer in zip(refinement["layers"], refinement["observers"], strict=True)
    ]
    words = f"{refinement['steps']} steps by the features of {', '.join(layers)}"
    if refinement.get("match") == "features+gradients":
        words += ", and by class means and gradients"
    return words


def distance_words(refinement: Mapping[str, Any]) -> str:
    """Say how far features of cells were from those of their anchors, before and after."""
    distances = refinement.get("distances")
    if distances is None:
        return "not recorded"
    return (
        f"{distances['unrefined']:.4g} before, {distances['refined']:.4g} after, "
        f"{distances['rounded']:.4g} in 8 bits"
    )


def cell_words(cells: Literal["shrunk", "matched"], method: str) -> str:
    """Describe how pictures were fitted into the cells of a set by this method."""
    picture = "patch" if method == "rded" else "real image"
    words = {
        "shrunk": f"shrunk: a {picture} is resized to its cell",
        "matched": f"matched: enlarged, a cell comes nearest to its {picture}",
    }[cells]
    return words if method == "rded" else f"{words}, before it is optimised"


def view_words(views: Literal["crop", "dsa"]) -> str:
    """Describe the views that a set is made for."""
    return {
        "crop": "crop: random crops of images with shuffled patches",
        "dsa": "dsa: enlarged cells with DSA's augmentations",
    }[views]


def _check_files(distilled: DistilledSet) -> Integrity:
    """Compare the image files with the manifest."""
    found, expected = hash_image_files(distilled.path), distilled.images_sha256
    return Integrity(found, expected, found == expected)


def has_scores(provenance: pa.Table | None) -> bool:
    """Return whether cells were chosen by their realism scores."""
    return provenance is not None and provenance["score"].null_count == 0


def overall_scores(provenance: pa.Table) -> ScoreSummary:
    """Summarise the realism scores of the cells of a set, or of some of them."""
    scores = provenance["score"].cast(pa.float64())
    return ScoreSummary(
        mean=pc.mean(scores).as_py(),
        min=pc.min(scores).as_py(),
        max=pc.max(scores).as_py(),
        cells=provenance.num_rows,
        distinct_sources=pc.count_distinct(provenance["source"]).as_py(),
    )


def class_scores(provenance: pa.Table, class_names: Sequence[str]) -> list[ClassScores]:
    """Summarise the realism scores of every class that has cells, in the order of the labels."""
    order = np.argsort(as_numpy(provenance["class"]), kind="stable")
    table = provenance.take(numbers(order))
    labels, starts = np.unique(as_numpy(table["class"]), return_index=True)
    sizes = np.diff(starts, append=len(order))
    return [
        ClassScores(label, class_names[label], overall_scores(table.slice(start, size)))
        for label, start, size in zip(labels.tolist(), starts.tolist(), sizes.tolist(), strict=True)
    ]


def render_inspection(facts: SetFacts, *, per_class: bool = False) -> RenderableType:
    """Format the result of `inspect_set` for a terminal.

    Parameters
    ----------
    facts
        Result of `inspect_set`.
    per_class
        Add a table of the scores of every class.
    """
    parts: list[RenderableType] = [_overview(facts)]
    if facts.measures is not None:
        parts += [Text(), _measure_table(facts.measures)]
    if per_class and facts.per_class is not None:
        parts += [Text(), _class_table(facts.per_class)]
    return Group(*parts)


def _overview(facts: SetFacts) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    source, observer, package = facts.source, facts.observer, facts.package
    made_by = facts.method
    if package is not None:
        made_by += f", {package['name']} {package['version']}, format {facts.format}"
    rows: dict[str, str] = {
        "set": facts.path,
        "made by": made_by,
        "images": f"{facts.images}: {facts.classes} classes x "
        f"{count_words(facts.images_per_class)}, {facts.side} pixels a side, factor {facts.factor}",
        "bytes": f"{facts.bytes:,} ({byte_words(facts.bytes)})",
    }
    if source is not None:
        rows["source"] = f"{source['description']}, {source['split']} split"
        rows["fingerprint"] = source["fingerprint"]
    if facts.cells is not None:
        rows["cells"] = cell_words(facts.cells, facts.method)
    if facts.whitening is not None:
        rows["whitened"] = WHITENING_WORDS
    if facts.refinement is not None:
        rows["refined"] = refinement_words(facts.refinement)
        rows["distance"] = f"{distance_words(facts.refinement)} (squared, of features to anchors)"
    if facts.views is not None:
        rows["views"] = view_words(facts.views)
    if facts.seed is not None:
        rows["seed"] = str(facts.seed)
    if observer is not None:
        rows["observer"] = (
            f"{observer['arch']}, {observer['precision']}, right on "
            f"{observer['top1']:.1%} of {observer['images']} images"
        )
    if facts.skipped:
        rows["skipped"] = f"{facts.skipped} source images, listed in manifest.json"
    if facts.enlarged:
        rows["enlarged"] = f"{facts.enlarged} source images smaller than a patch"
    if facts.scores is not None:
        scores = facts.scores
        rows["scores"] = (
            f"mean {score_words(scores.mean)}, lowest {score_words(scores.min)}, "
            f"highest {score_words(scores.max)}"
        )
        rows["patches"] = f"{scores.cells} from {scores.distinct_sources} distinct source images"
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    if facts.integrity is not None:
        table.add_row("integrity", _integrity(facts.integrity))
    return table


def _integrity(integrity: Integrity) -> Text:
    if integrity.intact:
        return Text(f"intact, sha256 {integrity.images_sha256}", style="green")
    return Text(
        "the image files are not those the manifest describes: sha256 "
        f"{integrity.images_sha256}, expected {integrity.expected}",
        style="bold red",
    )


def _measure_table(measures: SetMeasures) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("measure", overflow="fold")
    table.add_column("this set", justify="right")
    real = measures.real
    if real is not None:
        table.add_column("random real images", justify="right")
    table.add_column("what", style="dim", overflow="fold")
    for row in measure_rows(measures):
        compared = [] if real is None else [row.random_real or ""]
        table.add_row(row.name, row.distilled, *compared, row.note)
    if real is not None:
        table.caption = f"{real.samples} real samples of {real.classes} classes to be covered"
        table.caption_justify = "left"
    return table


def _class_table(rows: list[ClassScores]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in ("mean score", "lowest", "highest", "patches", "distinct sources"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            Text(printable(row.name)),
            *map(score_words, (row.scores.mean, row.scores.min, row.scores.max)),
            str(row.scores.cells),
            str(row.scores.distinct_sources),
        )
    return table
