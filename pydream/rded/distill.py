"""The whole of RDED: from labelled images and an observer to a distilled set on disk."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from pydream.data import Source
from pydream.data.unreadable import Unreadable
from pydream.devices import announce_device, resolve_device
from pydream.files import name_after
from pydream.progress import shared_with, track
from pydream.ranks import Ranks, ranks_of
from pydream.rded.class_counts import class_counts, ipc_identity, ipc_words
from pydream.rded.classes import OpenClasses, ScoredClass
from pydream.rded.config import RdedConfig
from pydream.rded.finishing import RdedRefinement, finish_classes, open_refinement
from pydream.rded.groups import needed_images, own_groups
from pydream.rded.memory import MemoryShares
from pydream.rded.observers import (
    keep_measured,
    measure_observers,
    observers_identity,
    observers_record,
    open_observers,
)
from pydream.rded.opening import check_sizes, open_held_out, open_images, where_to_decode
from pydream.rded.patches import PatchMaker, Preselection, preselect
from pydream.rded.preflight import Preflight
from pydream.rded.run import RdedRun
from pydream.rded.scoring import ScoringLimits, score
from pydream.rded.selection import WITH_FEATURES
from pydream.rded.whole_set import finish_set
from pydream.sets.manifest import Manifest, describe_set
from pydream.sets.run import MadeSet, finish_together, keep_draft
from pydream.sets.writer import SetWriter, check_place_of_set, finished_manifest
from pydream.timeline import Stopwatch
from pydream.torch_state import usual_torch_state
from pydream.versions import package_record

_SMALL_SIDE = 64  # the published recipes take whole images (factor 1) up to this side
_MOST_FINISHING = 4  # classes that may wait to be assembled and written


@usual_torch_state()
def distill(
    config: RdedConfig,
    *,
    source: Source | None = None,
    observer: nn.Module | Sequence[nn.Module] | None = None,
) -> MadeSet:
    """Distil a labelled image set by RDED (arXiv 2312.03526).

    Parameters
    ----------
    config
        The settings.
    source
        The images, if they are neither a file nor a known set; ``config.source`` is then only their
        name, which must not be empty.
    observer
        A classifier of normalised (B, 3, S, S) float32 images, if it is not a file;
        ``config.observer`` is then only its name, which must not be empty, and ``config.side`` is
        required. Or several, with as many names.

    Returns
    -------
    MadeSet
        The folder of the set, its manifest, and the time each stage took.

    Raises
    ------
    PydreamError
        If an input cannot be used. Nothing half-written is then left at ``config.out``.
    UnfinishedError
        If this is a shard that has done its part, and others have not.

    Notes
    -----
    Under torchrun or srun all ranks call this alike. Each scores classes of its own, the first one
    finishes the set, and all return it.
    """
    ranks = ranks_of(config.shard)
    with shared_with(ranks), ranks.together():
        return _distill(config, ranks, source, observer)


def _distill(
    config: RdedConfig,
    ranks: Ranks,
    source: Source | None,
    observer: nn.Module | Sequence[nn.Module] | None,
) -> MadeSet:
    watch = Stopwatch()
    named, device = config.device, resolve_device(config.device)
    out = config.out or Path(f"{name_after(config.source)}-rded-{ipc_words(config.ipc)}")
    resume = config.resume or ranks.is_shard
    if ranks.first:
        check_place_of_set(out, resume=resume)
    with watch("open"):
        given, source = source, open_images(config, source)
        counts = class_counts(config.ipc, source)
        observers = open_observers(config, observer, source, device)
        decode = where_to_decode(config.decode, device)
        config = replace(config, decode=decode, device=device.type)
        side = config.side or observers[0].side
        factor = config.factor or (1 if side <= _SMALL_SIDE else 2)
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
    run = RdedRun(
        config, decode, memory, source, observers, side, factor, counts, writer, watch, ranks
    )

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
    ordered = zip(observers, measured, strict=True)
    run = replace(
        run,
        observers=tuple(
            network.with_class_order(found.order).replayed() for network, found in ordered
        ),
    )
    with writer.begin(ranks):
        refining = open_refinement(run, observer) if config.refine else None
        if ranks.first:
            keep_measured(writer, measured)
            keep_draft(writer, _draft(run, identity, measured, refining))
        groups = [range(label, label + 1) for label in range(len(counts))]
        if refining is not None:
            groups = refining.groups
        own = own_groups(groups, selection, ranks)
        _distill_classes(run, selection, {label for group in own for label in group})
        if refining is not None:
            refining.run(own)

        def finish() -> MadeSet:
            if ranks.count > 1:
                _unreadable_so_far(run, selection, set(range(len(counts)))).say()
            return finish_set(writer, watch)

        return finish_together(writer, ranks, len(counts), finish)


def _draft(
    run: RdedRun,
    identity: dict[str, Any],
    measured: Sequence[Preflight],
    refining: RdedRefinement | None,
) -> Manifest:
    """Return the manifest as far as it is known before a patch is scored."""
    observer = run.observers[0]
    return dataclasses.replace(
        describe_set(
            run.source,
            method="rded",
            identity=identity,
            ipc=run.counts,
            factor=run.factor,
            side=run.side,
            mean=observer.mean,
            std=observer.std,
            image_format=run.config.image_format,
        ),
        views="dsa" if run.by_cells else None,
        refinement=None if refining is None else refining.facts(),
        **observers_record(run.observers, measured),
    )


def _distill_classes(run: RdedRun, selection: Preselection, own: Collection[int]) -> None:
    """Score some classes in order, then assemble and write each.

    On a GPU, assembly runs alongside the scoring. On the CPU it takes turns: see `scoring`.
    """
    config, labels = run.config, range(len(run.source.class_names))
    before = {label for label in own if run.assembled(label) is not None}
    finished = {label for label in labels if label not in own} | before  # or left to others
    if len(finished) == len(labels) and not run.ranks.connected:
        return
    maker = PatchMaker(
        run.source,
        run.observers[0],
        side=run.side,
        factor=run.factor,
        crops=config.crops,
        cells=config.cells,
        canvas=config.canvas,
        seed=config.seed,
        further=run.observers[1:],
    )
    with_features = config.select in WITH_FEATURES
    needed = needed_images(maker, selection, finished)
    limits = ScoringLimits(config.batch_size, run.decode, config.workers, run.memory)
    unreadable = _unreadable_so_far(run, selection, before)
    # Other rules choose once a class is complete, and have their winners decoded again.
    early = [count if config.select == "realistic" else 0 for count in run.key_patches]
    classes = OpenClasses(maker, selection, early, finished)
    with (
        track("scoring", int(needed.sum()) * maker.crops, "patches", divided=True) as advance,
        _one_by_one(beside=maker.observer.device.type != "cpu") as do,
    ):
        batches = score(
            maker,
            selection,
            needed,
            limits,
            run.watch,
            features=with_features,
            combine=config.combine,
        )
        for batch in batches:
            with run.watch("cut winners"):
                classes.add(batch)
            complete: list[ScoredClass] = []
            try:
                for scored in classes.pop_complete():
                    unreadable.add(
                        {
                            int(selection.indices[candidate]): why
                            for candidate, why in scored.errors.items()
                        }
                    )
                    complete.append(scored)
            finally:  # those before a class with too many unreadable images are kept
                if complete:
                    do(partial(finish_classes, run, maker, selection, complete))
            advance(len(batch.candidates) * maker.crops)
    unreadable.say()


@contextmanager
def _one_by_one(*, beside: bool) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield a function that runs jobs one after another: alongside the block, or at once.

    Jobs alongside the block are finished when the block ends. A long queue makes the block wait.
    """
    if not beside:
        yield lambda work: work()
        return
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as thread:

        def submit(work: Callable[[], None]) -> None:
            waiting.append(thread.submit(work))
            while waiting and (waiting[0].done() or len(waiting) > _MOST_FINISHING):
                waiting.popleft().result()

        yield submit
        for future in waiting:
            future.result()


def _unreadable_so_far(run: RdedRun, selection: Preselection, finished: set[int]) -> Unreadable:
    """Return the images that were unreadable when finished classes were scored."""
    unreadable = Unreadable(run.source, len(selection.indices), run.config.allow_skipped)
    records = [run.assembled(label) for label in sorted(finished)]
    skipped = [image for record in records if record is not None for image in record["skipped"]]
    if skipped:
        index_of = {run.source.keys[index]: index for index in selection.indices.tolist()}
        unreadable.add({index_of[image["key"]]: image["reason"] for image in skipped})
    return unreadable
