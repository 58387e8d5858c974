"""The end of each class: its key patches chosen, tiled and written; and refined, if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.rded.classes import ScoredClass
from pydream.rded.observers import open_observers
from pydream.rded.patches import KeyPatch, PatchMaker, Preselection, assemble
from pydream.rded.run import RdedRun
from pydream.rded.selection import feature_map, select_key_patches_by
from pydream.rded.small_classes import select_with_reuse
from pydream.refinement.anchors import AnchorReader
from pydream.refinement.classes import (
    Refinement,
    UnrefinedClass,
    keep_unrefined,
    kept_unrefined,
    make_refiner,
    refinement_facts,
)

MAPPED = 4  # classes whose features the report shows, the first ones


def finish_classes(
    run: RdedRun, maker: PatchMaker, selection: Preselection, complete: Sequence[ScoredClass]
) -> None:
    """Choose the key patches of classes together, then finish one after another."""
    config = run.config
    with run.watch("select"):
        ranked = select_key_patches_by(
            config.select,
            complete,
            [run.key_patches[scored.label] for scored in complete],
            share=config.realistic_share,
            seed=config.seed,
        )
    for scored, (keys, filled) in zip(complete, ranked, strict=True):
        _finish_class(run, maker, selection, scored, keys, filled)


def _finish_class(
    run: RdedRun,
    maker: PatchMaker,
    selection: Preselection,
    scored: ScoredClass,
    ranked: Sequence[KeyPatch],
    filled: int,
) -> None:
    """Tile the key patches of a class and write its images."""
    skipped = [
        {"key": run.source.keys[selection.indices[candidate]], "reason": reason}
        for candidate, reason in scored.errors.items()
    ]
    _check_usable(run, scored.label, len(scored.candidates), skipped)
    if len(scored.candidates) - len(skipped) < run.key_patches[scored.label]:
        with run.watch("select"):
            ranked = _select_with_reuse(run, maker, selection, scored)
    with run.watch("assemble"):
        images, rows = assemble(
            maker,
            selection,
            ranked,
            scored.cut,
            ipc=run.counts[scored.label],
            workers=run.config.workers,
            budget=run.memory.winners,
        )
    record = {"rows": rows, "skipped": skipped, "enlarged": scored.enlarged}
    if filled:
        record["filled"] = filled
    if scored.features is not None and scored.label < MAPPED:
        usable = np.flatnonzero(np.isfinite(scored.scores.numpy()).any(axis=1))
        keys = [key.candidate - scored.candidates.start for key in ranked]
        record["map"] = feature_map(scored.features[usable], np.isin(usable, keys))
    with run.watch("write"):
        if run.config.method.refine:
            keep_unrefined(run.writer, scored.label, UnrefinedClass(images, record))
            return
        run.writer.write_class(
            scored.label,
            images,
            record,
            image_format=run.config.image_format,
            quality=run.config.quality,
            waiting=run.memory.written,
        )


def _select_with_reuse(
    run: RdedRun, maker: PatchMaker, selection: Preselection, scored: ScoredClass
) -> list[KeyPatch]:
    """Choose several key patches of an image, for a class that has too few images."""
    first, needed = scored.candidates.start, run.key_patches[scored.label]
    indices = selection.indices[first : scored.candidates.stop].tolist()
    boxes = maker.crop_boxes(indices, scored.sizes)
    ranked = select_with_reuse(scored.scores, boxes, first, needed)
    if len(ranked) < needed:
        usable = len(scored.candidates) - len(scored.errors)
        raise PydreamError(
            f"{run.source.description}: class {run.source.class_names[scored.label]} has {usable} "
            f"readable images; {maker.crops} crops of each give {len(ranked)} patches that overlap "
            f"by no more than half, fewer than the {needed} needed; raise --crops, or lower --ipc "
            "or --factor"
        )
    return ranked


def _check_usable(run: RdedRun, label: int, total: int, skipped: list[dict[str, str]]) -> None:
    usable, needed = total - len(skipped), run.key_patches[label]
    where = f"{run.source.description}: class {run.source.class_names[label]}"
    first = f"first {skipped[0]['key']}: {skipped[0]['reason']}" if skipped else ""
    if usable == 0:
        raise PydreamError(f"{where} has no readable image; {first}")
    if usable < needed and run.config.small_classes == "refuse":
        raise PydreamError(
            f"{where} has {usable} readable images, fewer than the {needed} needed; lower --ipc or "
            f"--factor, raise --preselect where the class has more, mend them, or give "
            f"--small-classes reuse; {first}"
        )


@dataclass(frozen=True)
class RdedRefinement:
    """The refinement of a run's classes.

    Attributes
    ----------
    run_of
        The run.
    observers
        Its observers in float32.
    refinement
        The refinement of all classes.
    """

    run_of: RdedRun
    observers: tuple[Observer, ...]
    refinement: Refinement

    @property
    def groups(self) -> list[range]:
        """Groups of classes that are refined together."""
        return self.refinement.refiner.groups(self.run_of.counts)

    def run(self, groups: Sequence[range]) -> None:
        """Refine groups of assembled classes, and write them."""
        run = self.run_of
        self.refinement.run(
            partial(kept_unrefined, run.writer),
            run.watch,
            image_format=run.config.image_format,
            quality=run.config.quality,
            groups=groups,
        )

    def facts(self) -> dict[str, Any]:
        """Return ``refinement`` of the manifest as far as it is known before the first step."""
        config, layers = self.run_of.config, self.refinement.refiner.layers
        return refinement_facts(
            config, self.observers, layers, steps=config.method.refine, seed=config.seed
        )


def open_refinement(run: RdedRun, given: nn.Module | Sequence[nn.Module] | None) -> RdedRefinement:
    """Return the refinement that follows the collage."""
    config, observers = run.config, run.observers
    if observers[0].precision != "float32":
        exact = replace(config, precision="float32", compile=False)
        observers = open_observers(exact, given, run.source, observers[0].device)
    refiner = make_refiner(
        observers,
        config,
        steps=config.method.refine,
        factor=run.factor,
        side=run.side,
        seed=config.seed,
    )
    anchors = AnchorReader(run.source, factor=run.factor, side=run.side, workers=config.workers)
    return RdedRefinement(run, observers, Refinement(refiner, anchors, run.counts, run.writer))
