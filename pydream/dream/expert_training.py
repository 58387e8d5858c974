"""The training of experts, whose trajectories MTT matches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pydream.arithmetic import repeatable_float32
from pydream.data import Source, check_classes, open_source
from pydream.data.resized import side_of
from pydream.data.sources import check_outside
from pydream.devices import announce_device, resolve_device
from pydream.dream.experts import (
    Experts,
    finished_experts,
    read_description,
    write_description,
    write_expert,
)
from pydream.dream.experts_config import ExpertsConfig
from pydream.dream.frameworks import FRAMEWORKS
from pydream.dream.network import fresh_network, train_with_dsa
from pydream.dream.real import ClassImages, load_class_images
from pydream.dream.recipes import PRESETS, preset_for
from pydream.dream.sampler import RepresentativeSampler
from pydream.errors import PydreamError
from pydream.files import check_place, name_after
from pydream.models.registry import build_model, construct
from pydream.partial import differences
from pydream.progress import shared_with, track
from pydream.ranks import Ranks, ranks_of
from pydream.seeds import derived_seed, drawn_order
from pydream.streams import to_device
from pydream.torch_state import usual_torch_state
from pydream.urls import without_secrets
from pydream.versions import package_record

_WEIGHTS, _ORDER, _AUGMENT = range(3)


@usual_torch_state()
def train_experts(config: ExpertsConfig, *, source: Source | None = None) -> Experts:
    """Train experts on real images, and keep their weights after every epoch.

    Parameters
    ----------
    config
        The settings.
    source
        The images, if they are neither a file nor a known set; ``config.source`` is then only their
        name, which must not be empty.

    Returns
    -------
    Experts
        The trajectories in ``config.out``.

    Raises
    ------
    PydreamError
        If an input cannot be used, the folder holds something else, or a training diverges.
        Finished experts stay.

    Notes
    -----
    Under torchrun or srun all ranks call this alike, and each trains the next expert that no rank
    has. Its weights do not depend on the others.

    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR 2022),
    section 3.1: SGD without momentum or weight decay, and DSA's augmentation.
    """
    ranks = ranks_of(None)
    with shared_with(ranks), ranks.together():
        return _train_experts(config, ranks, source)


def _train_experts(config: ExpertsConfig, ranks: Ranks, source: Source | None) -> Experts:
    named, device = config.device, resolve_device(config.device)
    out = config.out or Path(f"{name_after(config.source)}-experts")
    if ranks.first:
        check_place(out)
    source = source or open_source(config.source, exif=config.exif)
    check_classes(source)
    check_outside(source, out)
    config = _filled_in(dataclasses.replace(config, device=device.type), source)
    arch, side, classes = config.arch, config.side, len(source.class_names)
    assert arch is not None
    assert side is not None
    build_model(arch, num_classes=classes, side=side)  # raises if the side does not fit
    network = fresh_network(
        lambda: construct(arch, num_classes=classes, side=side), config.seed, device
    )
    description = {
        "arch": arch,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "source": without_secrets(config.source),
        "source_fingerprint": ranks.once(source.fingerprint),
        "class_names": list(source.class_names),
        "settings": config.identity(),
        "package": package_record(),
        "count": config.count,
    }
    ranks.agree(description)
    if ranks.first:
        _begin(out, description, resume=config.resume)
    ranks.wait()
    count, left = ranks.once(partial(_left, out))
    if left:
        real, _ = load_class_images(
            source,
            side,
            device=device,
            workers=config.workers,
            allow_skipped=config.allow_skipped,
            zca=config.zca,
        )
        announce_device(named)
        with repeatable_float32(), track("training experts", count, "experts") as advance:
            advance(count - len(left))
            for turn in ranks.take_turns(len(left)):
                ranks.tell(f"expert {left[turn]}")
                write_expert(out, left[turn], _trajectory(config, real, network, left[turn]))
                advance(1)
    ranks.wait()
    return Experts.open(out)


def _filled_in(config: ExpertsConfig, source: Source) -> ExpertsConfig:
    """Return the settings with recipe, network and side filled in."""
    side = config.side or side_of(source)
    recipe = config.recipe
    if recipe == "auto":
        recipe = preset_for(config.source, side, len(source.class_names))
    arch = config.arch or PRESETS[recipe].arch
    return dataclasses.replace(config, recipe=recipe, arch=arch, side=side)


def _begin(out: Path, description: dict[str, Any], *, resume: bool) -> None:
    """Write the description of a new folder, or check that of an old one.

    A smaller number of experts than before is taken, but none that is finished is left out.
    """
    known = read_description(out)
    if known is None:
        if out.is_dir() and any(out.iterdir()):
            raise PydreamError(f"{out} exists and is not overwritten: give another --out")
        write_description(out, description)
        return
    if not resume:
        raise PydreamError(
            f"{out} holds experts already: add --resume to continue, or give another --out"
        )
    ours = {**description, "format": known["format"], "count": known["count"]}
    changed = differences(known, ours)
    if changed:
        raise PydreamError(
            f"{out} holds experts made with other settings ({changed[0]}): give another --out"
        )
    finished = [number + 1 for number in finished_experts(out) if number < known["count"]]
    count = max([description["count"], *finished])
    if count != known["count"]:
        write_description(out, {**description, "count": count})


def _left(out: Path) -> tuple[int, list[int]]:
    """Return the number of experts of a folder, and those that are not trained yet."""
    description = read_description(out)
    assert description is not None
    count, finished = description["count"], finished_experts(out)
    return count, [number for number in range(count) if number not in finished]


def _trajectory(
    config: ExpertsConfig, real: ClassImages, network: nn.Module, number: int
) -> Tensor:
    """Train an expert; return its weights before the first epoch and after each of them.

    Returns
    -------
    Tensor
        float32 (epochs + 1, P), on the CPU.
    """
    seed = derived_seed(config.seed, number)
    arch, side, classes = config.arch, config.side, real.num_classes
    assert arch is not None
    assert side is not None
    device = real.pixels.device
    fresh = fresh_network(
        lambda: construct(arch, num_classes=classes, side=side),
        derived_seed(seed, _WEIGHTS),
        device,
    )
    network.load_state_dict(fresh.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), config.learning_rate)
    strategy = FRAMEWORKS["mtt"].strategy(flip=PRESETS[config.recipe].flip)
    choose = _sampler(config, real) if config.sampler == "representative" else None
    weights = [_flat(network)]
    for epoch in range(config.epochs):
        batches = _batches(config, real, network, choose, derived_seed(seed, _ORDER, epoch))
        train_with_dsa(network, optimizer, batches, strategy, derived_seed(seed, _AUGMENT, epoch))
        weights.append(_flat(network))
        if not bool(weights[-1].isfinite().all()):
            raise PydreamError(
                f"expert {number} diverged in epoch {epoch + 1}: give a --learning-rate below "
                f"{config.learning_rate:g}"
            )
    return torch.stack(weights)


def _batches(
    config: ExpertsConfig,
    real: ClassImages,
    network: nn.Module,
    choose: RepresentativeSampler | None,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give out the batches of an epoch: normalised images, and labels."""
    device, count = real.pixels.device, len(real.labels)
    order = torch.from_numpy(drawn_order(seed, count))
    for shuffled in torch.split(to_device(order, device), config.batch_size):
        rows = shuffled if choose is None else torch.cat(choose(network))
        yield real.normalise(real.take(rows)), real.labels[rows]


def _sampler(config: ExpertsConfig, real: ClassImages) -> RepresentativeSampler:
    """Return the choice of as many images of each class as make about a batch."""
    return RepresentativeSampler(
        real.pixels,
        real.labels,
        max(1, config.batch_size // real.num_classes),
        interval=config.interval,
        transform=real.normalise,
        seed=config.seed,
    )


def _flat(network: nn.Module) -> Tensor:
    """Return all parameters as one vector, float32 (P,), on the CPU."""
    return torch.cat([weight.detach().flatten().cpu() for weight in network.parameters()])
