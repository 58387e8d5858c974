"""Settings of the training of experts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydream import checks, marks
from pydream.dream.recipes import PRESETS
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.processors import usable_processors

# Settings that change how experts are made, never their weights.
_EXECUTION = ("out", "resume", "workers", "allow_skipped", "count", "source")


@dataclass(frozen=True)
class ExpertsConfig:
    """Settings of `pydream.dream.train_experts` (MTT, CVPR 2022, section 3.1).

    Raises
    ------
    PydreamError
        If a value is out of its range, or a recipe does not exist.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, parquet files or WebDataset's shards, a .zip,
    .tar or .npz file, or a data set by name (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT,
    fashion-mnist:ROOT or svhn:ROOT). SOURCE:classes=LIST takes some of its classes."""
    out: Path | None = None
    """New folder for the trajectories, by default named after the source."""
    count: int = 100
    """Number of experts."""
    epochs: int = 50
    """Number of epochs that each expert is trained for. Its weights are kept before the first epoch
    and after each of them."""
    recipe: str = "auto"
    """Published settings for a family of image sets: cifar, svhn, mnist, tiny-imagenet,
    imagenet10, imagenet100 or digits; auto selects one by the source's name, image side and
    number of classes."""
    arch: str | None = None
    """Network of the experts, for example convnet3-instance. By default the recipe's."""
    side: int | None = None
    """Side of the images in pixels. By default images keep their own side up to 64, and larger ones
    are resized to 224."""
    learning_rate: float = 0.01
    """Learning rate of SGD."""
    batch_size: int = 256
    """Number of images in a batch."""
    sampler: Literal["random", "representative"] = "random"
    """Images of a batch: random shuffles all images in every epoch, as published; representative
    chooses those nearest to the centres of clusters of each class."""
    interval: int = 10
    """Number of batches between two selections of representatives."""
    zca: bool = False
    """Train on images that are whitened (ZCA), as published for CIFAR with one or ten distilled
    images per class."""
    seed: int = 0
    """Random seed. The same seed gives the same experts, byte for byte."""
    device: str = "auto"
    """Device that stores the images and does the computation: auto (a GPU that this build can use,
    else the CPU), cpu, cuda, cuda:1, or cuda:all for a process on each GPU."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Treatment of the EXIF orientation: apply rotates and mirrors images accordingly; ignore
    leaves them as stored, as torchvision's ImageFolder and most training code do."""
    allow_skipped: float = 0.01
    """Largest share of the images that may be unreadable; a run with more is refused."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Number of threads that decode images."""
    resume: bool = False
    """Continue an interrupted run, also with a smaller count than before, or add experts to a
    finished one: those that are there stay."""

    def __post_init__(self) -> None:
        expand_settings(self, "source", "out")
        checks.at_least(
            1,
            count=self.count,
            epochs=self.epochs,
            side=self.side,
            batch_size=self.batch_size,
            interval=self.interval,
            workers=self.workers,
        )
        checks.above_zero(learning_rate=self.learning_rate)
        checks.share(allow_skipped=self.allow_skipped)
        checks.seed(self.seed)
        if self.recipe != "auto" and self.recipe not in PRESETS:
            raise PydreamError(
                f"recipe must be auto or one of {', '.join(PRESETS)}, got {self.recipe!r}"
            )

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the weights of each expert."""
        settings = dataclasses.asdict(self)
        if not self.zca:  # as in experts made before there was a choice
            del settings["zca"]
        return {name: value for name, value in settings.items() if name not in _EXECUTION}
