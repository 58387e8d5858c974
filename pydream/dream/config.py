"""Settings of a run of `pydream dream`, and of comparisons of such runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydream import checks, marks
from pydream.dream.frameworks import FRAMEWORKS, FrameworkName, Match
from pydream.dream.recipes import PRESETS
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.processors import usable_processors

# Settings that change how a run proceeds, never its result. They are not in the manifest, and may
# differ on resume.
_EXECUTION = (
    "out",
    "resume",
    "shard",
    "checkpoint_every",
    "workers",
    "allow_skipped",
    "experts",  # identified by what they are instead
)
# These decide the accuracies in the manifest, if students are trained on the way.
_OF_STUDENTS = ("eval_every", "eval_epochs", "eval_seeds")
_OF_EXPERTS = (
    "expert_epochs",
    "max_start",
    "student_steps",
    "student_rate",
    "rate_learning_rate",
)
# Left out of the identity if they are as in sets made before there was a choice.
_USUAL = {
    "exif": "ignore",
    "cells": "shrunk",
    "framework": "idc",
    "start": None,
    "weights": "equal",
    "synthetic_epochs": 0,
    "expert_epochs": None,
    "max_start": None,
    "student_steps": None,
    "student_rate": None,
    "rate_learning_rate": None,
    "zca": False,
}


@dataclass(frozen=True)
class DreamConfig:
    """Settings of `pydream.dream.distill` (DREAM+, arXiv 2310.15052).

    A setting that is None follows from the framework and from the recipe of the image set.

    Raises
    ------
    PydreamError
        If a value is out of its range, a recipe or metric does not exist, or the framework has no
        such match.
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
    framework: FrameworkName = "idc"
    """Published framework of matching: idc (the base of DREAM and DREAM+), dc, dsa, dm or mtt. The
    other settings follow from it."""
    start: Annotated[str | None, marks.arg(metavar="SET")] = None
    """First images: the word noise; the word real, for images that the sampler chooses; or a
    distilled set, of pydream or another tool. By default real, and noise for random sampling in
    dc."""
    recipe: str = "auto"
    """Published settings for a family of image sets: cifar, svhn, mnist, tiny-imagenet,
    imagenet10, imagenet100 or digits; auto selects one by the source's name, image side and
    number of classes."""
    match: Match | None = None
    """Quantities to match: gradients and features (bidirectional, DREAM+), gradients (DREAM, DC,
    DSA), features (DM) or the weights that training leads to (trajectory, MTT). By default those of
    the framework: bidirectional for idc."""
    sampler: Literal["representative", "random"] = "representative"
    """Selection of real images: those nearest to the centres of clusters, or random ones."""
    weights: Literal["equal", "clusters"] = "equal"
    """Weights of the real images of a matching step: equal, or the sizes of the clusters that they
    represent."""
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
    batch_synthetic: int | None = None
    """Largest number of synthetic images of each class in a matching step; of more, a random subset
    is drawn. In mtt, number of images of all classes in a step of the student. By default 128 in
    idc, and all in the others."""
    per_cluster: int = 1
    """Number of representatives per cluster."""
    interval: int = 10
    """Number of matching steps between two selections of representatives."""
    network_images: int | None = None
    """Number of real images that the network is trained on after each matching step (idc). By
    default the recipe's."""
    network_epochs: int | None = None
    """Number of epochs that a network is trained for on all real images before it is used; in dm,
    whose networks are not trained, only the one that chooses representatives. By default 1 for
    bidirectional matching (DREAM+), 10 in dm, and 0 otherwise."""
    synthetic_epochs: int | None = None
    """Number of epochs that the network is trained for on the synthetic images between two matching
    steps (dc and dsa). By default as published for the number of images per class."""
    experts: Path | None = None
    """Folder of trajectories that pydream experts wrote, which mtt needs. By default none."""
    expert_epochs: int | None = None
    """Number of an expert's epochs that the student is to make up for (mtt). By default as
    published for the number of images per class."""
    max_start: int | None = None
    """Number of the first epochs of an expert that a student may start from (mtt). By default as
    published for the number of images per class."""
    student_steps: int | None = None
    """Number of steps that the student is trained for on the synthetic images (mtt). By default as
    published for the number of images per class."""
    student_rate: float | None = None
    """First learning rate of the student, which is optimised with the images (mtt). By default as
    published for the number of images per class."""
    rate_learning_rate: float | None = None
    """Learning rate of the student's learning rate (mtt). By default as published for the number of
    images per class."""
    zca: bool = False
    """Match images that are whitened (ZCA), as published for one and ten images per class of CIFAR
    (mtt). The experts must have been trained on such images. Files and pictures of the set show the
    colours."""
    with_norm_and_bias: bool = False
    """Also match the gradients of normalisation layers and biases."""
    with_classifier: bool | None = None
    """Also match the gradients of the classifier's weights. By default in dc and dsa."""
    exact: bool = False
    """Follow the published code exactly. In idc, update one class after another, and select
    representatives by pixels that are not normalised. In the others, start as published, and let
    pixels leave the range of colours until the set is written."""
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
        expand_settings(self, "source", "out", "experts", "start")
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
            expert_epochs=self.expert_epochs,
            max_start=self.max_start,
            student_steps=self.student_steps,
            checkpoint_every=self.checkpoint_every,
            eval_epochs=self.eval_epochs,
            eval_seeds=self.eval_seeds,
            workers=self.workers,
        )
        checks.at_least(
            0,
            network_images=self.network_images,
            network_epochs=self.network_epochs,
            synthetic_epochs=self.synthetic_epochs,
            eval_every=self.eval_every,
        )
        checks.above_zero(
            learning_rate=self.learning_rate,
            student_rate=self.student_rate,
            rate_learning_rate=self.rate_learning_rate,
        )
        self._check_framework()
        checks.share(allow_skipped=self.allow_skipped)
        checks.seed(self.seed)
        if self.metric is not None:
            _check_metric(self.metric)
        if self.recipe != "auto" and self.recipe not in PRESETS:
            raise PydreamError(
                f"recipe must be auto or one of {', '.join(PRESETS)}, got {self.recipe!r}"
            )

    def _check_framework(self) -> None:
        _check_name(self.framework, self.experts)
        if self.framework == "mtt" and self.experts is None:
            raise PydreamError(
                "mtt needs the trajectories of experts: make them by pydream experts, and give "
                "their folder with --experts"
            )
        matches = FRAMEWORKS[self.framework].matches
        if self.match is not None and self.match not in matches:
            raise PydreamError(
                f"{self.framework} matches {' or '.join(matches)}, not {self.match}: leave --match "
                "out, or choose another --framework"
            )
        for name in _OF_EXPERTS:
            if self.framework != "mtt" and getattr(self, name) is not None:
                raise PydreamError(f"{name} is for mtt: leave it out of {self.framework}")
        if self.zca and self.framework != "mtt":
            raise PydreamError(f"zca is for mtt: leave it out of {self.framework}")
        if self.zca and self.factor not in (None, 1):
            raise PydreamError(
                f"whitened images (ZCA) are matched whole: leave out factor {self.factor}, or zca"
            )
        if self.framework not in ("dc", "dsa") and self.synthetic_epochs:
            raise PydreamError(f"synthetic_epochs is for dc and dsa, not {self.framework}")
        _check_network_images(self.network_images, self.framework)
        _check_weights(self.weights, self.framework)
        if self.weights == "clusters" and self.sampler != "representative":
            raise PydreamError(
                "weights by clusters need representatives: give --sampler representative"
            )

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the bytes of the set and of its manifest."""
        settings = dataclasses.asdict(self)
        for name, usual in _USUAL.items():
            if settings[name] == usual:
                del settings[name]
        left_out = _EXECUTION if self.eval_every else (*_EXECUTION, *_OF_STUDENTS)
        return {name: value for name, value in settings.items() if name not in left_out}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `compare`.

    The defaults suit two cores and a few minutes; they depend on the framework. ``full`` selects
    the published numbers in place of those that are not given.

    Raises
    ------
    PydreamError
        If a value is out of its range, or there is no such framework.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, parquet files or WebDataset's shards, a .zip,
    .tar or .npz file, or a data set by name (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT,
    fashion-mnist:ROOT or svhn:ROOT). SOURCE:classes=LIST takes some of its classes. It must have
    a test split."""
    out: Path = Path("dream-comparison")
    """Folder for the distilled sets, figures and numbers. Finished runs in it are not repeated."""
    full: bool = False
    """Use all classes and images with the published recipe, which takes days on a CPU. Numbers that
    are given, as iterations, replace the recipe's."""
    classes: int | None = 4
    """Number of classes, the first of the source; at least two, or None for all. With full, all."""
    images_per_class: int | None = 500
    """Number of images per class, the first of each; None for all. With full, all."""
    framework: FrameworkName = "idc"
    """Published framework of matching: idc (the base of DREAM and DREAM+), dc, dsa, dm or mtt."""
    experts: Path | None = None
    """Folder of trajectories that pydream experts wrote, for mtt. By default the comparison trains
    a few."""
    ipc: int = 5
    """Number of distilled images per class."""
    factor: int | None = None
    """Number of cells along each side of a distilled image. By default 2 in idc, and 1 in the
    others."""
    arch: str | None = None
    """Network that images are matched in, and that students use. By default convnet3-w32-instance,
    and the recipe's with full."""
    iterations: int | None = None
    """Number of networks to match in, one after another. By default 8, 400 in dm and 100 in mtt,
    and the recipe's with full."""
    inner_loop: int | None = None
    """Number of matching steps per network. By default 10, and 1 in dm and mtt; with full, the
    recipe's."""
    batch_real: int | None = None
    """Number of real images of each class in a matching step. By default 64, and the recipe's with
    full."""
    network_images: int | None = None
    """Number of real images that the network is trained on after each matching step (idc). By
    default 250, and the recipe's with full."""
    weights: Literal["equal", "clusters"] = "equal"
    """Weight of a representative in a step: the same for all, or in proportion to its cluster."""
    learning_rate: float | None = None
    """Learning rate of the images. By default the recipe's."""
    eval_every: int | None = None
    """Number of iterations between evaluations of students. By default a quarter of all, and
    25 with full."""
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
        expand_settings(self, "source", "out", "experts")
        checks.at_least(2, classes=self.classes)
        _check_name(self.framework, self.experts)
        _check_network_images(self.network_images, self.framework)
        _check_weights(self.weights, self.framework)
        checks.at_least(
            1,
            images_per_class=self.images_per_class,
            eval_every=self.eval_every,
            seeds=self.seeds,
        )
        checks.share(allow_skipped=self.allow_skipped)


def _check_name(framework: str, experts: Path | None) -> None:
    """Raise PydreamError unless there is such a framework, and MTT alone has experts."""
    if framework not in FRAMEWORKS:
        raise PydreamError(f"framework must be one of {', '.join(FRAMEWORKS)}, got {framework!r}")
    if framework != "mtt" and experts is not None:
        raise PydreamError(f"experts are for mtt: leave --experts out of {framework}")


def _check_network_images(count: int | None, framework: str) -> None:
    """Raise PydreamError if networks of a framework are trained on no real images between steps."""
    if framework != "idc" and count:
        raise PydreamError(f"network_images is for idc, not {framework}")


def _check_weights(weights: str, framework: str) -> None:
    """Raise PydreamError if real images of a framework have no weights."""
    if weights == "clusters" and framework == "mtt":
        raise PydreamError(
            "mtt matches no real images, which alone have weights: leave --weights out"
        )


def _check_metric(metric: str) -> None:
    from pydream.ops.matching import METRICS  # that module imports PyTorch

    if metric not in METRICS:
        raise PydreamError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
