"""The beginning of a run: everything before its first class, for a run and for a prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from pydream.data import Source
from pydream.data.sources import check_outside
from pydream.devices import announce_device, resolve_device
from pydream.files import name_after
from pydream.ranks import Ranks
from pydream.rded.class_counts import class_counts, ipc_identity, ipc_words
from pydream.rded.config import RdedConfig
from pydream.rded.finishing import RdedRefinement
from pydream.rded.memory import MemoryShares
from pydream.rded.observers import (
    keep_measured,
    measure_observers,
    observers_identity,
    observers_record,
    open_observers,
)
from pydream.rded.opening import check_sizes, open_held_out, open_images, where_to_decode
from pydream.rded.patches import Preselection, preselect
from pydream.rded.preflight import Preflight
from pydream.rded.run import RdedRun
from pydream.sets.manifest import Manifest, describe_set
from pydream.sets.run import MadeSet, keep_draft
from pydream.sets.writer import SetWriter, check_place_of_set, finished_manifest
from pydream.timeline import Stopwatch
from pydream.versions import package_record

_SMALL_SIDE = 64  # the published recipes take whole images (factor 1) up to this side


@dataclass(frozen=True)
class OpenedRun:
    """A run whose inputs are open and checked, and of which nothing is written.

    Attributes
    ----------
    run
        What the stages of the run share.
    selection
        Its preselection.
    identity
        The facts that decide the bytes of the set.
    measured
        What the preflight found, for each observer.
    """

    run: RdedRun
    selection: Preselection
    identity: dict[str, Any]
    measured: Sequence[Preflight]

    def keep_facts(self, writer: SetWriter, refining: RdedRefinement | None) -> None:
        """Store what is known before a patch is scored, for the process that finishes the set."""
        keep_measured(writer, self.measured)
        keep_draft(writer, self._draft(refining))

    def _draft(self, refining: RdedRefinement | None) -> Manifest:
        run, observer = self.run, self.run.observers[0]
        return dataclasses.replace(
            describe_set(
                run.source,
                method="rded",
                identity=self.identity,
                ipc=run.counts,
                factor=run.factor,
                side=run.side,
                mean=observer.mean,
                std=observer.std,
                image_format=run.config.image_format,
            ),
            views="dsa" if run.by_cells else None,
            refinement=None if refining is None else refining.facts(),
            **observers_record(run.observers, self.measured),
        )


def open_run(
    config: RdedConfig,
    ranks: Ranks,
    source: Source | None,
    observer: nn.Module | Sequence[nn.Module] | None,
) -> OpenedRun | MadeSet:
    """Open the inputs of a run, check them, and measure its observers.

    Nothing is written. The remaining state of a finished run that is resumed is removed.

    Parameters
    ----------
    config, source, observer
        The same as for `pydream.rded.distill`.
    ranks
        The processes that share the run.

    Returns
    -------
    OpenedRun or MadeSet
        The set itself if it is finished, and the run resumes it.

    Raises
    ------
    PydreamError
        If an input cannot be used, or the place of the set is not free.
    """
    watch = Stopwatch()
    named = config.device
    out = config.out or Path(f"{name_after(config.source)}-rded-{ipc_words(config.ipc)}")
    resume = config.resume or ranks.is_shard
    if ranks.first:
        check_place_of_set(out, resume=resume)
    with watch("open"), ThreadPoolExecutor(1) as beside:
        opened = beside.submit(open_images, config, source)
        device = resolve_device(named)  # meanwhile: a GPU takes seconds to start
        given, source = source, opened.result()
        check_outside(source, out)
        counts = class_counts(config.ipc, source)
        observers = open_observers(config, observer, source, device)
        decode = where_to_decode(config.decode, device)
        config = replace(config, decode=decode, device=device.type)
        side = config.side or observers[0].side
        factor = config.method.factor or (1 if side <= _SMALL_SIDE else 2)
        check_sizes(source, config, counts, factor, side)
        selection = preselect(source, config.preselect, config.seed)
        fingerprint = ranks.once(partial(source.fingerprint, selection.indices.tolist()))
    identity = {
        **config.identity(),
        "ipc": ipc_identity(counts, source.class_names),
        "factor": factor,
        "side": side,
        "source_fingerprint": fingerprint,
        **observers_identity(observers),
    }
    ranks.agree({"settings": identity, "installation": package_record()})
    if resume and (manifest := ranks.once(partial(finished_manifest, out, identity))) is not None:
        return MadeSet(out, manifest, {})
    writer = SetWriter(out, identity, resume=resume or not ranks.first)
    memory = MemoryShares.of(config.memory_budget, device)

    def measure() -> list[Preflight]:
        held_out = open_held_out(config, given)
        return measure_observers(
            config, observers, source, held_out, selection, writer, memory.preflight
        )

    with watch("preflight"):
        measured = ranks.once(measure)
    announce_device(named)
    for network in observers:
        network.announce()
    ordered = tuple(
        network.with_class_order(found.order).replayed()
        for network, found in zip(observers, measured, strict=True)
    )
    run = RdedRun(
        config, decode, memory, source, ordered, side, factor, counts, writer, watch, ranks
    )
    return OpenedRun(run, selection, identity, measured)
