"""Settings of a DREAM+ run, and the published numbers that fill in what is left open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydream import checks, marks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.processors import usable_processors

Match: TypeAlias = Literal["bidirectional", "gradient", "feature"]
"""Quantities to match: features and gradients (DREAM+), gradients (DREAM) or features (DM)."""

# Settings that change how a run proceeds, never its result. They are not in the manifest, and may
# differ on resume.
_EXECUTION = (
    "out",
    "resume",
    "shard",
    "checkpoint_every",
    "eval_every",
    "eval_epochs",
    "eval_seeds",
    "workers",
    "allow_skipped",
)
# Left out of the identity if they are as in sets made before there was a choice.
_USUAL = {"exif": "ignore", "cells": "shrunk"}
# Recipes give the learning rate for ten images per class.
_BASE_IPC = 10


@dataclass(frozen=True)
class Preset:
    """Published settings of a family of image sets, by the name that `recipe` gives them.

    Sources: arXiv 2310.15052, section 4.1; IDC (Kim et al., ICML 2022).

    Attributes
    ----------
    arch
        Network that images are matched in.
    metric
        Distance between the quantities matched.
    learning_rate
        Learning rate of the images for ten images per class with sides of `base_side`; it grows in
        proportion to the number of images per class and to their area.
    base_side
        Side of the images that `learning_rate` is given for, in pixels.
    network_images
        Number of real images that the network is trained on after each matching step.
    batch_real
        Number of real images of each class in a matching step.
    iterations, inner_loop
        Number of networks, used one after another, and number of matching steps with each.
    many_classes
        Method of selecting representatives; see `pydream.dream.RepresentativeSampler`.
    flip
        True if a mirrored image still belongs to its class, unlike a digit.
    factor
        Number of cells along each side of a distilled image.
    """

    arch: str
    metric: str
    learning_rate: float
    base_side: int
    network_images: int
    batch_real: int = 128
    iterations: int = 1000
    inner_loop: int = 100
    many_classes: bool = False
    flip: bool = True
    factor: int = 2


PRESETS: Mapping[str, Preset] = {
    "cifar": Preset("convnet3-instance", "mse", 5e-3, 32, 2000),
    "svhn": Preset("convnet3-instance", "mse", 5e-3, 32, 500, flip=False),
    "mnist": Preset("convnet3-instance", "l1", 1e-4, 28, 500, flip=False),
    "tiny-imagenet": Preset(
        "convnet4-instance", "mse", 5e-3, 32, 1000, batch_real=64, many_classes=True
    ),
    "imagenet10": Preset("resnetap10", "l1", 3e-3, 224, 500),
    "imagenet100": Preset("resnetap10", "l1", 1e-3, 224, 500),
    # Our own, for scikit-learn's 8 x 8 digits: a few minutes on a laptop.
    "digits": Preset(
        "convnet2-w64-instance",
        "mse",
        2e-2,
        8,
        500,
        batch_real=64,
        iterations=20,
        inner_loop=20,
        flip=False,
        factor=1,
    ),
}
_BY_NAME = {
    "digits": "digits",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "svhn": "svhn",
    "mnist": "mnist",
    "fashion-mnist": "mnist",
}
_FEW_CLASSES = 20  # between ImageNet-10 and ImageNet-100, nearer in ratio to neither


@dataclass(frozen=True)
class DreamConfig:
    """Settings of `pydream.dream.distill` (DREAM+, arXiv 2310.15052).

    A setting that is None follows from the recipe of the image set.

    Raises
    ------
    PydreamError
        If a value is out of its range, or a recipe or metric does not exist.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, parquet files or WebDataset's shards, a .zip,
    .tar or .npz file, or a data set by name (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT,
    fashion-mnist:ROOT or svhn:ROOT). SOURCE:classes=LIST takes some of its classes."""
    out: Path | None = None
    """New folder for the distilled set, by default named after the source."""
    ipc: int = 10
    """Number of distilled images per class."""
    factor: int | None = None
    """Number of cells along each side of a distilled image. Each cell is enlarged to a training
    image of its own (multi-formation). By default the recipe's: 2 as published, and 1 for the small
    digits."""
    cells: Literal["shrunk", "matched"] = "shrunk"
    """Way to fit the first real images into cells: shrunk takes some of their pixels, as published;
    matched finds the cell whose enlargement comes nearest to the image."""
    recipe: str = "auto"
    """Published settings for a family of image sets: cifar, svhn, mnist, tiny-imagenet,
    imagenet10, imagenet100 or digits; auto selects one by the source's name, image side and
    number of classes."""
    match: Match = "bidirectional"
    """Quantities to match: gradients and features (bidirectional, DREAM+), gradients (DREAM) or
    features."""
    sampler: Literal["representative", "random"] = "representative"
    """Selection of real images: those nearest to the centres of clusters, or random ones."""
    metric: str | None = None
    """Distance between the quantities matched: mse, l1, l1_mean, l2, cos or dc. By default the
    recipe's."""
    arch: str | None = None
    """Network that images are matched in, for example convnet3-instance or resnetap10. By default
    the recipe's."""
    side: int | None = None
    """Side of the images in pixels. By default images keep their own side up to 64, and larger ones
    are resized to 224."""
    iterations: int | None = None
    """Number of networks to match in, one after another. By default the recipe's."""
    inner_loop: int | None = None
    """Number of matching steps per network. By default the recipe's."""
    learning_rate: float | None = None
    """Learning rate of the images. By default the recipe's, which grows with the number of images
    per class and with their area."""
    batch_real: int | None = None
    """Number of real images of each class in a matching step. By default the recipe's."""
    batch_synthetic: int = 128
    """Largest number of synthetic images of each class in a matching step; of more, a random subset
    is drawn."""
    per_cluster: int = 1
    """Number of representatives per cluster."""
    interval: int = 10
    """Number of matching steps between two selections of representatives."""
    network_images: int | None = None
    """Number of real images that the network is trained on after each matching step. By default the
    recipe's."""
    network_epochs: int | None = None
    """Number of epochs that a network is trained for on all real images before it is used. By
    default 1 for bidirectional matching (DREAM+), and 0 otherwise."""
    with_norm_and_bias: bool = False
    """Also match the gradients of normalisation layers and biases."""
    with_classifier: bool = False
    """Also match the gradients of the classifier's weights."""
    exact: bool = False
    """Follow the published code exactly: update one class after another, and select representatives
    by pixels that are not normalised."""
    seed: int = 0
    """Random seed. The same seed gives the same set, byte for byte."""
    device: str = "auto"
    """Device that stores the images and does the computation: auto (a GPU that this build can use,
    else the CPU), cpu, cuda, cuda:1, or cuda:all for a process on each GPU."""
    checkpoint_every: int = 10
    """Number of iterations between checkpoints. Ctrl-C writes one more."""
    eval_every: int = 0
    """Number of iterations between quick evaluations of students; 0 for none."""
    eval_epochs: int = 100
    """Number of epochs that each of these students is trained for."""
    eval_seeds: int = 1
    """Number of students in each evaluation."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Treatment of the EXIF orientation: apply rotates and mirrors images accordingly; ignore
    leaves them as stored, as torchvision's ImageFolder and most training code do."""
    allow_skipped: float = 0.01
    """Largest share of the images that may be unreadable; a run with more is refused."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Number of threads that decode images."""
    resume: bool = False
    """Continue an interrupted run. The result is byte-identical to that of an uninterrupted one."""
    shard: Annotated[str | None, marks.arg(metavar="I/N")] = None
    """Number of this job among N that share the work and never talk: 0/N to (N-1)/N, or auto for
    the task of a Slurm array. The last one to write to a folder that all share finishes the set. By
    default one job does everything."""

    def __post_init__(self) -> None:
        expand_settings(self, "source", "out")
        checks.at_least(
            1,
            ipc=self.ipc,
            factor=self.factor,
            side=self.side,
            iterations=self.iterations,
            inner_loop=self.inner_loop,
            batch_real=self.batch_real,
            batch_synthetic=self.batch_synthetic,
            per_cluster=self.per_cluster,
            interval=self.interval,
            checkpoint_every=self.checkpoint_every,
            eval_epochs=self.eval_epochs,
            eval_seeds=self.eval_seeds,
            workers=self.workers,
        )
        checks.at_least(
            0,
            network_images=self.network_images,
            network_epochs=self.network_epochs,
            eval_every=self.eval_every,
        )
        checks.above_zero(learning_rate=self.learning_rate)
        checks.share(allow_skipped=self.allow_skipped)
        checks.seed(self.seed)
        if self.metric is not None:
            _check_metric(self.metric)
        if self.recipe != "auto" and self.recipe not in PRESETS:
            raise PydreamError(
                f"recipe must be auto or one of {', '.join(PRESETS)}, got {self.recipe!r}"
            )

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the bytes of the set."""
        settings = dataclasses.asdict(self)
        for name, usual in _USUAL.items():
            if settings[name] == usual:
                del settings[name]
        return {name: value for name, value in settings.items() if name not in _EXECUTION}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `compare`.

    The defaults suit two cores and a few minutes. None selects the published number, and ``full``
    selects all of them.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, parquet files or WebDataset's shards, a .zip,
    .tar or .npz file, or a data set by name (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT,
    fashion-mnist:ROOT or svhn:ROOT). SOURCE:classes=LIST takes some of its classes. It must have
    a test split."""
    out: Path = Path("dream-comparison")
    """Folder for the distilled sets, figures and numbers. Finished runs in it are not repeated."""
    full: bool = False
    """Use all classes and images with the published recipe, which takes days on a CPU."""
    classes: int | None = 4
    """Number of classes, the first of the source; at least two, or None for all."""
    images_per_class: int | None = 500
    """Number of images per class, the first of each; None for all."""
    ipc: int = 5
    """Number of distilled images per class."""
    factor: int = 2
    """Number of cells along each side of a distilled image."""
    arch: str | None = "convnet3-w32-instance"
    """Network that images are matched in, and that students use."""
    iterations: int | None = 8
    """Number of networks to match in, one after another."""
    inner_loop: int | None = 10
    """Number of matching steps per network."""
    batch_real: int | None = 64
    """Number of real images of each class in a matching step."""
    network_images: int | None = 250
    """Number of real images that the network is trained on after each matching step."""
    learning_rate: float | None = None
    """Learning rate of the images. By default the recipe's."""
    eval_every: int = 2
    """Number of iterations between evaluations of students."""
    eval_epochs: int = 100
    """Number of epochs that each student is trained for."""
    seeds: int = 3
    """Number of runs of each method, with seeds 0, 1, 2 and so on."""
    device: str = "auto"
    """Device that does the computation: auto (a GPU that this build can use, else the CPU), cpu,
    cuda or cuda:1."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Treatment of the EXIF orientation: apply rotates and mirrors images accordingly; ignore
    leaves them as stored, as torchvision's ImageFolder and most training code do."""
    allow_skipped: float = 0.01
    """Largest share of the images that may be unreadable; a run with more is refused."""

    def __post_init__(self) -> None:
        expand_settings(self, "source", "out")
        checks.at_least(2, classes=self.classes)
        checks.at_least(
            1,
            images_per_class=self.images_per_class,
            eval_every=self.eval_every,
            seeds=self.seeds,
        )
        checks.share(allow_skipped=self.allow_skipped)


@dataclass(frozen=True)
class ResolvedConfig(DreamConfig):
    """Settings in which no value is left to a preset; see `fill_in`."""

    factor: int = 2
    metric: str = "mse"
    arch: str = ""
    side: int = 32
    iterations: int = 1
    inner_loop: int = 1
    learning_rate: float = 1.0
    batch_real: int = 1
    network_images: int = 0
    network_epochs: int = 0


def _check_metric(metric: str) -> None:
    from pydream.ops.matching import METRICS  # that module imports PyTorch

    if metric not in METRICS:
        raise PydreamError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def preset_for(source: str, side: int, num_classes: int) -> str:
    """Return the name of the preset for a source: by its name, else by its images."""
    named = _BY_NAME.get(source.partition(":")[0])
    if named is not None:
        return named
    if side <= 48:
        return "cifar"
    if side <= 64:
        return "tiny-imagenet"
    return "imagenet10" if num_classes <= _FEW_CLASSES else "imagenet100"


def fill_in(config: DreamConfig, side: int, num_classes: int) -> ResolvedConfig:
    """Return the settings, with every open one filled in from a preset.

    Parameters
    ----------
    config
        The settings.
    side
        Side of the images, in pixels.
    num_classes
        Number of classes of the source.

    Raises
    ------
    PydreamError
        If a cluster would give more representatives than a step takes of a class.
    """
    name = config.recipe
    if name == "auto":
        name = preset_for(config.source, side, num_classes)
    preset = PRESETS[name]
    learning_rate = preset.learning_rate * config.ipc / _BASE_IPC * (side / preset.base_side) ** 2
    if name == "tiny-imagenet" and config.ipc >= 50:
        learning_rate = 1e-6  # as published, whatever the scale
    known: dict[str, Any] = {
        "factor": preset.factor,
        "metric": preset.metric,
        "arch": preset.arch,
        "iterations": preset.iterations,
        "inner_loop": preset.inner_loop,
        "learning_rate": learning_rate,
        "batch_real": preset.batch_real,
        "network_images": preset.network_images,
        "network_epochs": 1 if config.match == "bidirectional" else 0,
    }
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    missing = {key: value for key, value in known.items() if given[key] is None}
    settings = ResolvedConfig(**{**given, **missing, "recipe": name, "side": side})
    if settings.per_cluster > settings.batch_real:
        raise PydreamError(
            f"per_cluster must be at most batch_real, {settings.batch_real}, "
            f"got {settings.per_cluster}"
        )
    return settings
