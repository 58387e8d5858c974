"""What an RDED run is told: shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydream import checks, marks
from pydream.files import expand_settings
from pydream.models.config import ObserverSettings
from pydream.processors import usable_processors
from pydream.sets.image_formats import ImageFormat

# What changes how a run goes, never what it makes: left out of the manifest, free on resume.
_EXECUTION = (
    "out",
    "resume",
    "batch_size",
    "workers",
    "memory_budget",
    "allow_skipped",
    "allow_weak_observer",
)

# Left out of the identity where they are not given: sets were made before these options were there.
_OBSERVER = tuple(field.name for field in dataclasses.fields(ObserverSettings))


@dataclass(frozen=True)
class RdedConfig(ObserverSettings):
    """Settings of `pydream.rded.distill` (arXiv 2312.03526, section 4).

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, a .zip, .tar or .npz, or a set by name
    (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT, fashion-mnist:ROOT, svhn:ROOT)."""
    observer: str
    """Weights of a classifier trained on these classes (.safetensors, .pt, .pth)."""
    arch: Annotated[str | None, marks.arg(aliases=("--observer-arch",))] = None
    """Architecture of the observer, e.g. convnet3, resnet18-modified, resnet18, timm/NAME;
    read from the weights file where it is written there or its shapes show it."""
    out: Path | None = None
    """Folder for the distilled set; it must not exist. By default named after the source."""
    ipc: int = 10
    """Distilled images per class."""
    factor: int | None = None
    """Patches per side of a distilled image. By default 1 up to 64 pixels a side, above that 2."""
    preselect: int = 300
    """Real images looked at per class, drawn at random; all of them where a class has fewer."""
    crops: int = 5
    """Random crops scored per real image."""
    side: int | None = None
    """Side of the distilled images in pixels; by default the observer's."""
    seed: int = 0
    """Everything random follows from it."""
    canvas: Literal["pad", "native"] = "pad"
    """What the observer sees: the patch on a canvas of full side (as published), or the patch
    alone."""
    class_order: Literal["sorted", "infer"] = "sorted"
    """How the observer's outputs map to classes: by name or sorted order, or inferred from data."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the observer; auto takes bfloat16 where the processor or the GPU has it."""
    compile: bool = False
    """Let torch.compile make kernels for the observer: worth its start in long runs."""
    device: str = "auto"
    """Where patches are cropped and scored: auto (a GPU that this build can use, else the CPU),
    cpu, cuda, cuda:1. The CPU decodes the images and cuts the winning patches in any case. Scores
    differ in their last bits from device to device."""
    decode: Literal["auto", "host", "device"] = "auto"
    """Where JPEGs are decoded to be scored. A GPU rounds otherwise, so scores differ slightly; the
    winners' pixels are always the CPU's. auto: on the GPU if it can and there are fewer than 8
    processors, else on the host."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether images are turned and mirrored as their EXIF asks. torchvision's ImageFolder, and so
    most training code, ignores it."""
    allow_weak_observer: bool = False
    """Go on with an observer whose accuracy is near chance."""
    allow_skipped: float = 0.01
    """Share of the pre-selected images that may be unreadable before the run is refused."""
    image_format: ImageFormat = "png"
    """File format of the distilled images."""
    quality: int = 95
    """Quality of WebP and JPEG, 1 to 100."""
    batch_size: int = 1024
    """Patches cropped and scored at a time; does not change the result."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Threads that decode images; does not change the result."""
    memory_budget: int = 256
    """MiB for decoded images and patches that wait; does not change the result."""
    resume: bool = False
    """Go on with a run that was stopped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "source", "observer", "out")
        checks.at_least(
            1,
            ipc=self.ipc,
            preselect=self.preselect,
            crops=self.crops,
            batch_size=self.batch_size,
            workers=self.workers,
            memory_budget=self.memory_budget,
            factor=self.factor,
            side=self.side,
        )
        checks.share(allow_skipped=self.allow_skipped)
        checks.between(1, 100, quality=self.quality)
        checks.seed(self.seed)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the bytes of the set."""
        settings = dataclasses.asdict(self)
        if self.exif == "ignore":  # what sets say that were made before there was a choice
            del settings["exif"]
        for name in _OBSERVER:
            if settings[name] is None:
                del settings[name]
        return {name: value for name, value in settings.items() if name not in _EXECUTION}
