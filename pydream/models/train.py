"""Training of an observer on a labelled image set."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydream.arithmetic import repeatable_arithmetic_of
from pydream.data import Source, check_classes, has_split, open_source
from pydream.data.resized import side_of
from pydream.data.sources import check_outside
from pydream.data_parallel import DataParallel, data_parallel
from pydream.devices import announce_device, resolve_device
from pydream.entry_types import (
    is_mapping,
    is_number,
    is_positive,
    is_text,
    is_whole,
    list_of,
    mapping_of,
    parse_json,
)
from pydream.errors import PydreamError
from pydream.files import check_free, name_after
from pydream.models.checkpoint import read_weights, save_weights
from pydream.models.config import ObserverConfig
from pydream.models.convnet import ConvNet
from pydream.models.first_layer import first_layer_in_float32
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from pydream.models.loading import resolve_precision
from pydream.models.measuring import measure_observer
from pydream.models.registry import build_model
from pydream.models.training_data import Indices, TrainingImages, hold_out
from pydream.models.training_state import (
    TrainingProgress,
    TrainingState,
    interrupt_between_steps,
)
from pydream.partial import PartialRun, differences, forget_finished
from pydream.progress import shared_with, track
from pydream.ranks import Ranks, ranks_of
from pydream.seeds import own_random_numbers
from pydream.torch_state import usual_torch_state
from pydream.versions import package_record

_MOMENTUM = 0.9
_WARM_UP = 0.2  # share of the steps with a rising learning rate
_FINGERPRINTED = 1000  # images whose contents identify the source, in addition to all names
_TRAINING = "training"  # metadata of settings and result, which identify a finished run
_MEASURED = {
    **{"arch": is_text, "side": is_positive, "top1": is_number, "images": is_whole},
    **{"held_out": is_text, "skipped": is_whole, "loss": lambda value: type(value) is float},
}
_is_training = mapping_of(
    {"settings": is_mapping, "result": mapping_of(_MEASURED, {"data_parallel": list_of(is_whole)})}
)
# Settings that change how a training proceeds, never its result; `source` is known by its contents.
_EXECUTION = ("source", "out", "workers", "allow_skipped", "resume")


@dataclass(frozen=True)
class TrainedObserver:
    """Result of `train_observer`.

    Attributes
    ----------
    path
        File of the weights.
    arch
        The architecture.
    side
        Side of the images, in pixels.
    top1
        Accuracy after the last epoch, in [0, 1].
    images
        Number of images that the accuracy was measured on.
    held_out
        Origin of these images, in words.
    skipped
        Unreadable training images.
    loss
        Mean training loss of the last epoch.
    seconds
        Duration of the training.
    data_parallel
        Numbers of ranks that trained it together, one after another if it was resumed. The weights
        are then those of one process up to rounding. Empty for one process.
    """

    path: Path
    arch: str
    side: int
    top1: float
    images: int
    held_out: str
    skipped: int
    loss: float
    seconds: float
    data_parallel: tuple[int, ...] = ()


@usual_torch_state()
def train_observer(config: ObserverConfig, *, source: Source | None = None) -> TrainedObserver:
    """Train a classifier on real images, measure its accuracy on others, and save it.

    SGD with Nesterov momentum under one cycle of the learning rate, and smoothed labels. Images of
    up to 64 pixels a side are cropped at random after padding by 4 (an eighth of sides below 32),
    larger ones by random resized crops of 8 to 100 % of the area; half of the images are mirrored.
    The accuracy is measured on the test split or, without one, on a held-out tenth of the images of
    each class.

    Every half minute and at Ctrl-C, the state is written to ``<out>.partial``; a run with `resume`
    continues from it to the same bytes; on a GPU, if no layer of the network sums in another order
    in every run (`torch.use_deterministic_algorithms` lists those that do).

    Parameters
    ----------
    config
        The settings.
    source
        The images, if they are neither a file nor a known set; ``config.source`` is then only their
        name, which must not be empty, and a tenth of the images is held out.

    Returns
    -------
    TrainedObserver
        Path and accuracy of the weights.

    Raises
    ------
    PydreamError
        If an input cannot be used, or the training diverges.

    Notes
    -----
    Under torchrun or srun all ranks call this alike, and each trains on its part of every batch
    (DistributedDataParallel). The first rank writes the weights.
    """
    ranks = ranks_of(None)
    with shared_with(ranks), ranks.together():
        return _train_observer(config, ranks, source)


def _train_observer(config: ObserverConfig, ranks: Ranks, source: Source | None) -> TrainedObserver:
    start = time.perf_counter()
    out = config.out or Path(
        f"{name_after(config.source)}-{config.arch.replace('/', '-')}.safetensors"
    )
    if not config.resume and ranks.first:
        check_free(out)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    if source is None:
        source, test = open_source(config.source, exif=config.exif), None
        if has_split(config.source, "test"):
            test = open_source(config.source, "test", exif=config.exif)
    else:
        test = None
    check_classes(source)
    check_outside(source, out)
    side = config.side or side_of(source)
    train_indices, test_indices, held_out = hold_out(source, test, config.seed)
    identity = {
        **_identity(config, source, side, precision, device, ranks),
        "held_out": held_out,
        "test_fingerprint": None if test is None else _fingerprint(test, ranks),
    }
    ranks.agree({"settings": identity, "installation": package_record()})
    if config.resume and ranks.once(partial(os.path.lexists, out)):
        return ranks.once(partial(_finished, out, identity))
    with ExitStack() as begun:
        parallel = begun.enter_context(data_parallel(ranks, device))
        if ranks.first:
            run = _partial_run(out, identity, config.resume)
        announce_device(config.device)
        with own_random_numbers(config.seed, device), repeatable_arithmetic_of(precision):
            model, images = _prepare(config, source, train_indices, side, device, parallel)
            if ranks.first:
                begun.enter_context(run.begin())
            ranks.wait()
            if not ranks.first:  # which has begun
                run = _partial_run(out, identity, resume=True)
            progress = _train(model, images, config, precision, device, run, parallel)
        top1, measured = measure_observer(
            model,
            test or source,
            test_indices,
            side=side,
            precision=precision,
            workers=config.workers,
            ranks=ranks,
        )
        facts: dict[str, Any] = {
            "arch": config.arch,
            "side": side,
            "top1": top1,
            "images": measured,
            "held_out": held_out,
            "skipped": len(images.unreadable.reasons),
            "loss": progress.loss,
        }
        if progress.ranks != [1]:
            facts["data_parallel"] = tuple(progress.ranks)
        if ranks.first:
            training = json.dumps({"settings": identity, "result": facts}, sort_keys=True)
            metadata = _metadata(model, config, source, side, top1)
            save_weights(model, out, {**metadata, _TRAINING: training})
            run.forget()
        ranks.wait()
    return TrainedObserver(path=out, **facts, seconds=time.perf_counter() - start)


def _prepare(
    config: ObserverConfig,
    source: Source,
    indices: Indices,
    side: int,
    device: torch.device,
    parallel: DataParallel,
) -> tuple[nn.Module, TrainingImages]:
    """Build the network on its device, and open the images that it is trained on."""
    model = build_model(config.arch, num_classes=len(source.class_names), side=side)
    model = parallel.prepare(model, config.arch, device).to(device=device)
    model.to(memory_format=torch.channels_last)
    images = TrainingImages(
        source,
        indices,
        side,
        batch_size=config.batch_size,
        horizontal_flip=config.horizontal_flip,
        seed=config.seed,
        workers=config.workers,
        allow_skipped=config.allow_skipped,
        parallel=parallel,
    )
    return model, images


def _partial_run(out: Path, identity: Mapping[str, Any], resume: bool) -> PartialRun:
    return PartialRun(out, identity, resume=resume, what="training", check=check_free)


def _identity(
    config: ObserverConfig,
    source: Source,
    side: int,
    precision: str,
    device: torch.device,
    ranks: Ranks,
) -> dict[str, Any]:
    """Return the facts that decide the weights; the contents, not the path, name the source."""
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in _EXECUTION
    }
    return {
        **settings,
        "side": side,
        "precision": precision,
        "device": device.type,
        "source_fingerprint": _fingerprint(source, ranks),
    }


def _fingerprint(source: Source, ranks: Ranks) -> str:
    """Hash all names of images, and the contents of some; by one rank."""
    some = range(0, len(source), max(1, len(source) // _FINGERPRINTED))
    return ranks.once(partial(source.fingerprint, some))


def _finished(out: Path, identity: Mapping[str, Any]) -> TrainedObserver:
    """Return the result of a training to resume if it has already finished."""
    try:
        training = parse_json(read_weights(out)[1][_TRAINING])
        if not _is_training(training):
            raise ValueError
    except (PydreamError, KeyError, ValueError):  # of somebody else, or damaged
        check_free(out)
        raise
    result = training["result"]
    settings = {
        # Older versions kept the one as a result only, and not the other.
        "held_out": result["held_out"],
        "test_fingerprint": identity["test_fingerprint"],
        **training["settings"],
    }
    if differing := differences(settings, json.loads(json.dumps(identity))):
        raise PydreamError(
            f"{out} was trained with other settings ({'; '.join(differing)}): choose another --out"
        )
    forget_finished(out, identity)
    parallel = tuple(result.get("data_parallel", ()))
    measured = {name: result[name] for name in _MEASURED}
    return TrainedObserver(path=out, **measured, seconds=0.0, data_parallel=parallel)


def _train(
    model: nn.Module,
    images: TrainingImages,
    config: ObserverConfig,
    precision: str,
    device: torch.device,
    run: PartialRun,
    parallel: DataParallel,
) -> TrainingProgress:
    """Train in place, from the state of the run; return that of the end."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=_MOMENTUM,
        nesterov=True,
        weight_decay=config.weight_decay,
    )
    steps = config.epochs * images.steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=steps,
        # In the schedule, a rise of only one step divides by zero.
        pct_start=_WARM_UP if _WARM_UP * steps != 1 else math.nextafter(_WARM_UP, 0),
        cycle_momentum=False,
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    model.train()
    state = TrainingState(run, model, optimizer, schedule, images, device)
    progress = state.read()
    if progress.ranks[-1:] != [parallel.count]:
        progress.ranks.append(parallel.count)
    done, network = schedule.last_epoch, parallel.wrap(model)
    with (
        first_layer_in_float32(model, device),
        parallel.own_draws(config.seed, device),
        track("training observer", steps, "steps", done=done) as advance,
        interrupt_between_steps() as interrupted,
    ):
        while progress.epoch < config.epochs:
            for batch, labels in images.epoch():
                optimizer.zero_grad()
                with mixed:
                    logits = network(batch.to(device))
                    loss = criterion(logits, labels.to(device)) if len(labels) else 0 * logits.sum()
                loss, mean = parallel.mean(loss, len(labels))
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.total += mean
                advance(1)
                if not parallel.first:  # the first one stops all
                    continue
                stopped = interrupted()
                if stopped or state.is_due():
                    state.write(progress)
                if stopped:
                    raise KeyboardInterrupt
            _end_epoch(progress, images, config, run, parallel)
            advance(0, f"loss {progress.loss:.3g}")
    if parallel.first:
        state.write(progress)
    return progress


def _end_epoch(
    progress: TrainingProgress,
    images: TrainingImages,
    config: ObserverConfig,
    run: PartialRun,
    parallel: DataParallel,
) -> None:
    """Begin the next epoch, unless the training has diverged."""
    progress.loss = progress.total.item() / images.steps
    progress.epoch += 1
    progress.total = torch.zeros_like(progress.total)
    if not math.isfinite(progress.loss):
        if parallel.first:
            run.forget()
        raise PydreamError(
            f"training {config.arch} diverged in epoch {progress.epoch} of {config.epochs}: "
            f"try a --learning-rate below {config.learning_rate:g}"
        )


def _metadata(
    model: nn.Module, config: ObserverConfig, source: Source, side: int, top1: float
) -> dict[str, str]:
    """Return the metadata for `load_observer`."""
    metadata = {
        "arch": config.arch,
        "side": str(side),
        "classes": json.dumps(source.class_names),
        "mean": ",".join(map(str, IMAGENET_MEAN)),
        "std": ",".join(map(str, IMAGENET_STD)),
        "top1_test": f"{100 * top1:.2f}",
        "epochs": str(config.epochs),
        "seed": str(config.seed),
    }
    return {**metadata, "norm": model.norm} if isinstance(model, ConvNet) else metadata
