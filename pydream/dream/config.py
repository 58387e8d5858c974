"""What a DREAM+ run is told, and the published numbers where it is told nothing."""

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
"""What is matched: features and gradients (DREAM+), gradients (DREAM), features (DM)."""

# What changes how a run goes, never what it makes: left out of the manifest, free on resume.
_EXECUTION = (
    "out",
    "resume",
    "checkpoint_every",
    "eval_every",
    "eval_epochs",
    "eval_seeds",
    "workers",
    "allow_skipped",
)
# The learning rate is given for ten images a class.
_BASE_IPC = 10


@dataclass(frozen=True)
class Recipe:
    """Published settings of a family of image sets (arXiv 2310.15052, section 4.1; IDC).

    Attributes
    ----------
    arch
        Network whose answers are matched.
    metric
        How far two answers lie apart.
    learning_rate
        Of the images, for ten of a class and images of `base_side`; it grows in proportion to
        images per class and to the area.
    base_side
        In pixels.
    network_images
        Real images that the network is trained on after each matching step.
    batch_real
        Real images of each class in a matching step.
    iterations, inner_loop
        Networks one after the other, and matching steps with each.
    many_classes
        How representatives are chosen; see `pydream.dream.RepresentativeSampler`.
    flip
        Whether a mirrored image is still one of its class; digits are not.
    factor
        Cells per side of a distilled image.
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


RECIPES: Mapping[str, Recipe] = {
    "cifar": Recipe("convnet3-instance", "mse", 5e-3, 32, 2000),
    "svhn": Recipe("convnet3-instance", "mse", 5e-3, 32, 500, flip=False),
    "mnist": Recipe("convnet3-instance", "l1", 1e-4, 28, 500, flip=False),
    "tiny-imagenet": Recipe(
        "convnet4-instance", "mse", 5e-3, 32, 1000, batch_real=64, many_classes=True
    ),
    "imagenet10": Recipe("resnetap10", "l1", 3e-3, 224, 500),
    "imagenet100": Recipe("resnetap10", "l1", 1e-3, 224, 500),
    # Ours, for scikit-learn's 8 x 8 digits: minutes on a laptop.
    "digits": Recipe(
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

    What is None follows from the recipe of the image set.

    Raises
    ------
    PydreamError
        If a value is out of its range, or a recipe or metric does not exist.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, a .zip, .tar or .npz, or a set by name
    (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT, fashion-mnist:ROOT, svhn:ROOT)."""
    out: Path | None = None
    """Folder for the distilled set; it must not exist. By default named after the source."""
    ipc: int = 10
    """Distilled images per class."""
    factor: int | None = None
    """Cells per side of a distilled image: each is enlarged to an image to train on
    (multi-formation). 2 as published, 1 for the tiny digits."""
    recipe: str = "auto"
    """Published settings: cifar, svhn, mnist, tiny-imagenet, imagenet10, imagenet100, or digits;
    auto goes by the source's name, its side and its number of classes."""
    match: Match = "bidirectional"
    """What is matched: gradients and features (DREAM+), gradients alone (DREAM), or features."""
    sampler: Literal["representative", "random"] = "representative"
    """Which real images are matched: those nearest to the centres of clusters, or random ones."""
    metric: str | None = None
    """Distance: mse, l1, l1_mean, l2, cos or dc."""
    arch: str | None = None
    """Network whose answers are matched, e.g. convnet3-instance, resnetap10."""
    side: int | None = None
    """Side of the images in pixels; by default their own up to 64, and 224 for larger ones."""
    iterations: int | None = None
    """Networks that are matched one after the other."""
    inner_loop: int | None = None
    """Matching steps with each network."""
    learning_rate: float | None = None
    """Of the images; the recipe's grows with images per class and with their area."""
    batch_real: int | None = None
    """Real images of each class in a matching step."""
    batch_synthetic: int = 128
    """Synthetic images of each class in a matching step, drawn at random where there are more."""
    per_cluster: int = 1
    """Representatives of each cluster."""
    interval: int = 10
    """Matching steps between two choices of representatives."""
    network_images: int | None = None
    """Real images that the network is trained on after each matching step."""
    network_epochs: int | None = None
    """Epochs on all real images before a network is matched: by default 1 for bidirectional
    matching (DREAM+), 0 for others."""
    with_norm_and_bias: bool = False
    """Match gradients of norms and biases, too."""
    with_classifier: bool = False
    """Match gradients of the classifier's weights, too."""
    exact: bool = False
    """One class after the other, representatives chosen by images as they are, as published."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """Where everything is kept and computed: auto (a GPU that this build can use, else the CPU),
    cpu, cuda, cuda:1."""
    checkpoint_every: int = 10
    """Iterations between two checkpoints; one more is written on Ctrl-C."""
    eval_every: int = 0
    """Iterations between two quick measurements of students; 0 for none."""
    eval_epochs: int = 100
    """Epochs of such a student."""
    eval_seeds: int = 1
    """Students of each measurement."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether images are turned and mirrored as their EXIF asks. torchvision's ImageFolder, and so
    most training code, ignores it."""
    allow_skipped: float = 0.01
    """Share of the images that may be unreadable before the run is refused."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Threads that decode images; does not change the result."""
    resume: bool = False
    """Go on with a run that was stopped."""

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
        if self.recipe != "auto" and self.recipe not in RECIPES:
            raise PydreamError(
                f"recipe must be auto or one of {', '.join(RECIPES)}, got {self.recipe!r}"
            )

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the bytes of the set."""
        settings = dataclasses.asdict(self)
        if self.exif == "ignore":  # what sets say that were made before there was a choice
            del settings["exif"]
        return {name: value for name, value in settings.items() if name not in _EXECUTION}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of `compare`.

    The numbers are for two cores and some minutes; None, or ``--full``, is what was published.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images with a test split, as of `pydream dream`."""
    out: Path = Path("dream-comparison")
    """Folder for the distilled sets, figures and numbers; finished runs in it are not repeated."""
    full: bool = False
    """All classes and images, and the recipe as published: days on a CPU."""
    classes: int | None = 4
    """The first classes of the source, two or more; None for all."""
    images_per_class: int | None = 500
    """The first images of each class; None for all."""
    ipc: int = 5
    """Distilled images per class."""
    factor: int = 2
    """Cells per side of a distilled image."""
    arch: str | None = "convnet3-w32-instance"
    """Network that is matched, and student."""
    iterations: int | None = 8
    """Networks that are matched one after the other."""
    inner_loop: int | None = 10
    """Matching steps with each."""
    batch_real: int | None = 64
    """Real images of each class in a matching step."""
    network_images: int | None = 250
    """Real images that the network is trained on after each matching step."""
    learning_rate: float | None = None
    """Of the images."""
    eval_every: int = 2
    """Iterations between two measurements."""
    eval_epochs: int = 100
    """Epochs of a student."""
    seeds: int = 3
    """Runs of each method, with seeds 0, 1, …"""
    device: str = "auto"
    """Where everything is computed: auto (a GPU that this build can use, else the CPU), cpu, cuda,
    cuda:1."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether images are turned and mirrored as their EXIF asks. torchvision's ImageFolder, and so
    most training code, ignores it."""
    allow_skipped: float = 0.01
    """Share of the images that may be unreadable before the run is refused."""

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
    """Settings with nothing left to a recipe; see `resolve`."""

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
    from pydream.ops.matching import METRICS  # which imports PyTorch

    if metric not in METRICS:
        raise PydreamError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def recipe_for(source: str, side: int, num_classes: int) -> str:
    """Return the name of the recipe for a source: by its name, else by its images."""
    named = _BY_NAME.get(source.partition(":")[0])
    if named is not None:
        return named
    if side <= 48:
        return "cifar"
    if side <= 64:
        return "tiny-imagenet"
    return "imagenet10" if num_classes <= _FEW_CLASSES else "imagenet100"


def resolve(config: DreamConfig, side: int, num_classes: int) -> ResolvedConfig:
    """Return the settings with everything filled in that was left to the recipe.

    Parameters
    ----------
    config
        The settings.
    side
        Of the images, in pixels.
    num_classes
        Of the source.

    Raises
    ------
    PydreamError
        If a cluster is to give more representatives than a step takes of a class.
    """
    name = config.recipe
    if name == "auto":
        name = recipe_for(config.source, side, num_classes)
    recipe = RECIPES[name]
    learning_rate = recipe.learning_rate * config.ipc / _BASE_IPC * (side / recipe.base_side) ** 2
    if name == "tiny-imagenet" and config.ipc >= 50:
        learning_rate = 1e-6  # as published, whatever the scale
    known: dict[str, Any] = {
        "factor": recipe.factor,
        "metric": recipe.metric,
        "arch": recipe.arch,
        "iterations": recipe.iterations,
        "inner_loop": recipe.inner_loop,
        "learning_rate": learning_rate,
        "batch_real": recipe.batch_real,
        "network_images": recipe.network_images,
        "network_epochs": 1 if config.match == "bidirectional" else 0,
    }
    given = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    missing = {key: value for key, value in known.items() if given[key] is None}
    settings = ResolvedConfig(**{**given, **missing, "recipe": name, "side": side})
    if settings.per_cluster > settings.batch_real:
        raise PydreamError(
            f"per_cluster must be at most batch_real, {settings.batch_real}, "
            f"got {settings.per_cluster}"
        )
    return settings
