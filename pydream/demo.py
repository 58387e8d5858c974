"""The whole pipeline on a small data set: scikit-learn's 1,797 handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydream import checks
from pydream.errors import PydreamError
from pydream.evaluate.config import EvaluateConfig
from pydream.files import ANOTHER_OUT, check_place, disk_errors, expand_settings, first_free
from pydream.models.config import ObserverConfig
from pydream.rded.config import RdedConfig

_SOURCE = "digits"
_ARCH = "convnet2-w64"
_OBSERVER_EPOCHS = 20
_STUDENT_EPOCHS = 100


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    out: Path = Path("demo")
    """Folder that receives a new folder for this run."""
    ipc: int = 10
    """Number of distilled images per class."""
    seed: int = 0
    """Random seed. The same seed gives the same result."""
    device: str = "auto"
    """Device that does the computation: auto (a GPU that this build can use, else the CPU), cpu,
    cuda or cuda:1."""

    def __post_init__(self) -> None:
        expand_settings(self, "out")
        checks.at_least(1, ipc=self.ipc)
        checks.seed(self.seed)


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes
    ----------
    observer_top1, distilled_top1, random_top1
        Accuracy on the test images of the observer, of students trained on the distilled images,
        and of students trained on as many random real images.
    train_images, distilled_images
        Number of images that the observer and the students were trained on.
    contact_sheet, report
        Pictures of the distilled set.
    """

    observer_top1: float
    distilled_top1: float
    random_top1: float
    train_images: int
    distilled_images: int
    contact_sheet: Path
    report: Path


def run_demo(config: DemoConfig) -> DemoResult:
    """Train an observer on the digits, distil them, and train students on the result.

    Parameters
    ----------
    config
        The settings.

    Returns
    -------
    DemoResult
        Three accuracies and the paths of the pictures.

    Raises
    ------
    PydreamError
        If a class has fewer images than ``config.ipc``, the device cannot be used, or the folder
        cannot be written.
    """
    from pydream.data import open_source  # imported here, because the settings need no PyTorch
    from pydream.devices import announce_device, resolve_device
    from pydream.evaluate import evaluate_set
    from pydream.models import train_observer
    from pydream.rded import distill

    device = str(resolve_device(config.device))
    train = open_source(_SOURCE)
    fewest = min(len(train.class_indices(label)) for label in range(len(train.class_names)))
    if config.ipc > fewest:
        raise PydreamError(
            f"ipc must be at most {fewest}, the training images of the rarest digit, "
            f"got {config.ipc}"
        )
    announce_device(config.device)
    place = _new_folder(config.out)
    observer = train_observer(
        ObserverConfig(
            source=_SOURCE,
            arch=_ARCH,
            epochs=_OBSERVER_EPOCHS,
            horizontal_flip=False,
            seed=config.seed,
            device=device,
            out=place / "observer.safetensors",
        )
    )
    distilled = distill(
        RdedConfig(
            source=_SOURCE,
            observer=str(observer.path),
            out=place / "set",
            ipc=config.ipc,
            seed=config.seed,
            device=device,
        )
    )
    result = evaluate_set(
        EvaluateConfig(
            set=distilled.path,
            observer=str(observer.path),
            epochs=_STUDENT_EPOCHS,
            horizontal_flip=False,
            seeds=(config.seed,),
            device=device,
            baselines=("random",),
        )
    )
    by_name = {row.images: row for row in result.rows}
    return DemoResult(
        observer_top1=observer.top1,
        distilled_top1=by_name["distilled"].last_mean,
        random_top1=by_name["random"].last_mean,
        train_images=len(train),
        distilled_images=config.ipc * len(train.class_names),
        contact_sheet=distilled.path / "contact_sheet.png",
        report=distilled.path / "report.html",
    )


def _new_folder(out: Path) -> Path:
    check_place(out)
    with disk_errors(out, ANOTHER_OUT):
        return first_free(
            lambda number: out / f"run-{number}", lambda place: place.mkdir(parents=True)
        )
