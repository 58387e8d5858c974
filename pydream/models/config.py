"""Settings of observers: how one is read, and how one is trained."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydream import checks, marks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.processors import usable_processors


@dataclass(frozen=True, kw_only=True)
class ObserverSettings:
    """What images an observer takes, where its checkpoint does not say so.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    observer_side: int | None = None
    """Side of the images that the observer takes, in pixels; images of another side are resized to
    it. By default the checkpoint, the architecture and the images decide."""
    observer_mean: tuple[float, float, float] | None = None
    """Mean that the observer's images are normalised with, for pixels in [0, 1]; by default the
    checkpoint's, else timm's or torchvision's for the architecture, else ImageNet's."""
    observer_std: tuple[float, float, float] | None = None
    """Standard deviation that the observer's images are normalised with; the defaults are those of
    the mean."""

    def __post_init__(self) -> None:
        checks.at_least(1, observer_side=self.observer_side)
        for name in ("observer_mean", "observer_std"):
            values = getattr(self, name)
            if values is None:
                continue
            usable = len(values) == 3 and all(map(math.isfinite, values))
            if not usable or (name == "observer_std" and min(values) <= 0):
                kind = "three numbers above 0" if name == "observer_std" else "three numbers"
                raise PydreamError(f"{name} must be {kind}, got {' '.join(map(str, values))}")


@dataclass(frozen=True)
class ObserverConfig:
    """Settings of `train_observer`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, a .zip, .tar or .npz, or a set by name
    (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT, fashion-mnist:ROOT, svhn:ROOT)."""
    arch: str = "convnet3"
    """Architecture: convnet3 (any depth; convnet3-w64-instance sets width and norm),
    resnetap10, resnet18-modified, any torchvision classifier, timm/NAME."""
    out: Path | None = None
    """File for the weights; it must not exist. By default named after source and architecture."""
    epochs: int = 30
    """Passes over the training images."""
    side: int | None = None
    """Side of the images in pixels; by default their own up to 64, and 224 for larger ones."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 0.1
    """Highest learning rate of SGD: it rises to it in the first fifth, then falls to zero."""
    weight_decay: float = 5e-4
    """Weight decay."""
    label_smoothing: float = 0.1
    """Share of each target that is spread over all classes."""
    horizontal_flip: bool = True
    """Mirror half of the images; wrong for digits and letters."""
    seed: int = 0
    """Everything random follows from it."""
    precision: str = "auto"
    """Arithmetic: auto, float32 or bfloat16; auto takes bfloat16 where the processor has it."""
    device: str = "auto"
    """Where to train: auto (a GPU that this build can use, else the CPU), cpu, cuda, cuda:1."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether images are turned and mirrored as their EXIF asks. torchvision's ImageFolder, and so
    most training code, ignores it."""
    allow_skipped: float = 0.01
    """Share of the images that may be unreadable before the run is refused."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Threads that decode images; does not change the result."""
    resume: bool = False
    """Go on with a training that was stopped."""

    def __post_init__(self) -> None:
        expand_settings(self, "source", "out")
        checks.at_least(
            1,
            epochs=self.epochs,
            batch_size=self.batch_size,
            workers=self.workers,
            side=self.side,
        )
        checks.above_zero(learning_rate=self.learning_rate)
        checks.at_least(0, weight_decay=self.weight_decay)
        if not 0 <= self.label_smoothing < 1:
            raise PydreamError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        checks.share(allow_skipped=self.allow_skipped)
        checks.seed(self.seed)
