"""The report of a distilled set: one page with its pictures, scores and origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from pydream.data.arrow_arrays import as_numpy
from pydream.formatting import byte_words, count_words, score_words
from pydream.inspection.facts import (
    WHITENING_WORDS,
    cell_words,
    cells_of,
    class_scores,
    distance_words,
    has_scores,
    overall_scores,
    refinement_words,
    view_words,
)
from pydream.inspection.measure_rows import measure_rows
from pydream.inspection.origins import CellOrigin, box_words, class_origins
from pydream.inspection.realism import SetMeasures
from pydream.pages import page_template
from pydream.report.pictures import (
    contact_sheet,
    data_uri,
    even_selection,
    indices_by_class,
    of_images,
)
from pydream.report.plots import feature_maps, history_curves, score_histogram
from pydream.sets.distilled import DistilledSet
from pydream.sets.manifest import Manifest, reading_entries
from pydream.sets.stored_images import SetImages
from pydream.sets.writer import png

# Compiled with the import of this module, which a run does while it scores: 0.03 s.
_PAGE = page_template("pydream.report", "report.html", score=score_words)

# Limits of a page, which keep it below about 10 MB.
_MOST_IMAGES = 800
_MOST_PIXELS = 16_000_000
_MOST_PER_CLASS = 10
_LEAST_PER_CLASS = 4
_MOST_CELLS = 16  # of an image, with their sources
_LONGEST_KEY = 80  # number of characters of a source image's name

_RULES = {
    "realistic": "realistic: those of the highest scores",
    "median": "median: those around the median score",
    "hard": "hard: those of the lowest scores",
    "diverse": "diverse: the most realistic one of each cluster of features",
    "representative": "representative: the one nearest to the centre of each cluster of features",
}

_AT_ONCE = 64 << 20  # bytes up to which all images of a set are read together


@dataclass(frozen=True)
class _Thumbnail:
    uri: str
    title: str
    stem: str  # of the file's name
    origins: list[str]


@dataclass(frozen=True)
class _Row:
    name: str
    thumbnails: list[_Thumbnail]


@dataclass(frozen=True)
class _Stage:
    name: str
    uris: list[str]


def write_report(
    distilled: DistilledSet,
    write: Callable[[Path, bytes], None],
    pictures: Mapping[int, torch.Tensor] | None = None,
    refined: Mapping[str, torch.Tensor] | None = None,
    maps: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] | None = None,
) -> None:
    """Write ``contact_sheet.png`` and ``report.html`` to the folder of a set.

    Parameters
    ----------
    distilled
        The set, as read by `pydream.sets.distilled.load_set`.
    write
        Function of a path and bytes that writes a file.
    pictures
        Snapshots by iteration of some optimised images, uint8 (k, S, S, 3).
    refined
        Some refined images and what they were refined from, by name, uint8 (k, H, W, 3).
    maps
        Features of some classes in two dimensions, by class: x and y of the ``chosen`` real images
        and of the ``others``.
    """
    images = _images(distilled)
    sheet = contact_sheet(images, distilled.labels, distilled.class_names)
    with ThreadPoolExecutor(1) as beside:  # encoding releases the GIL, which the page needs
        encoded = beside.submit(png, torch.from_numpy(np.array(sheet)).permute(2, 0, 1))
        page = _render(distilled, images, pictures, refined=refined, maps=maps)
        write(distilled.path / "report.html", page.encode())
        write(distilled.path / "contact_sheet.png", encoded.result())


def render_report(distilled: DistilledSet, measures: SetMeasures | None = None) -> str:
    """Render the page of a distilled set: HTML without other files or network.

    The same set gives the same bytes: the page contains neither the time nor the path of the set.

    Parameters
    ----------
    distilled
        The set, as read by `pydream.sets.distilled.load_set`.
    measures
        Result of `pydream.inspection.realism.measure_set`, to include.
    """
    return _render(distilled, _images(distilled), measures=measures)


def _render(
    distilled: DistilledSet,
    images: torch.Tensor | SetImages,
    pictures: Mapping[int, torch.Tensor] | None = None,
    measures: SetMeasures | None = None,
    refined: Mapping[str, torch.Tensor] | None = None,
    maps: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] | None = None,
) -> str:
    manifest, provenance = distilled.manifest, distilled.provenance
    scored = provenance if has_scores(provenance) else None
    histogram = None
    if scored is not None:
        histogram = Markup(score_histogram(as_numpy(scored["score"])))
    with reading_entries(distilled.path):
        facts = _facts(manifest)
    curves, refinement_curve = _curves(manifest)
    page = _PAGE.render(
        manifest=manifest,
        classes=len(distilled.class_names),
        images=len(distilled.stored),
        images_per_class=count_words(manifest.images_per_class),
        size=byte_words(distilled.images_bytes),
        facts=facts,
        gallery=_gallery(distilled, images),
        histogram=histogram,
        overall=None if scored is None else overall_scores(scored),
        per_class=None if scored is None else class_scores(scored, distilled.class_names),
        curves=curves,
        stages=_stages(pictures or {}),
        refinement_curve=refinement_curve,
        refined=_stages(refined or {}),
        maps=Markup(feature_maps(maps)) if maps else None,
        measures=measures,
        measure_rows=None if measures is None else measure_rows(measures),
    )
    # Names of folders may contain bytes that are not UTF-8.
    return page.encode("utf-8", "replace").decode()


def _curves(manifest: Manifest) -> tuple[Markup | None, Markup | None]:
    """Draw what the manifest has of the optimisation, and of the refinement."""
    history = manifest.history or ()
    losses = [
        {"iteration": step, "loss": loss}
        for step, loss in enumerate((manifest.refinement or {}).get("loss", ()), 1)
    ]
    return (
        Markup(history_curves(history)) if len(history) > 1 else None,
        Markup(history_curves(losses, "step")) if len(losses) > 1 else None,
    )


def _stages(pictures: Mapping[Any, torch.Tensor]) -> list[_Stage]:
    return [
        _Stage(str(name), [data_uri(picture) for picture in shown])
        for name, shown in pictures.items()
    ]


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    """List the facts of the distillation, as (name, value)."""
    facts = []
    if (source := manifest.source) is not None:
        facts = [
            ("Source", f"{source['description']}, {source['split']} split"),
            ("Source fingerprint", source["fingerprint"]),
        ]
    if manifest.observer is not None:
        facts += _patch_facts(manifest, manifest.observer)
    elif manifest.config is not None:
        facts += _matching_facts(manifest)
    if (cells := cells_of(manifest)) is not None:
        facts.append(("Cells", cell_words(cells, manifest.method)))
    if manifest.views is not None:
        facts.append(("Made for the views", view_words(manifest.views)))
    if manifest.whitening is not None:
        facts.append(("Whitened", WHITENING_WORDS))
    if manifest.refinement is not None:
        facts += _refinement_facts(manifest.refinement)
    if manifest.package is None:  # a set of another tool
        return [*facts, ("Cells per side (factor)", str(manifest.factor))]
    return [
        *facts,
        ("Seed", str(manifest.seed)),
        (
            "Mean, standard deviation",
            f"{_numbers(manifest.mean or ())}; {_numbers(manifest.std or ())}",
        ),
        ("Image files", f"{manifest.image_format}, {manifest.images_bytes or 0:,} bytes"),
        ("Image files, SHA-256", str(manifest.images_sha256)),
        ("Made by", f"{manifest.package['name']} {manifest.package['version']}"),
    ]


def _patch_facts(manifest: Manifest, observer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the facts that decided the patches (RDED)."""
    config = manifest.config or {}
    canvas = {
        "pad": "pad: patches are scored on a canvas of the full side",
        "native": "native: patches are scored at their own side",
    }
    side = manifest.side // manifest.factor
    enlarged = f"{manifest.enlarged or 0} source images smaller than a patch ({side} pixels)"
    return [
        ("Observer", f"{observer['arch']}, {observer['precision']}"),
        (
            "Observer’s accuracy",
            f"{observer['top1']:.1%} of {observer['images']} images ({observer['held_out']})",
        ),
        ("Observer’s weights, SHA-256", observer["weights_sha256"]),
        *(
            (
                "Further observer",
                f"{other['arch']}, {other['precision']}, right on {other['top1']:.1%} of "
                f"{other['images']} images; weights {other['weights_sha256']}",
            )
            for other in manifest.further_observers or ()
        ),
        *(
            [("Scores of the observers", _combine_words(config))]
            if manifest.further_observers
            else []
        ),
        ("Patches per side (factor)", str(manifest.factor)),
        ("Canvas", canvas[config["canvas"]]),
        ("Pre-selected images per class", str(config["preselect"])),
        ("Crops per image", str(config["crops"] or "none: whole images are the patches")),
        ("Choice of patches (select)", _choice_words(manifest)),
        *(
            [("Small classes", "several crops of an image, which overlap by at most half")]
            if config.get("small_classes") == "reuse"
            else []
        ),
        *([("Enlarged", enlarged)] if manifest.enlarged else []),
    ]


def _combine_words(config: Mapping[str, Any]) -> str:
    """Describe how the scores of several observers are combined."""
    if config.get("combine") == "logits":
        return "logits: log probability of the true class by their mean logits"
    return "log-probabilities: mean of their log probabilities of the true class"


def _choice_words(manifest: Manifest) -> str:
    """Describe the rule that chose the key patches."""
    config = manifest.config or {}
    words = _RULES[config.get("select", "realistic")]
    if (share := config.get("realistic_share", 1)) < 1:
        words += f", among the most realistic {share:.4g} of a class"
    return words + (f"; {manifest.filled} filled up by realism" if manifest.filled else "")


def _matching_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """List the facts of the optimisation (DREAM)."""
    config = manifest.config or {}
    framework = config.get("framework", "idc")
    between = {
        "idc": f"{config['network_images']} images between two steps",
        "dc": f"{config.get('synthetic_epochs', 0)} on the synthetic images between two steps",
        "dm": "the networks matched are not trained",
        "mtt": f"{config.get('student_steps')} steps of a student from an expert’s weights",
    }
    between["dsa"] = between["dc"]
    if framework in ("dm", "mtt"):
        training = between[framework]
    else:
        training = f"{config['network_epochs']} epochs before it is matched, {between[framework]}"
    return [
        ("Framework", framework),
        ("Network", config["arch"]),
        ("Recipe", config["recipe"]),
        ("Matched", f"{config['match']}, by {config['metric']}"),
        ("Real images", f"{config['sampler']}, {config['batch_real']} of a class in a step"),
        ("Cells per side (factor)", str(manifest.factor)),
        ("Iterations, steps in each", f"{config['iterations']}, {config['inner_loop']}"),
        ("Learning rate", f"{config['learning_rate']:.4g}"),
        ("Network’s training", training),
    ]


def _refinement_facts(refinement: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the facts of a refinement."""
    return [
        ("Refined", refinement_words(refinement)),
        ("Refinement’s learning rate", f"{refinement['learning_rate']:g}"),
        ("Squared distance of features to those of the anchors", distance_words(refinement)),
    ]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _images(distilled: DistilledSet) -> torch.Tensor | SetImages:
    """Return all images of a small set; images of a large one are read on access."""
    return distilled.images if distilled.stored.nbytes <= _AT_ONCE else distilled.stored


def _gallery(distilled: DistilledSet, images: torch.Tensor | SetImages) -> list[_Row]:
    """Select pictures for the page, evenly over the classes and over the images of each."""
    by_class = indices_by_class(distilled.labels, len(distilled.class_names))
    room = min(_MOST_IMAGES, max(1, _MOST_PIXELS // distilled.stored.side**2))
    per_class = int(np.clip(room // len(by_class), _LEAST_PER_CLASS, _MOST_PER_CLASS))
    per_class = min(per_class, room, max(len(indices) for indices in by_class.values()))
    labels = list(by_class)
    shown = [labels[place] for place in even_selection(len(labels), room // per_class)]
    chosen = {label: even_selection(len(by_class[label]), per_class) for label in shown}
    indices = [by_class[label][number] for label in shown for number in chosen[label]]
    uris = of_images(data_uri, images, indices)
    rows = []
    for label in shown:
        name, count = distilled.class_names[label], len(by_class[label])
        provenance = distilled.provenance
        origins = {} if provenance is None else class_origins(provenance, label)
        thumbnails = [
            _Thumbnail(
                next(uris),
                f"{name}, image {number + 1} of {count}",
                f"{number:05d}",
                _origin_lines(origins.get(number, [])),
            )
            for number in chosen[label]
        ]
        rows.append(_Row(name, thumbnails))
    return rows


def _origin_lines(cells: list[CellOrigin]) -> list[str]:
    """Describe the origins of the first cells of an image."""
    lines = []
    for cell in cells[:_MOST_CELLS]:
        key = cell.source
        key = key if len(key) <= _LONGEST_KEY else f"…{key[1 - _LONGEST_KEY :]}"
        score = "" if cell.score is None else f", score {score_words(cell.score)}"
        lines.append(f"{key}: {box_words(cell)}{score}")
    if len(cells) > _MOST_CELLS:
        lines.append(f"and {len(cells) - _MOST_CELLS} more patches")
    return lines
