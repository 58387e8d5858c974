"""Settings of an evaluation, shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pydream import checks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.formatting import bytes_of, size_words
from pydream.processors import usable_processors
from pydream.sets.config import SetSettings
from pydream.students.config import Bits, RecipeName, RecipeSettings
from pydream.students.recipes import recipe_named

LabelKind: TypeAlias = Literal["online", "stored", "own", "hard", "published"]
"""Source of training targets: the observer at every step, the labels that `relabel` stored, soft
labels that came with a set of another tool, or the classes; or that of the recipe's authors."""
Baseline: TypeAlias = Literal[
    "random",
    "random-tiled",
    "herding",
    "herding-tiled",
    "k-centre",
    "k-centre-tiled",
    "full",
]
"""Real images to compare with: a random subset, two coresets, the same tiled, or all."""

_TILED = "-tiled"
_WITHIN = "stored@"
_LABELS = "online, stored, stored@SIZE, own, hard or published"


def is_tiled(baseline: str) -> bool:
    """Return whether a baseline's real images are tiled like the patches of a set."""
    return baseline.endswith(_TILED)


def rule_of(baseline: str) -> str:
    """Return the rule that chooses a baseline's images: the name of the untiled baseline."""
    return baseline.removesuffix(_TILED)


def is_stored(labels: str) -> bool:
    """Return whether labels are those that `relabel` stored, within a budget or without."""
    return labels == "stored" or labels.startswith(_WITHIN)


def is_of_set_alone(labels: str) -> bool:
    """Return whether labels exist for the images of a set alone, and not for baselines."""
    return labels == "own" or is_stored(labels)


def budget_of(labels: str) -> int | None:
    """Return the budget of stored labels in bytes; None for labels without one."""
    return bytes_of("stored", labels.removeprefix(_WITHIN)) if labels.startswith(_WITHIN) else None


def _known_labels(word: str) -> str:
    """Return a source of labels with its budget in the usual words.

    Raises
    ------
    PydreamError
        If there is no such source.
    """
    if word not in get_args(LabelKind) and not word.startswith(_WITHIN):
        raise PydreamError(f"labels must be {_LABELS}, got {word!r}")
    budget = budget_of(word)
    return word if budget is None else f"{_WITHIN}{size_words(budget)}"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SetSettings, RecipeSettings):
    """Settings of `pydream.evaluate.evaluate_set`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    observer: str | tuple[str, ...] | None = None
    """Weights of the observer that labels the images (.safetensors, .pt or .pth), or of several
    that label them together; required for online labels and for coresets, which take the first.
    --observer-arch and the other settings of an observer apply to each."""
    recipes: tuple[RecipeName, ...] = ()
    """Training recipes to compare in one table, in place of the single one of --recipe, which is
    the default."""
    students: tuple[str, ...] = ()
    """Architectures to train, for example convnet3 resnet18-modified timm/NAME, separated by spaces
    or commas. By default the observer's."""
    labels: tuple[str, ...] = ("online",)
    """Sources of training targets, separated by spaces or commas, one row of the result for each:
    the observer at every step (online), the labels stored by `pydream relabel` (stored; those of
    `--budget 300MB` are stored@300MB), soft labels that came with a set of another tool (own), the
    classes (hard), or what the recipe's authors take (published): online or hard."""
    source: str | None = None
    """Real images with a test split. By default those that the set was distilled from."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds, one student for each."""
    baselines: tuple[Baseline, ...] = ()
    """Real images to train on for comparison: as many of each class as the set has, drawn at random
    or chosen by herding or k-centre from the observer's features, or the full source. A tiled
    baseline (random-tiled) chooses factor² times as many by the same rule, and tiles them into as
    many images, which students see like those of the set."""
    zca: bool = False
    """Show students whitened images (ZCA, as MTT does on CIFAR), fitted on the training images of
    the source. Values of a .pt file beyond [0, 1] are taken to be whitened already, unless mean and
    std are given. A set that was made of whitened images is always seen so."""
    full_steps: int | None = None
    """Number of training steps on the full source, rounded to whole epochs but at least one. By
    default as many as on the set."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of students and observer; auto selects bfloat16 if the processor or GPU supports
    it natively."""
    eval_every: int | None = None
    """Number of epochs between measurements on the test images. By default from half to a tenth
    of the epochs, so that measurements take about a tenth of the time."""
    out: Path | None = None
    """Folder for the results, each in a file of its own. By default the folder results in the set,
    or beside a set that pydream did not write."""
    exif: Literal["ignore", "apply"] | None = None
    """Treatment of the EXIF orientation of real images: apply rotates and mirrors them accordingly,
    and ignore leaves them as stored. By default the same as when the set was distilled."""
    allow_skipped: float = 0.01
    """Largest share of the real images that may be unreadable; a run with more is refused."""
    resume: bool = False
    """Reuse students that an evaluation with the same settings has finished before."""
    data_parallel: bool = False
    """Train every student on all ranks that torchrun or srun has started, one student after
    another, in place of students of its own on each rank. The result is that of one process up to
    rounding."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Number of threads that decode images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "classes", "observer", "source", "out")
        object.__setattr__(self, "observer", _one_or_several(self.observer))
        if self.recipes and self.recipe != "rded":
            raise PydreamError("--recipes takes the place of --recipe: give one of them")
        for name in self.named_recipes:
            recipe_named(name)
        for field in ("students", "labels"):
            names = [name for words in getattr(self, field) for name in words.split(",") if name]
            object.__setattr__(self, field, tuple(names))
        checks.seeds(self.seeds)
        if not self.labels:
            raise PydreamError(f"labels must be {_LABELS}, got none")
        object.__setattr__(self, "labels", tuple(map(_known_labels, self.labels)))
        checks.different(students=self.students, labels=self.labels, baselines=self.baselines)
        checks.different(recipes=self.recipes)
        checks.share(allow_skipped=self.allow_skipped)
        checks.at_least(
            1, eval_every=self.eval_every, workers=self.workers, full_steps=self.full_steps
        )

    @property
    def observers(self) -> tuple[str, ...]:
        """The files of all observers."""
        return _files(self.observer)

    @property
    def named_recipes(self) -> tuple[RecipeName, ...]:
        """The recipes of the evaluation."""
        return self.recipes or (self.recipe,)

    def labels_of(self, recipe: RecipeName) -> tuple[str, ...]:
        """Return the sources of targets under a recipe."""
        published = recipe_named(recipe).labels
        kinds = [published if kind == "published" else kind for kind in self.labels]
        return tuple(dict.fromkeys(kinds))


@dataclass(frozen=True, kw_only=True)
class RelabelConfig(SetSettings, RecipeSettings):
    """Settings of `pydream.evaluate.relabel`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    observer: str | tuple[str, ...]
    """Weights of the observer that labels the images (.safetensors, .pt or .pth), or of several
    that label them together."""
    source: str | None = None
    """Real images whose class names are used for a set that only numbers its classes."""
    student: str | None = None
    """Architecture that will be trained, in case the recipe's batch size depends on it. By default
    the observer's."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds of the students that labels are stored for."""
    every: int | None = None
    """Number of consecutive epochs that share views and labels: 10 needs a tenth of the space. By
    default 1, or what the budget allows."""
    top_k: int | None = None
    """Number of classes kept in each label; the others share the remainder evenly. By default all
    are kept, or what the budget allows."""
    bits: Bits | None = None
    """Bits of each logit: 16 is a float16; 8 and 4 count steps of the row's own size. By default
    16, or what the budget allows."""
    hard_epochs: int = 0
    """Number of epochs in the middle that are trained on smoothed classes and need no stored
    labels; in HALD half of all."""
    budget: str | None = None
    """Largest size of the labels of one student, such as 300MB or 1.5GiB. Every, top-k and bits are
    then chosen to fit, unless they are given. By default there is no limit."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the observer; auto selects bfloat16 if the processor or GPU supports it
    natively."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "classes", "observer", "source")
        object.__setattr__(self, "observer", _one_or_several(self.observer))
        if self.observer is None:
            raise PydreamError("relabel: --observer needs a value; see `pydream relabel --help`")
        checks.seeds(self.seeds)
        checks.at_least(1, every=self.every, top_k=self.top_k)
        checks.at_least(0, hard_epochs=self.hard_epochs)
        if self.bits not in (None, *get_args(Bits)):
            raise PydreamError(f"bits must be 4, 8 or 16, got {self.bits}")
        if self.budget is not None:
            object.__setattr__(self, "budget", size_words(bytes_of("budget", self.budget)))

    @property
    def budget_bytes(self) -> int | None:
        """The budget as a number of bytes."""
        return None if self.budget is None else bytes_of("budget", self.budget)

    @property
    def observers(self) -> tuple[str, ...]:
        """The files of all observers."""
        return _files(self.observer)


def _one_or_several(observer: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Return one file as a str, and none as None."""
    files = _files(observer)
    checks.different(observer=files)
    return files if len(files) > 1 else next(iter(files), None)


def _files(observer: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if observer is None:
        return ()
    return (observer,) if isinstance(observer, str) else tuple(observer)
