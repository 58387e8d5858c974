"""The whole of RDED: from labelled images and an observer to a distilled set on disk."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pydream.data import Source
from pydream.data.unreadable import Unreadable
from pydream.devices import announce_device, resolve_device
from pydream.errors import PydreamError
from pydream.files import name_after
from pydream.models import Observer
from pydream.progress import say, track
from pydream.rded.class_counts import class_counts, ipc_identity, ipc_words
from pydream.rded.classes import OpenClasses, ScoredClass
from pydream.rded.config import RdedConfig
from pydream.rded.groups import needed_images
from pydream.rded.memory import MemoryShares
from pydream.rded.observers import (
    keep_measured,
    measure_observers,
    observers_identity,
    observers_record,
    open_observers,
)
from pydream.rded.opening import check_sizes, open_sources, where_to_decode
from pydream.rded.patches import KeyPatch, PatchMaker, Preselection, assemble, preselect
from pydream.rded.preflight import Preflight
from pydream.rded.scoring import ScoringLimits, score
from pydream.rded.selection import WITH_FEATURES, select_key_patches_by
from pydream.rded.small_classes import select_with_reuse
from pydream.report import write_report
from pydream.sets.manifest import Manifest, describe_set
from pydream.sets.run import finish_run
from pydream.sets.writer import SetWriter, check_place_of_set, finished_manifest
from pydream.timeline import Stopwatch
from pydream.torch_state import usual_torch_state

_SMALL_SIDE = 64  # the published recipes take whole images (factor 1) up to this side
_MOST_FINISHING = 4  # classes that may wait to be assembled and written


@dataclass(frozen=True)
class RdedResult:
    """Result of `distill`.

    Attributes
    ----------
    path
        The folder of the distilled set.
    manifest
        Its description, as in ``manifest.json``.
    seconds
        Wall-clock seconds of each stage and of the whole run. Stages overlap.
    """

    path: Path
    manifest: Manifest
    seconds: dict[str, float]


@dataclass(frozen=True)
class _RdedRun:
    config: RdedConfig
    decode: Literal["host", "device"]
    memory: MemoryShares
    source: Source
    observers: tuple[Observer, ...]
    side: int
    factor: int
    counts: tuple[int, ...]  # distilled images, by class
    writer: SetWriter
    watch: Stopwatch

    @property
    def key_patches(self) -> list[int]:
        """Number of key patches of each class."""
        return [count * self.factor**2 for count in self.counts]


@usual_torch_state()
def distill(
    config: RdedConfig,
    *,
    source: Source | None = None,
    observer: nn.Module | Sequence[nn.Module] | None = None,
) -> RdedResult:
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
    RdedResult
        The folder of the set, its manifest, and the time each stage took.

    Raises
    ------
    PydreamError
        If an input cannot be used. Nothing half-written is then left at ``config.out``.
    """
    watch = Stopwatch()
    named, device = config.device, resolve_device(config.device)
    out = config.out or Path(f"{name_after(config.source)}-rded-{ipc_words(config.ipc)}")
    check_place_of_set(out, resume=config.resume)
    with watch("open"):
        source, held_out = open_sources(config, source)
        counts = class_counts(config.ipc, source)
        observers = open_observers(config, observer, source, device)
        decode = where_to_decode(config.decode, device)
        config = replace(config, decode=decode, device=device.type)
        side = config.side or observers[0].side
        factor = config.factor or (1 if side <= _SMALL_SIDE else 2)
        check_sizes(source, config, counts, factor, side)
        selection = preselect(source, config.preselect, config.seed)
        fingerprint = source.fingerprint(selection.indices.tolist())
    identity = {
        **config.identity(),
        "ipc": ipc_identity(counts, source.class_names),
        "factor": factor,
        "side": side,
        "source_fingerprint": fingerprint,
        **observers_identity(observers),
    }
    if config.resume and (manifest := finished_manifest(out, identity)) is not None:
        return RdedResult(out, manifest, {})
    writer = SetWriter(out, identity, resume=config.resume)
    memory = MemoryShares.of(config.memory_budget, device)
    run = _RdedRun(config, decode, memory, source, observers, side, factor, counts, writer, watch)
    with watch("preflight"):
        measured = measure_observers(
            config, observers, source, held_out, selection, writer, memory.preflight
        )
    announce_device(named)
    for network in observers:
        network.announce()
    ordered = zip(observers, measured, strict=True)
    run = replace(
        run, observers=tuple(network.with_class_order(found.order) for network, found in ordered)
    )
    with writer.begin():
        keep_measured(writer, measured)
        _distill_classes(run, selection)
        return _finish(run, identity, measured)


def _distill_classes(run: _RdedRun, selection: Preselection) -> None:
    """Score the classes in order, then assemble and write each.

    On a GPU, assembly runs alongside the scoring. On the CPU it takes turns: see `scoring`.
    """
    config, labels = run.config, range(len(run.source.class_names))
    finished = {label for label in labels if run.writer.finished_class(label) is not None}
    if len(finished) == len(labels):
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
    unreadable = _unreadable_so_far(run, selection, finished)
    # Other rules choose once a class is complete, and have their winners decoded again.
    early = [count if config.select == "realistic" else 0 for count in run.key_patches]
    classes = OpenClasses(maker, selection, early, finished)
    with (
        track("scoring", int(needed.sum()) * maker.crops, "patches") as advance,
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
                    do(partial(_finish_classes, run, maker, selection, complete))
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


def _unreadable_so_far(run: _RdedRun, selection: Preselection, finished: set[int]) -> Unreadable:
    """Return the images that were unreadable when finished classes were scored."""
    unreadable = Unreadable(run.source, len(selection.indices), run.config.allow_skipped)
    records = [run.writer.finished_class(label) for label in sorted(finished)]
    skipped = [image for record in records if record is not None for image in record["skipped"]]
    if skipped:
        index_of = {run.source.keys[index]: index for index in selection.indices.tolist()}
        unreadable.add({index_of[image["key"]]: image["reason"] for image in skipped})
    return unreadable


def _finish_classes(
    run: _RdedRun, maker: PatchMaker, selection: Preselection, complete: Sequence[ScoredClass]
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
    run: _RdedRun,
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
    with run.watch("write"):
        run.writer.write_class(
            scored.label,
            images,
            {**record, "filled": filled} if filled else record,
            image_format=run.config.image_format,
            quality=run.config.quality,
        )


def _select_with_reuse(
    run: _RdedRun, maker: PatchMaker, selection: Preselection, scored: ScoredClass
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


def _check_usable(run: _RdedRun, label: int, total: int, skipped: list[dict[str, str]]) -> None:
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


def _finish(run: _RdedRun, identity: dict[str, Any], measured: Sequence[Preflight]) -> RdedResult:
    writer, config, observer = run.writer, run.config, run.observers[0]
    records = []
    for label in range(len(run.source.class_names)):
        record = writer.finished_class(label)
        assert record is not None
        records.append(record)
    filled = sum(record.get("filled", 0) for record in records)
    if filled:
        say(
            f"{filled} of {sum(run.key_patches)} key patches were chosen by realism: "
            "their classes have fewer distinct patches than clusters"
        )
    with run.watch("write"):
        writer.write_provenance([row for record in records for row in record["rows"]])
        manifest = dataclasses.replace(
            describe_set(
                writer.set,
                run.source,
                method="rded",
                identity=identity,
                ipc=run.counts,
                factor=run.factor,
                side=run.side,
                mean=observer.mean,
                std=observer.std,
                image_format=config.image_format,
                skipped=[image for record in records for image in record["skipped"]],
            ),
            views="dsa" if config.cells == "matched" and run.factor > 1 else None,
            enlarged=sum(record.get("enlarged", 0) for record in records),
            filled=filled or None,
            **observers_record(run.observers, measured),
        )
    path, seconds = finish_run(writer, manifest, run.watch, write_report)
    return RdedResult(path, manifest, seconds)
