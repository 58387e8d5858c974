"""DREAM+ from a source to a distilled set on disk."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydream.arithmetic import repeatable_float32
from pydream.data import Source, check_classes, has_split, open_source
from pydream.data.resized import LabelledImages, load_split, side_of
from pydream.data.sources import check_outside
from pydream.data.whitening import whitening_record
from pydream.devices import announce_device, resolve_device
from pydream.dream.config import DreamConfig
from pydream.dream.experts import Experts
from pydream.dream.loop import parts_of_classes
from pydream.dream.network import fresh_network
from pydream.dream.objectives import sees_all_classes
from pydream.dream.optimise import DreamRun, optimise
from pydream.dream.real import ClassImages, check_enough, load_class_images
from pydream.dream.resolved import ResolvedConfig, fill_in
from pydream.dream.start import open_start, start_fingerprint
from pydream.dream.whole_set import finish_set
from pydream.errors import PydreamError
from pydream.files import name_after
from pydream.models.activations import classify_and_embed
from pydream.models.registry import build_model, construct
from pydream.progress import shared_with
from pydream.ranks import Ranks, ranks_of
from pydream.sets.manifest import Manifest, describe_set
from pydream.sets.run import MadeSet, finish_together, keep_draft
from pydream.sets.writer import SetWriter, check_place_of_set, finished_manifest
from pydream.tiling import Tiling
from pydream.timeline import Stopwatch
from pydream.torch_state import usual_torch_state
from pydream.versions import package_record


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
        Function that makes the networks to match, with weights from torch's global generator. Any
        classifier of (B, 3, side, side) images will do. Its features are the input of its last
        linear layer; if it has a method ``features``, this embeds the images that representatives
        are chosen from. By default ``config.arch`` is built; with this function it is only their
        name.

    Returns
    -------
    MadeSet
        The folder of the set, its manifest, and the time each stage took.

    Raises
    ------
    PydreamError
        If an input cannot be used, or the optimisation diverges. Nothing half-written is then left
        at ``config.out``; checkpoints stay beside it.
    UnfinishedError
        If this is a shard that has done its part, and others have not.

    Notes
    -----
    Under torchrun or srun all ranks call this alike. Each optimises classes of its own, and trains
    the same networks to match them in; for networks that are trained on the synthetic images (DC,
    DSA) they exchange these after every step. The first rank finishes the set, and all return it.
    """
    ranks = ranks_of(config.shard)
    if config.eval_every and ranks.is_shard:
        raise PydreamError(
            "students are trained on the images of all classes, which no shard has: give "
            "--eval-every 0, and measure the finished set by pydream evaluate"
        )
    with shared_with(ranks), ranks.together():
        return _distill(config, ranks, source, test, make_network)


def _distill(
    config: DreamConfig,
    ranks: Ranks,
    source: Source | None,
    test: Source | None,
    make_network: Callable[[], nn.Module] | None,
) -> MadeSet:
    watch = Stopwatch()
    named, device = config.device, resolve_device(config.device)
    out = config.out or Path(f"{name_after(config.source)}-dream-ipc{config.ipc}")
    resume = config.resume or ranks.is_shard
    if ranks.first:
        check_place_of_set(out, resume=resume)
    config = dataclasses.replace(config, device=device.type)
    with watch("open"):
        if source is None:
            source = open_source(config.source, exif=config.exif)
            if config.eval_every and has_split(config.source, "test"):
                test = open_source(config.source, "test", exif=config.exif)
        if not config.eval_every:
            test = None
        check_classes(source)
        check_outside(source, out)
        if config.eval_every and test is None:
            raise PydreamError(
                f"{source.description} has no test split to measure students on: give "
                "--eval-every 0"
            )
        side = config.side or side_of(source)
        settings = fill_in(config, side, len(source.class_names))
        Tiling(side, settings.factor, settings.cells)  # raises if the factor does not fit
        make_network = make_network or _network_maker(settings, len(source.class_names))
        network = fresh_network(make_network, settings.seed, device)
        _check_network(network, side, len(source.class_names))
        if ranks.count > 1:
            _check_shared(settings, ranks, network)
    _warn_of_padding(side, settings.factor)
    fingerprint = ranks.once(source.fingerprint)
    identity = {**settings.identity(), "source_fingerprint": fingerprint}
    if test is not None:
        identity["test_fingerprint"] = ranks.once(test.fingerprint)
    experts = _open_experts(settings, make_network, fingerprint)
    if experts is not None:
        identity["experts"] = experts.fingerprint()
    start = ranks.once(partial(start_fingerprint, settings, source.class_names))
    if start is not None:
        identity["start"] = f"set {start}"
    ranks.agree({"settings": identity, "installation": package_record()})
    if resume and (manifest := ranks.once(partial(finished_manifest, out, identity))) is not None:
        return MadeSet(out, manifest, {})
    writer = SetWriter(out, identity, resume=resume or not ranks.first)
    with watch("decode"):
        real, skipped = load_class_images(
            source,
            side,
            device=device,
            workers=settings.workers,
            allow_skipped=settings.allow_skipped,
            zca=settings.zca,
        )
        first = open_start(settings, source.class_names, real)
        if settings.starts_from == "real":
            check_enough(real, source.class_names, settings.ipc, settings.factor)
        seen = None if test is None else _load_test(test, settings, real)
    parts = parts_of_classes(settings, real, network)
    run = DreamRun(settings, real, seen, make_network, writer, watch, ranks, parts, experts, first)
    announce_device(named)
    with writer.begin(ranks):
        if ranks.first:
            keep_draft(writer, _draft(run, source, identity, skipped))
        with repeatable_float32():
            optimise(run)
        return finish_together(writer, ranks, real.num_classes, lambda: finish_set(writer, watch))


def _open_experts(
    settings: ResolvedConfig, make_network: Callable[[], nn.Module], fingerprint: str
) -> Experts | None:
    """Open the experts of MTT; None for the other frameworks."""
    if settings.experts is None:
        return None
    assert settings.max_start is not None
    assert settings.expert_epochs is not None
    experts = Experts.open(settings.experts)
    network = fresh_network(make_network, settings.seed, torch.device("cpu"))
    experts.check(
        arch=settings.arch,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        side=settings.side,
        exif=settings.exif,
        source=fingerprint,
        epochs=settings.max_start - 1 + settings.expert_epochs,
        zca=settings.zca,
    )
    return experts


def _check_shared(settings: ResolvedConfig, ranks: Ranks, network: nn.Module) -> None:
    """Raise PydreamError if these processes cannot share a run."""
    if ranks.is_shard and settings.trains_on_images:
        raise PydreamError(
            f"{settings.framework} trains networks on the images of all classes, which no shard "
            "has: start ranks by torchrun, or run it in one process"
        )
    if sees_all_classes(settings, network):
        why = "exact dm passes the images of all classes through batch norms at once"
    elif settings.can_be_shared:
        return
    elif settings.of_framework.in_turn:
        why = "exact updates one class after another"
    else:
        why = f"{settings.framework} trains students on the images of all classes"
    raise PydreamError(f"{why}, which several processes cannot share: run it in one process")


def _warn_of_padding(side: int, factor: int) -> None:
    if side % factor:
        padded = -(-side // factor) * factor
        warnings.warn(
            f"side {side} is not a multiple of factor {factor}: images are padded to {padded} "
            "pixels before they are cut into cells",
            stacklevel=5,  # the caller of `distill`
        )


def _draft(
    run: DreamRun, source: Source, identity: dict[str, Any], skipped: list[dict[str, str]]
) -> Manifest:
    """Return the manifest as far as it is known before the first iteration."""
    config, real = run.config, run.real
    return dataclasses.replace(
        describe_set(
            source,
            method="dream",
            identity=identity,
            ipc=config.ipc,
            factor=config.factor,
            side=config.side,
            mean=real.mean.tolist(),
            std=real.std.tolist(),
            image_format="png",
        ),
        skipped=skipped,
        views="dsa" if config.factor > 1 else None,
        whitening=(
            whitening_record(config.side, identity["source_fingerprint"]) if config.zca else None
        ),
        network={"arch": config.arch},
    )


def _load_test(test: Source, config: ResolvedConfig, real: ClassImages) -> LabelledImages:
    """Decode the images that test the students, and whiten them where students see such."""
    split = load_split(
        test,
        config.side,
        workers=config.workers,
        device=real.pixels.device,
        allow_skipped=config.allow_skipped,
    )
    return split if real.whitening is None else real.whitening.of_split(split, split.labels.device)


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
