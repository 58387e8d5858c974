"""What an evaluation is told: shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydream import marks
from pydream.errors import PydreamError
from pydream.evaluate.recipe import Mix, Optimizer, Schedule, Views
from pydream.files import expand_settings
from pydream.models.config import ObserverSettings
from pydream.processors import usable_processors

LabelKind: TypeAlias = Literal["online", "stored", "own", "hard"]
"""Where targets come from: the observer at every step, what `relabel` stored, the soft labels that
came with another's set, or the classes."""
Baseline: TypeAlias = Literal["random", "herding", "k-centre", "full"]
"""Real images: drawn at random, two coresets, all."""
Layout: TypeAlias = Literal["tensors", "rded", "ddranking"]
"""Whose files are written."""


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """A recipe, and numbers that take the place of its own."""

    recipe: Literal["rded", "idc"] = "rded"
    """How students are trained; the following settings replace its numbers."""
    epochs: int | None = None
    """Passes over the set."""
    batch_size: int | None = None
    """Images of a step, at most."""
    learning_rate: float | None = None
    """Of the first epoch."""
    optimizer: Optimizer | None = None
    """How weights move."""
    schedule: Schedule | None = None
    """How the learning rate falls: half of a half cosine, or to a fifth at 2/3 and at 5/6."""
    betas: tuple[float, float] | None = None
    """Of AdamW."""
    momentum: float | None = None
    """Of SGD."""
    weight_decay: float | None = None
    """Of the weights with two dimensions or more; of SGD, of all."""
    views: Views | None = None
    """What a student sees: random crops of images with shuffled patches, or their enlarged cells
    with DSA's augmentations."""
    factor: int | None = None
    """Patches or cells per side of an image; by default the set's. Baselines have one."""
    crop_scale: tuple[float, float] | None = None
    """Least and greatest share of an image's area in a crop; by default 1/factor and 1."""
    crop_ratio: tuple[float, float] | None = None
    """Least and greatest width by height of a crop."""
    horizontal_flip: bool | None = None
    """Whether half of the views are mirrored."""
    mix: Mix | None = None
    """How two images become one."""
    mix_probability: float | None = None
    """Share of the batches that are mixed."""
    mix_concentration: float | None = None
    """Parameter of the beta distribution that an image's share is drawn from."""
    temperature: float | None = None
    """What logits are divided by before student and observer are compared."""

    def overrides(self) -> dict[str, Any]:
        """Return the settings that take the place of the recipe's; `factor` goes by the images."""
        fields = [field.name for field in dataclasses.fields(RecipeSettings)]
        values = {name: getattr(self, name) for name in fields}
        return {
            name: value
            for name, value in values.items()
            if value is not None and name not in ("recipe", "factor")
        }


@dataclass(frozen=True)
class SetSettings(ObserverSettings):
    """A distilled set, whoever made it."""

    set: Annotated[marks.Positional[Path], marks.arg(metavar="SET")]
    """The distilled set: a folder of ours, a folder of class folders, a .pt file of [images,
    labels] as DC, IDC, DREAM and MTT write, or DD-Ranking's folder."""
    _: dataclasses.KW_ONLY
    image_mean: tuple[float, ...] | None = None
    """What the images of a .pt file were normalised with, where they are; a number a channel."""
    image_std: tuple[float, ...] | None = None
    """Likewise."""
    classes: Path | None = None
    """Text file that names the classes of a set made by another tool, one a line in the order of
    their numbers or, by natural order, of their folders."""
    observer_arch: str | None = None
    """Architecture of the observer; read from the weights file where it is written there
    or its shapes show it."""
    device: str = "auto"
    """Where networks run and are trained: auto (a GPU that this build can use, else the CPU), cpu,
    cuda, cuda:1. Random draws are the same on every device."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SetSettings, RecipeSettings):
    """Settings of `pydream.evaluate.evaluate_set`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    observer: str | None = None
    """Weights of the observer that labels the images (.safetensors, .pt, .pth); needed for online
    labels and for coresets."""
    students: tuple[str, ...] = ()
    """Architectures to train, e.g. convnet3 resnet18-modified timm/NAME, with blanks or commas
    between; by default the observer's."""
    labels: tuple[LabelKind, ...] = ("online",)
    """Where targets come from: the observer at every step, what `pydream relabel` stored, the soft
    labels that came with a set made by another tool, or the classes; a row of the result for
    each."""
    source: str | None = None
    """Real images with a test split; by default what the set was distilled from."""
    seeds: tuple[int, ...] = (0,)
    """One student is trained from each."""
    baselines: tuple[Baseline, ...] = ()
    """Also train on real images: as many of each class drawn at random, or chosen by herding or
    k-centre on the observer's features; or on all there are."""
    full_steps: int | None = None
    """Steps on all images, rounded to whole epochs, at least one; by default as many as on the
    set."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic; auto takes bfloat16 where the processor or the GPU has it."""
    eval_every: int | None = None
    """Epochs between measurements on the test images; by default a tenth of the epochs."""
    out: Path | None = None
    """Folder for the results, each in a file of its own; by default results in the set's, or beside
    a set that is not ours."""
    exif: Literal["ignore", "apply"] | None = None
    """Whether real images are turned and mirrored as their EXIF asks; by default as they were when
    the set was distilled."""
    allow_skipped: float = 0.01
    """Share of the real images that may be unreadable before the run is refused."""
    resume: bool = False
    """Take students that an evaluation with the same settings has finished before."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Threads that decode images; does not change the result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "classes", "observer", "source", "out")
        names = [name for each in self.students for name in each.split(",") if name]
        object.__setattr__(self, "students", tuple(names))
        _check_seeds(self.seeds)
        if not self.labels:
            raise PydreamError("labels must be online, stored, own or hard, got none")
        for name in ("students", "labels", "baselines"):
            values = getattr(self, name)
            if len({*values}) < len(values):
                raise PydreamError(f"{name} must differ, got {' '.join(values)}")
        if not 0 <= self.allow_skipped <= 1:
            raise PydreamError(f"allow_skipped must be 0 to 1, got {self.allow_skipped}")
        for name in ("eval_every", "workers", "full_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PydreamError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class RelabelConfig(SetSettings, RecipeSettings):
    """Settings of `pydream.evaluate.relabel`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    observer: str
    """Weights of the observer that labels the images (.safetensors, .pt, .pth)."""
    source: str | None = None
    """Real images whose class names serve for a set that only numbers its classes."""
    student: str | None = None
    """Architecture that will be trained, where the recipe's batch size depends on it; by default
    the observer's."""
    seeds: tuple[int, ...] = (0,)
    """Labels are stored for students trained from each."""
    every: int = 1
    """Epochs that share views and labels: 10 takes a tenth of the bytes."""
    top_k: int | None = None
    """Keep this many classes of each label; the others share what is left evenly."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the observer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "classes", "observer", "source")
        _check_seeds(self.seeds)
        for name in ("every", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PydreamError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class InspectConfig(SetSettings):
    """What `pydream inspect` shows of a set.

    Raises
    ------
    PydreamError
        If settings exclude each other.
    """

    observer: str | None = None
    """Weights of a classifier of these classes, to measure realism and diversity with."""
    source: str | None = None
    """Real images to compare with, for example those that the set was distilled from."""
    most_real: int = 100
    """Real samples of each class, at most, that are to be covered."""
    per_class: bool = False
    """Show the scores of every class."""
    image: str | None = None
    """Say only which source images this distilled image was made of: CLASS/INDEX, from 0."""
    report: Path | None = None
    """Also write a page of the set, with its measures, to this new file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "classes", "observer", "source", "report")
        if self.image is not None and (self.observer or self.source or self.report):
            raise PydreamError("--image goes without --observer, --source and --report")
        if self.most_real < 1:
            raise PydreamError(f"most_real must be at least 1, got {self.most_real}")


@dataclass(frozen=True)
class ExportConfig(ObserverSettings):
    """Settings of `pydream.evaluate.export_set`.

    Raises
    ------
    PydreamError
        If the layout needs an observer and none is given, or takes none.
    """

    set: Annotated[marks.Positional[Path], marks.arg(metavar="SET")]
    """Folder of the distilled set."""
    to: Layout
    """tensors: images.pt with [images, labels], as DC, IDC and DREAM have it; rded: class folders
    as RDED's code writes them; ddranking: DD-Ranking's tensors, folders, teacher and settings."""
    out: Path
    """Folder to make."""
    observer: str | None = None
    """Weights of the observer that gives soft labels (.safetensors, .pt, .pth)."""
    observer_arch: str | None = None
    """Architecture of the observer; read from the weights file where it is written there
    or its shapes show it."""
    device: str = "auto"
    """Where the observer runs: auto (a GPU that this build can use, else the CPU), cpu, cuda,
    cuda:1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "out", "observer")
        if self.to == "ddranking" and self.observer is None:
            raise PydreamError(
                "ddranking needs soft labels and a teacher: give its weights with --observer"
            )
        if self.to == "rded" and self.observer is not None:
            raise PydreamError("rded writes images alone: leave out --observer")


def _check_seeds(seeds: tuple[int, ...]) -> None:
    if not seeds:
        raise PydreamError("seeds must hold at least one number")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise PydreamError(f"seeds must be 0 to 2**63 - 1, got {seed}")
    if len({*seeds}) < len(seeds):
        raise PydreamError(f"seeds must differ, got {' '.join(map(str, seeds))}")
