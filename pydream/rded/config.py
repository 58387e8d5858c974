"""Settings of an RDED run, shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydream import checks, marks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.models.config import ObserverSettings
from pydream.processors import usable_processors
from pydream.refinement.config import RefinementSettings
from pydream.sets.image_formats import ImageFormat

# Settings that change how a run proceeds, never its result. They are not in the manifest, and may
# differ on resume.
_EXECUTION = (
    "out",
    "resume",
    "shard",
    "batch_size",
    "workers",
    "memory_budget",
    "allow_skipped",
    "allow_weak_observer",
)

# Left out of the identity if they are as in sets made before there was a choice.
_USUAL = {
    "exif": "ignore",
    "select": "realistic",
    "realistic_share": 1.0,
    "combine": "log-probabilities",
    "small_classes": "refuse",
    "cells": "shrunk",
    "refine": 0,
    "match": "features",
}

SelectionRule: TypeAlias = Literal["realistic", "median", "hard", "diverse", "representative"]

# Left out of the identity unless given, because older sets were made before these options.
_OBSERVER = tuple(field.name for field in dataclasses.fields(ObserverSettings))

_PROPORTIONAL = "proportional:"

Cells: TypeAlias = Literal["shrunk", "matched"]


class Method(NamedTuple):
    """Settings that a preset stands for.

    Attributes
    ----------
    factor
        The same as in `RdedConfig`; None for that of the side.
    crops, cells, refine
        The same as in `RdedConfig`.
    """

    factor: int | None
    crops: int
    cells: Cells
    refine: int


_PRESETS = {"published": Method(None, 5, "shrunk", 0), "best": Method(2, 0, "matched", 100)}


@dataclass(frozen=True)
class RdedConfig(ObserverSettings, RefinementSettings):
    """Settings of `pydream.rded.distill` (arXiv 2312.03526, section 4).

    `batch_size`, `workers` and `memory_budget` change speed and memory, never the result.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    source: Annotated[marks.Positional[str], marks.arg(metavar="SOURCE")]
    """Labelled images: a folder of class folders, parquet files or WebDataset's shards, a .zip,
    .tar or .npz file, or a data set by name (digits, cifar10:ROOT, cifar100:ROOT, mnist:ROOT,
    fashion-mnist:ROOT or svhn:ROOT). SOURCE:classes=LIST takes some of its classes."""
    observer: str | tuple[str, ...]
    """Weights of a classifier trained on these classes (.safetensors, .pt or .pth), or of several,
    which score patches together; --arch and the other settings of an observer apply to each."""
    arch: Annotated[str | None, marks.arg(aliases=("--observer-arch",))] = None
    """Architecture of the observer, for example convnet3, resnet18-modified, resnet18 or timm/NAME.
    By default it is read from the weights file or inferred from the shapes of the weights."""
    out: Path | None = None
    """New folder for the distilled set, by default named after the source."""
    preset: Literal["published", "best"] = "published"
    """Settings of the method: published is RDED as in its paper; best tiles whole images in matched
    cells and refines them (factor 2, crops 0, cells matched, refine 100), the best settings found
    so far on CIFAR-10. Other values that are given replace these."""
    ipc: Annotated[int | str, marks.arg(metavar="COUNT")] = 10
    """Number of distilled images per class; or a text, CSV or JSON file with a class and its number
    in each entry; or proportional:10 for ten a class on average, at least one of each, in
    proportion to the numbers of real images."""
    factor: int | None = None
    """Number of patches along each side of a distilled image. By default 1 for sides of up to 64
    pixels, and 2 for larger ones; 2 for all with --preset best."""
    preselect: int = 300
    """Number of real images considered per class, drawn at random. A class with fewer images
    contributes all of them."""
    crops: int | None = None
    """Number of random crops scored per real image; 0 scores the whole image instead. By default 5,
    or 0 with --preset best."""
    select: SelectionRule = "realistic"
    """Rule that chooses the key patches of a class among the best patches of its images: the most
    realistic ones, as published; those around the median score; hard, the least realistic;
    diverse, the most realistic patch of each cluster of the observer's features; representative,
    the patch nearest to the centre of each cluster."""
    realistic_share: float = 1.0
    """Share of a class's images, the most realistic ones, that the rules other than realistic
    choose among; at least as many as they choose."""
    combine: Literal["log-probabilities", "logits"] = "log-probabilities"
    """Score of a patch by several observers: the mean of their log probabilities of the true class,
    or its log probability by their mean logits."""
    small_classes: Literal["refuse", "reuse"] = "refuse"
    """Treatment of classes with fewer images than patches are needed: refuse stops the run; reuse
    takes several crops of an image that overlap by no more than half."""
    cells: Cells | None = None
    """Way to fit a patch into its cell: shrunk resizes it, as published; matched finds the cell
    whose enlargement, as students see it, comes nearest to the patch. Matched patches are scored
    at full size. By default shrunk, or matched with --preset best."""
    refine: int | None = None
    """Number of steps that refine the cells after the collage: each cell moves until it shows the
    observer what its patch shows at full size. By default 0, as published, or 100 with --preset
    best."""
    side: int | None = None
    """Side of the distilled images in pixels, by default that of the observer's input."""
    seed: int = 0
    """Random seed. The same seed gives the same set, byte for byte."""
    canvas: Literal["pad", "native"] = "pad"
    """Input of the observer: pad puts each patch on a canvas of full size, as published; native is
    the patch alone."""
    class_order: Literal["sorted", "infer"] = "sorted"
    """Order of the observer's outputs: sorted matches them with the classes by name or sorted
    order, and infer determines the order from the images."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the observer; auto selects bfloat16 if the processor or GPU supports it
    natively."""
    compile: bool = False
    """Compile the observer with torch.compile, which pays off in long runs."""
    device: str = "auto"
    """Device that crops and scores patches: auto (a GPU that this build can use, else the CPU),
    cpu, cuda, cuda:1, or cuda:all for a process on each GPU. The winning patches are always cut on
    the CPU. Scores differ in their last bits between devices."""
    decode: Literal["auto", "host", "device"] = "auto"
    """Processor that decodes JPEGs for scoring: host (the CPU), device (the GPU), or auto (the GPU
    if it can and the machine has fewer than 8 processors, else the CPU). A GPU rounds differently,
    so scores differ slightly; the pixels of the winning patches always come from the CPU."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Treatment of the EXIF orientation: apply rotates and mirrors images accordingly; ignore
    leaves them as stored, as torchvision's ImageFolder and most training code do."""
    allow_weak_observer: bool = False
    """Continue even if the observer's accuracy is close to chance."""
    allow_skipped: float = 0.01
    """Largest share of the preselected images that may be unreadable; a run with more is
    refused."""
    image_format: ImageFormat = "png"
    """File format of the distilled images."""
    quality: int = 95
    """Quality of WebP and JPEG files, from 1 to 100."""
    batch_size: int = 1024
    """Number of patches cropped and scored at a time."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Number of threads that decode images."""
    memory_budget: int | None = None
    """Memory for decoded images and waiting patches, in MiB. By default a quarter of what this
    process may use: 256 at least, and 1024 at most, or 8192 with a GPU."""
    resume: bool = False
    """Continue an interrupted run. The result is byte-identical to that of an uninterrupted one."""
    shard: Annotated[str | None, marks.arg(metavar="I/N")] = None
    """Number of this job among N that share the work and never talk: 0/N to (N-1)/N, or auto for
    the task of a Slurm array. The last one to write to a folder that all share finishes the set. By
    default one job does everything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in _PRESETS:
            raise PydreamError(f"preset must be {' or '.join(_PRESETS)}, got {self.preset!r}")
        RefinementSettings.__post_init__(self)
        expand_settings(self, "source", "out", "observer")
        names = self.observers
        if not names:
            raise PydreamError("rded: --observer needs a value; see `pydream rded --help`")
        checks.different(observer=names)
        object.__setattr__(self, "observer", names[0] if len(names) == 1 else names)
        if not self.method.refine and self.refinement() != RefinementSettings().refinement():
            raise PydreamError(
                "layer, learning_rate and match are for the refinement: give refine, too"
            )
        checks.at_least(
            1,
            preselect=self.preselect,
            batch_size=self.batch_size,
            workers=self.workers,
            memory_budget=self.memory_budget,
            factor=self.factor,
            side=self.side,
        )
        _check_ipc(self)
        checks.at_least(0, crops=self.crops, refine=self.refine)
        if self.small_classes == "reuse" and self.method.crops < 2:
            raise PydreamError(
                "--small-classes reuse takes several crops of an image, and crops "
                f"{self.method.crops} gives one: give --crops 2 or more"
            )
        checks.share(allow_skipped=self.allow_skipped, realistic_share=self.realistic_share)
        checks.above_zero(realistic_share=self.realistic_share)
        if self.select == "realistic" and self.realistic_share < 1:
            raise PydreamError(
                "--realistic-share limits what other rules choose among, and changes nothing under "
                "--select realistic: give another rule, or leave it out"
            )
        checks.between(1, 100, quality=self.quality)
        checks.seed(self.seed)

    @property
    def observers(self) -> tuple[str, ...]:
        """The files of all observers."""
        return (self.observer,) if isinstance(self.observer, str) else tuple(self.observer)

    @property
    def method(self) -> Method:
        """The settings of the preset, with those that are given in their place."""
        given = {name: getattr(self, name) for name in Method._fields}
        own = {name: value for name, value in given.items() if value is not None}
        return _PRESETS[self.preset]._replace(**own)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the bytes of the set."""
        settings = {**dataclasses.asdict(self), **self.method._asdict()}
        del settings["preset"]  # what it stands for is there
        if len(self.observers) > 1:
            settings["observer"] = list(self.observers)  # as JSON has them
        for name, usual in _USUAL.items():
            if settings[name] == usual:
                del settings[name]
        for name in _OBSERVER:
            if settings[name] is None:
                del settings[name]
        if not self.method.refine:
            for name in self.refinement():
                settings.pop(name, None)
        return {name: value for name, value in settings.items() if name not in _EXECUTION}


def proportional_mean(ipc: str) -> int | None:
    """Return the mean number of images per class of ``proportional:MEAN``; None for a file."""
    is_proportional = ipc.startswith(_PROPORTIONAL)
    return int(ipc.removeprefix(_PROPORTIONAL)) if is_proportional else None


def _check_ipc(config: RdedConfig) -> None:
    """Check the number, the file or the mean, and expand ``~`` in the name of the file."""
    if not isinstance(config.ipc, str):
        checks.at_least(1, ipc=config.ipc)
        return
    if config.ipc.startswith(_PROPORTIONAL) or config.ipc == _PROPORTIONAL[:-1]:
        mean = config.ipc.removeprefix(_PROPORTIONAL)
        if not (mean.isascii() and mean.isdigit() and int(mean) >= 1):
            raise PydreamError(
                "ipc proportional takes the mean number of images of a class, a whole number of at "
                f"least 1, as in --ipc proportional:10; got {config.ipc}"
            )
        return
    expand_settings(config, "ipc")
    if not Path(config.ipc).is_file():
        raise PydreamError(
            "ipc takes a whole number, a file of classes and their numbers, or proportional:MEAN; "
            f"got {config.ipc}, and there is no such file"
        )
