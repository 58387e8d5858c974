"""RDED whole: from labelled images and an observer to a distilled set on disk."""

from __future__ import annotations

import json
import platform
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from pydream.data import Source, check_classes, has_split, open_source
from pydream.data.device_jpeg import decodes_jpeg
from pydream.data.resized import side_of
from pydream.data.unreadable import Unreadable
from pydream.devices import announce_device, resolve_device
from pydream.errors import PydreamError
from pydream.files import name_after
from pydream.models import Observer
from pydream.models.inputs import ARCH, IMAGENET_MEAN, IMAGENET_STD
from pydream.models.loading import load_configured_observer
from pydream.processors import usable_processors
from pydream.progress import track
from pydream.rded.config import RdedConfig
from pydream.rded.contenders import Contenders
from pydream.rded.patches import CutPatch, PatchMaker, Preselection, assemble, preselect, select
from pydream.rded.preflight import Preflight, preflight
from pydream.rded.scoring import needed_images, score
from pydream.report import write_report
from pydream.sets.distilled import load_set
from pydream.sets.manifest import describe_set
from pydream.sets.writer import SetWriter, check_place_of_set, finished_manifest
from pydream.timeline import Stopwatch
from pydream.torch_state import usual_torch_state

_SMALL_SIDE = 64  # up to this side the published recipes take whole images (factor 1)
# A rule of thumb, not a measurement: with fewer, a GPU would wait for the host's decoding.
_MANY_PROCESSORS = 8
_MOST_FINISHING = 4  # classes that may wait to be put together and written


@dataclass(frozen=True)
class RdedResult:
    """What a run of `distill` gives.

    Attributes
    ----------
    path
        The folder of the distilled set.
    manifest
        Its description, as in ``manifest.json``.
    seconds
        Wall-clock seconds per stage, and of the whole. Stages overlap.
    """

    path: Path
    manifest: dict[str, Any]
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Run:
    config: RdedConfig
    source: Source
    observer: Observer
    side: int
    factor: int
    writer: SetWriter
    watch: Stopwatch


@usual_torch_state()
def distill(
    config: RdedConfig, *, source: Source | None = None, observer: nn.Module | None = None
) -> RdedResult:
    """Distil a labelled image set by RDED (arXiv 2312.03526).

    Parameters
    ----------
    config
        The settings.
    source
        The images, where they are no file or known set; ``config.source`` is
        then only a name for them, which may not be empty.
    observer
        A classifier of normalised (B, 3, S, S) float32 images, where it is no file;
        ``config.observer`` is then only a name for it, which may not be empty, and ``config.side``
        must be given.

    Returns
    -------
    RdedResult
        Where the set lies and what it is.

    Raises
    ------
    PydreamError
        If something given cannot be used. Nothing is then left half-written at ``config.out``.
    """
    watch = Stopwatch()
    named, device = config.device, resolve_device(config.device)
    out = config.out or Path(f"{name_after(config.source)}-rded-ipc{config.ipc}")
    check_place_of_set(out, resume=config.resume)
    with watch("open"):
        held_out = None
        if source is None:
            source = open_source(config.source, exif=config.exif)
            if has_split(config.source, "test"):
                held_out = open_source(config.source, "test", exif=config.exif)
        check_classes(source)
        network = load_configured_observer(
            observer if observer is not None else config.observer,
            config,
            arch=config.arch,
            side=config.side,
            likely_side=_side_of_images(source) if config.side is None else None,
            precision=config.precision,
            device=device,
            compiled=config.compile,
        )
        decode = _where_to_decode(config.decode, device)
        config = replace(config, decode=decode, device=device.type)
    side = config.side or network.side
    factor = config.factor or (1 if side <= _SMALL_SIDE else 2)
    _check_sizes(source, config, factor, side)
    with watch("open"):
        selection = preselect(source, config.preselect, config.seed)
        fingerprint = source.fingerprint(selection.indices.tolist())
    identity = {
        **config.identity(),
        "factor": factor,
        "side": side,
        "source_fingerprint": fingerprint,
        "observer_sha256": network.weights_sha256,
        **_unusual_normalisation(network),
    }
    if config.resume and (manifest := finished_manifest(out, identity)) is not None:
        return RdedResult(out, manifest, {})
    writer = SetWriter(out, identity, resume=config.resume)
    run = _Run(config, source, network, side, factor, writer, watch)
    with watch("preflight"):
        measured = _measured(run, selection, held_out)
    announce_device(named)
    network.announce()
    observer_of_set = network.with_class_order(measured.order)
    with writer.begin():
        writer.keep("preflight", vars(measured))
        run = replace(run, observer=observer_of_set)
        _distill_classes(run, selection)
        return _finish(run, identity, measured)


def _side_of_images(source: Source) -> int | None:
    """Return the side of the images where the first one can be read."""
    try:
        return side_of(source)
    except PydreamError:
        return None


def _unusual_normalisation(observer: Observer) -> dict[str, Any]:
    """Return mean and std for the identity where neither settings nor weights decide them."""
    usual = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return {
        f"observer_{name}": list(getattr(observer, name))
        for name, values in usual.items()
        if observer.origins[name] == ARCH and getattr(observer, name) != values
    }


def _where_to_decode(wanted: str, device: torch.device) -> Literal["host", "device"]:
    able = decodes_jpeg(device)
    if wanted == "device" and not able:
        raise PydreamError(
            f"--decode device: torchvision decodes no JPEG on {device} here; take --decode host"
        )
    few = usable_processors() < _MANY_PROCESSORS
    return "device" if able and (wanted == "device" or (wanted == "auto" and few)) else "host"


def _check_sizes(source: Source, config: RdedConfig, factor: int, side: int) -> None:
    ipc, needed = config.ipc, config.ipc * factor**2
    if factor > side:
        raise PydreamError(f"factor {factor} is above the side of the images, {side}")
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    least = int(counts.argmin())
    if counts[least] < needed:
        fitting = [
            f"--ipc {counts[least] // each**2} --factor {each}"
            for each in range(factor, 0, -1)
            if counts[least] >= each**2
        ]
        raise PydreamError(
            f"{source.description}: class {source.class_names[least]} has {counts[least]} images, "
            f"fewer than the {needed} that ipc {ipc} and factor {factor} take; "
            f"what would fit: {' or '.join(fitting[:2])}"
        )
    if config.preselect < needed:
        raise PydreamError(
            f"preselect {config.preselect} looks at fewer images of a class than the {needed} that "
            f"ipc {ipc} and factor {factor} take: give --preselect {needed} or more"
        )


def _measured(run: _Run, selection: Preselection, held_out: Source | None) -> Preflight:
    kept = run.writer.record("preflight")
    if kept is not None:
        return Preflight(**{**kept, "order": tuple(kept["order"])})
    config = run.config
    if held_out is not None and held_out.class_names == run.source.class_names:
        among = np.arange(len(held_out))
    else:
        held_out = run.source
        among = np.setdiff1d(np.arange(len(run.source)), selection.indices)
        if len(np.unique(run.source.labels[among])) < len(run.source.class_names):
            among = np.arange(len(run.source))
    return preflight(
        run.source,
        held_out,
        among,
        run.observer,
        patches=len(selection.indices) * config.crops,
        infer=config.class_order == "infer",
        allow_weak=config.allow_weak_observer,
        seed=config.seed,
        workers=config.workers,
        budget=config.memory_budget * 2**20 // 2,
    )


def _distill_classes(run: _Run, selection: Preselection) -> None:
    """Score the classes in order; put each together and write it.

    With a GPU that is done beside the scoring. On the CPU it takes its turn: see `scoring`.
    """
    classes = len(run.source.class_names)
    finished = {label for label in range(classes) if run.writer.finished_class(label) is not None}
    if len(finished) == classes:
        return
    maker = PatchMaker(run.source, run.config, run.observer, run.side, run.factor)
    needed = needed_images(selection, maker.observer, run.config.crops, finished)
    contenders = Contenders(maker, selection, run.config.ipc * run.factor**2)
    scores: dict[int, torch.Tensor] = {}
    errors: dict[int, str] = {}
    enlarged: set[int] = set()
    unreadable = _unreadable_so_far(run, selection, finished)
    pending = [label for label in range(classes) if label not in finished]
    finishing: deque[Future[None]] = deque()
    on_cpu = run.observer.device.type == "cpu"
    with (
        track("scoring", int(needed.sum()) * run.config.crops, "patches") as advance,
        nullcontext() if on_cpu else ThreadPoolExecutor(1) as beside,
    ):
        for batch in score(maker, selection, needed, run.config, run.watch):
            scores.update(zip(batch.places, batch.scores, strict=True))
            errors.update(batch.errors)
            enlarged.update(batch.enlarged)
            with run.watch("cut winners"):
                contenders.add(batch)
            while pending and selection.starts[pending[0] + 1] - 1 <= batch.places[-1]:
                scored = _scored_class(
                    selection, pending.pop(0), scores, errors, enlarged, contenders
                )
                indices = selection.indices[list(scored.errors)].tolist()
                unreadable.add(dict(zip(indices, scored.errors.values(), strict=True)))
                if beside is None:
                    _finish_class(run, maker, selection, scored)
                else:
                    finishing.append(beside.submit(_finish_class, run, maker, selection, scored))
            while finishing and (finishing[0].done() or len(finishing) > _MOST_FINISHING):
                finishing.popleft().result()
            advance(len(batch.places) * run.config.crops)
        for future in finishing:
            future.result()
    unreadable.say()


def _unreadable_so_far(run: _Run, selection: Preselection, finished: set[int]) -> Unreadable:
    """Count the images that could not be read when finished classes were scored."""
    unreadable = Unreadable(run.source, len(selection.indices), run.config.allow_skipped)
    records = [run.writer.finished_class(label) for label in sorted(finished)]
    skipped = [each for record in records if record is not None for each in record["skipped"]]
    if skipped:
        places = {run.source.keys[index]: index for index in selection.indices.tolist()}
        unreadable.add({places[each["key"]]: each["reason"] for each in skipped})
    return unreadable


@dataclass(frozen=True)
class _ScoredClass:
    """What is known of a class when all its images have been scored."""

    label: int
    places: range
    scores: torch.Tensor  # [n, M]
    errors: dict[int, str]
    enlarged: int
    cut: dict[int, CutPatch]


def _scored_class(
    selection: Preselection,
    label: int,
    scores: dict[int, torch.Tensor],
    errors: dict[int, str],
    enlarged: set[int],
    contenders: Contenders,
) -> _ScoredClass:
    places = range(int(selection.starts[label]), int(selection.starts[label + 1]))
    # A GPU may find only while it decodes that it cannot read an image whose size is known.
    enlarged_here = len(enlarged.intersection(places) - errors.keys())
    return _ScoredClass(
        label,
        places,
        torch.stack([scores.pop(place) for place in places]),
        {place: errors.pop(place) for place in places if place in errors},
        enlarged_here,
        contenders.take(label),
    )


def _finish_class(
    run: _Run, maker: PatchMaker, selection: Preselection, scored: _ScoredClass
) -> None:
    skipped = [
        {"key": run.source.keys[selection.indices[place]], "reason": reason}
        for place, reason in scored.errors.items()
    ]
    _check_usable(run, scored.label, len(scored.places), skipped)
    count = run.config.ipc * run.factor**2
    with run.watch("select"):
        ranked = select(scored.scores, scored.places.start, count)
    with run.watch("assemble"):
        images, rows = assemble(
            maker,
            selection,
            ranked,
            scored.cut,
            ipc=run.config.ipc,
            factor=run.factor,
            side=run.side,
            workers=run.config.workers,
            budget=run.config.memory_budget * 2**20 // 4,
        )
    with run.watch("write"):
        run.writer.write_class(
            scored.label,
            images,
            {"rows": rows, "skipped": skipped, "enlarged": scored.enlarged},
            image_format=run.config.image_format,
            quality=run.config.quality,
        )


def _check_usable(run: _Run, label: int, total: int, skipped: list[dict[str, str]]) -> None:
    config = run.config
    usable, needed = total - len(skipped), config.ipc * run.factor**2
    where = f"{run.source.description}: class {run.source.class_names[label]}"
    first = f"first {skipped[0]['key']}: {skipped[0]['reason']}" if skipped else ""
    if usable == 0:
        raise PydreamError(f"{where} has no readable image; {first}")
    if usable < needed:
        raise PydreamError(
            f"{where} has {usable} readable images, fewer than the {needed} needed; lower --ipc or "
            f"--factor, raise --preselect where the class has more, or mend them; {first}"
        )


def _finish(run: _Run, identity: dict[str, Any], measured: Preflight) -> RdedResult:
    writer, source, observer = run.writer, run.source, run.observer
    records: list[dict[str, Any]] = []
    for label in range(len(source.class_names)):
        record = writer.finished_class(label)
        assert record is not None
        records.append(record)
    with run.watch("write"):
        writer.write_provenance([row for record in records for row in record["rows"]])
        manifest = {
            **describe_set(
                writer.set,
                source,
                method="rded",
                identity=identity,
                ipc=run.config.ipc,
                factor=run.factor,
                side=run.side,
                mean=observer.mean,
                std=observer.std,
                image_format=run.config.image_format,
                skipped=[each for record in records for each in record["skipped"]],
            ),
            "enlarged": sum(record.get("enlarged", 0) for record in records),
            "observer": {
                **observer.facts(),
                **observer.input_facts(),
                "top1": measured.top1,
                "images": measured.images,
                "held_out": measured.held_out,
                "class_order": list(measured.order),
            },
        }
        writer.write_text(writer.set / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    with run.watch("report"):
        write_report(load_set(writer.set), writer.write_bytes)
    seconds = run.watch.report()
    notes = {"seconds": seconds, "machine": platform.machine(), "threads": torch.get_num_threads()}
    writer.write_text(writer.set / "run.json", json.dumps(notes, indent=2) + "\n")
    return RdedResult(writer.finish(), manifest, seconds)
