"""DREAM+ from a source to a distilled set on disk."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from pydream import report
from pydream.arithmetic import repeatable_float32
from pydream.data import Source, check_classes, has_split, open_source
from pydream.data.resized import LabelledImages, load_split, side_of
from pydream.devices import announce_device, resolve_device
from pydream.dream.checkpoint import Progress, read_checkpoint, write_checkpoint
from pydream.dream.config import PRESETS, DreamConfig, ResolvedConfig, fill_in
from pydream.dream.loop import MatchingLoop
from pydream.dream.network import fresh_network
from pydream.dream.real import ClassImages, check_enough, load_class_images
from pydream.dream.student import student_accuracy
from pydream.dream.synthetic import SyntheticImages
from pydream.errors import PydreamError
from pydream.files import name_after
from pydream.models.activations import classify_and_embed
from pydream.models.registry import build_model, construct
from pydream.progress import track
from pydream.seeds import derived_seed
from pydream.sets.manifest import describe_set
from pydream.sets.run import MadeSet, finish_run
from pydream.sets.writer import SetWriter, check_place_of_set, finished_manifest
from pydream.tiling import Tiling
from pydream.timeline import Stopwatch
from pydream.torch_state import usual_torch_state

_STUDENT = 1  # purpose of a seed; iterations draw from other keys
_MOST_CLASSES_SHOWN = 10  # number of classes with pictures


@dataclass(frozen=True)
class _DreamRun:
    config: ResolvedConfig
    source: Source
    real: ClassImages
    skipped: list[dict[str, str]]
    test: LabelledImages | None
    make_network: Callable[[], nn.Module]
    writer: SetWriter
    watch: Stopwatch


@usual_torch_state()
def distill(
    config: DreamConfig,
    *,
    source: Source | None = None,
    test: Source | None = None,
    make_network: Callable[[], nn.Module] | None = None,
) -> MadeSet:
    """Distil a labelled image set by representative matching (DREAM+, arXiv 2310.15052).

    Parameters
    ----------
    config
        The settings.
    source
        The images, if they are neither a file nor a known set; ``config.source`` is then only their
        name, which must not be empty.
    test
        Test images for ``eval_every``, if they are neither a file nor a known set.
    make_network
        Function that makes the networks to match, with weights from torch's global generator. A
        network needs a method ``features(images)`` and a module ``classifier`` or ``fc``. By
        default ``config.arch`` is built; with this function it is only their name.

    Returns
    -------
    MadeSet
        The folder of the set, its manifest, and the time each stage took.

    Raises
    ------
    PydreamError
        If an input cannot be used, or the optimisation diverges. Nothing half-written is then left
        at ``config.out``; checkpoints stay beside it.
    """
    watch = Stopwatch()
    named, device = config.device, resolve_device(config.device)
    out = config.out or Path(f"{name_after(config.source)}-dream-ipc{config.ipc}")
    check_place_of_set(out, resume=config.resume)
    config = dataclasses.replace(config, device=device.type)
    with watch("open"):
        if source is None:
            source = open_source(config.source, exif=config.exif)
            if config.eval_every and has_split(config.source, "test"):
                test = open_source(config.source, "test", exif=config.exif)
        check_classes(source)
        if config.eval_every and test is None:
            raise PydreamError(
                f"{source.description} has no test split to measure students on: give "
                "--eval-every 0"
            )
        side = config.side or side_of(source)
        settings = fill_in(config, side, len(source.class_names))
        Tiling(side, settings.factor, settings.cells)  # raises if the factor does not fit
        make_network = make_network or _network_maker(settings, len(source.class_names))
        _check_network(
            fresh_network(make_network, settings.seed, device), side, len(source.class_names)
        )
    if side % settings.factor:
        padded = -(-side // settings.factor) * settings.factor
        warnings.warn(
            f"side {side} is not a multiple of factor {settings.factor}: images are padded to "
            f"{padded} pixels before they are cut into cells",
            stacklevel=3,  # skip the wrapper of usual_torch_state
        )
    identity = {**settings.identity(), "source_fingerprint": source.fingerprint()}
    if settings.resume and (manifest := finished_manifest(out, identity)) is not None:
        return MadeSet(out, manifest, {})
    writer = SetWriter(out, identity, resume=settings.resume)
    with watch("decode"):
        real, skipped = load_class_images(
            source,
            side,
            device=device,
            workers=settings.workers,
            allow_skipped=settings.allow_skipped,
        )
        check_enough(real, source.class_names, settings.ipc, settings.factor)
        seen = None if test is None else _load_test(test, settings, device)
    run = _DreamRun(settings, source, real, skipped, seen, make_network, writer, watch)
    announce_device(named)
    with writer.begin():
        with repeatable_float32():
            progress = _optimise(run)
        return _finish(run, identity, progress)


def _load_test(test: Source, config: ResolvedConfig, device: torch.device) -> LabelledImages:
    """Decode the images that test the students."""
    return load_split(
        test,
        config.side,
        workers=config.workers,
        device=device,
        allow_skipped=config.allow_skipped,
    )


def _check_network(network: nn.Module, side: int, classes: int) -> None:
    """Raise PydreamError unless a network gives two images logits of the classes."""
    device, what = next(network.parameters()).device, type(network).__name__
    try:
        with torch.no_grad():
            logits, _ = classify_and_embed(network, torch.zeros(2, 3, side, side, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise PydreamError(
            f"{what} does not classify images of 3 × {side} × {side}: {reason}"
        ) from error
    if logits.shape != (2, classes):
        raise PydreamError(
            f"{what} gives {tuple(logits.shape)} for two images of {classes} classes: it must give "
            f"(2, {classes})"
        )


def _network_maker(config: ResolvedConfig, num_classes: int) -> Callable[[], nn.Module]:
    arch, side = config.arch, config.side
    build_model(arch, num_classes=num_classes, side=side)  # raises if the side does not fit
    return lambda: construct(arch, num_classes=num_classes, side=side)


def _optimise(run: _DreamRun) -> Progress:
    """Run the remaining iterations, writing checkpoints."""
    config = run.config
    loop = MatchingLoop(config, run.real, run.make_network)
    progress = read_checkpoint(run.writer, config.learning_rate, run.real.pixels.device)
    if progress is None:
        with run.watch("initial images"):
            values, origins = loop.initial()
        progress = Progress(SyntheticImages(values, config.learning_rate), origins)
        _look(run, progress, None)
    kept = progress.iteration
    safe = progress.copy()
    done = progress.iteration
    with track("matching", config.iterations, "iterations", done=done) as advance:
        try:
            while progress.iteration < config.iterations:
                loss = _iterate(run, loop, progress, kept)
                _look(run, progress, loss)
                safe = progress.copy()
                if progress.iteration % config.checkpoint_every == 0:
                    write_checkpoint(run.writer, progress)
                    kept = progress.iteration
                advance(1, _words(progress.history))
        except KeyboardInterrupt:
            write_checkpoint(run.writer, safe)
            raise
    write_checkpoint(run.writer, progress)
    return progress


def _words(history: list[dict[str, Any]]) -> str:
    """Describe the progress of a run, for its progress bar."""
    words = f"loss {history[-1]['loss']:.3g}"
    measured = [entry["top1"] for entry in history if entry.get("top1")]
    return words + (f", students {fmean(measured[-1]):.1%}" if measured else "")


def _iterate(run: _DreamRun, loop: MatchingLoop, progress: Progress, kept: int) -> float:
    """Run one iteration and return its loss."""
    with run.watch("match", run.real.pixels.device):
        loss = loop.iterate(progress.synthetic, progress.iteration)
    progress.iteration += 1
    if not (math.isfinite(loss) and bool(progress.synthetic.values.isfinite().all())):
        where = f"iteration {kept}" if kept else "the start"
        raise PydreamError(
            f"the loss or the images became infinite in iteration {progress.iteration}: give a "
            f"--learning-rate below {run.config.learning_rate:g}; the checkpoint of {where} is "
            f"kept in {run.writer.partial}"
        )
    return loss


def _look(run: _DreamRun, progress: Progress, loss: float | None) -> None:
    """Record the progress of the run: loss, pictures, and the accuracy of students when due."""
    config, at = run.config, progress.iteration
    last = at == config.iterations
    entry: dict[str, Any] = {"iteration": at, "loss": loss}
    if run.test is not None and (last or at % config.eval_every == 0):
        with run.watch("students"):
            entry["top1"] = [
                student_accuracy(
                    progress.synthetic.values,
                    run.test,
                    factor=config.factor,
                    real=run.real,
                    make_network=run.make_network,
                    flip=PRESETS[config.recipe].flip,
                    epochs=config.eval_epochs,
                    seed=derived_seed(config.seed, _STUDENT, number),
                )
                for number in range(config.eval_seeds)
            ]
    progress.history.append(entry)
    # Pictures are kept at the start, at the end, and at powers of two between.
    if at == 0 or last or at & (at - 1) == 0:
        shown = _levels(progress.synthetic.values[:_MOST_CLASSES_SHOWN, 0])
        progress.pictures[at] = shown.permute(0, 2, 3, 1).contiguous()


def _levels(images: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8, on the CPU."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def _finish(run: _DreamRun, identity: dict[str, Any], progress: Progress) -> MadeSet:
    writer, config, real = run.writer, run.config, run.real
    values = progress.synthetic.values.clamp(0, 1).cpu()
    rows: list[dict[str, Any]] = []
    with run.watch("write"):
        for label, images in enumerate(_levels(values)):
            writer.write_class(label, images, {}, image_format="png", quality=100)
            rows += _provenance(real, label, progress.origins[label].tolist())
        writer.write_provenance(rows)
        labels = torch.arange(len(values)).repeat_interleave(config.ipc)
        writer.write_tensors(values.flatten(0, 1), labels)
        manifest = dataclasses.replace(
            describe_set(
                writer.set,
                run.source,
                method="dream",
                identity=identity,
                ipc=config.ipc,
                factor=config.factor,
                side=config.side,
                mean=real.mean.tolist(),
                std=real.std.tolist(),
                image_format="png",
                skipped=run.skipped,
            ),
            views="dsa" if config.factor > 1 else None,
            network={"arch": config.arch},
            history=progress.history,
        )
    write_report = partial(report.write_report, pictures=progress.pictures)
    return finish_run(writer, manifest, run.watch, write_report)


def _provenance(real: ClassImages, label: int, origins: list[list[int]]) -> list[dict[str, Any]]:
    """Return a row for each cell of a class's images: the real image it was initialised with."""
    return [
        {
            "class": label,
            "image": number,
            "cell": cell,
            "source": real.keys[row],
            **dict.fromkeys(("top", "left", "height", "width", "score")),  # the whole view
        }
        for number, cells in enumerate(origins)
        for cell, row in enumerate(cells)
    ]
