"""What an evaluation is told: shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydream import checks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.processors import usable_processors
from pydream.sets.config import SetSettings
from pydream.students.config import RecipeSettings

LabelKind: TypeAlias = Literal["online", "stored", "own", "hard"]
"""Where targets come from: the observer at every step, what `relabel` stored, the soft labels that
came with another's set, or the classes."""
Baseline: TypeAlias = Literal["random", "herding", "k-centre", "full"]
"""Real images: drawn at random, two coresets, all."""


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
        checks.seeds(self.seeds)
        if not self.labels:
            raise PydreamError("labels must be online, stored, own or hard, got none")
        checks.different(students=self.students, labels=self.labels, baselines=self.baselines)
        checks.share(allow_skipped=self.allow_skipped)
        checks.at_least(
            1, eval_every=self.eval_every, workers=self.workers, full_steps=self.full_steps
        )


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
        checks.seeds(self.seeds)
        checks.at_least(1, every=self.every, top_k=self.top_k)
