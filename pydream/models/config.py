"""Settings for reading an observer and for training one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydream import checks, marks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.processors import usable_processors


@dataclass(frozen=True, kw_only=True)
class ObserverSettings:
    """Input of an observer, in case its checkpoint does not describe it.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    observer_side: int | None = None
    """Side of the observer's input in pixels; images of another side are resized. By default it
    follows from the checkpoint, the architecture and the images."""
    observer_mean: tuple[float, float, float] | None = None
    """Mean that the observer's input is normalised with, for pixels in [0, 1]. By default the
    checkpoint's, else that of timm or torchvision for the architecture, else ImageNet's."""
    observer_std: tuple[float, float, float] | None = None
    """Standard deviation that the observer's input is normalised with, for pixels in [0, 1]. By
    default it comes from the same place as the mean."""

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


def files_or_given(files: Sequence[str], given: Any) -> list[Any]:
    """Return the files of observers, or the networks that are given in their place.

    Parameters
    ----------
    files
        The files that settings name.
    given
        A network, or several; None for the files.

    Raises
    ------
    PydreamError
        If files are named, and their number is another.
    """
    if given is None:
        return list(files)
    networks = list(given) if isinstance(given, Sequence) else [given]
    if files and len(networks) != len(files):
        raise PydreamError(
            f"{len(networks)} observers are given, and config.observer names {len(files)}: "
            "name each"
        )
    return networks


@dataclass(frozen=True)
class ObserverConfig:
    """Settings of `train_observer`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, parquet files or WebDataset's shards, a .zip,
    .tar or .npz file, or a data set by name (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT,
    fashion-mnist:ROOT or svhn:ROOT). SOURCE:classes=LIST takes some of its classes."""
    arch: str = "convnet3"
    """Architecture: convnet3 (of any depth; convnet3-w64-instance sets width and normalisation),
    resnetap10, resnet18-modified, any torchvision classifier, or timm/NAME."""
    out: Path | None = None
    """New file for the weights, by default named after the source and the architecture."""
    epochs: int = 30
    """Number of passes over the training images."""
    side: int | None = None
    """Side of the images in pixels. By default images keep their own side up to 64, and larger ones
    are resized to 224."""
    batch_size: int = 128
    """Number of images in a training step."""
    learning_rate: float = 0.1
    """Peak learning rate of SGD, reached after the first fifth of the training and followed by a
    decay to zero."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    label_smoothing: float = 0.1
    """Share of each target that is spread over all classes."""
    horizontal_flip: bool = True
    """Random mirroring of half of the images, which is wrong for digits and letters."""
    seed: int = 0
    """Random seed. The same seed gives the same weights, byte for byte; on a GPU, if its layers
    sum in a fixed order."""
    precision: str = "auto"
    """Arithmetic: auto, float32 or bfloat16; auto selects bfloat16 if the processor supports it
    natively."""
    device: str = "auto"
    """Device to train on: auto (a GPU that this build can use, else the CPU), cpu, cuda,
    cuda:1, or cuda:all for a process on each GPU."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Treatment of the EXIF orientation: apply rotates and mirrors images accordingly; ignore
    leaves them as stored, as torchvision's ImageFolder and most training code do."""
    allow_skipped: float = 0.01
    """Largest share of the images that may be unreadable; a run with more is refused."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Number of threads that decode images."""
    resume: bool = False
    """Continue an interrupted training. The result is that of an uninterrupted one, byte for byte
    as far as the same seed gives the same weights."""

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
