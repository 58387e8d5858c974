"""What an evaluation is told: shared by the API and the command line."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydream import marks
from pydream.errors import PydreamError
from pydream.evaluate.recipe import Mix

# The fields that take the place of a recipe's.
_OVERRIDES = (
    "epochs",
    "batch_size",
    "learning_rate",
    "betas",
    "weight_decay",
    "crop_scale",
    "crop_ratio",
    "horizontal_flip",
    "mix",
    "mix_concentration",
    "temperature",
)


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `pydream.evaluate.evaluate_set`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    set: Annotated[marks.Positional[Path], marks.arg(metavar="SET")]
    """Folder of the distilled set."""
    observer: str
    """Weights of the observer that labels the images (.safetensors, .pt, .pth)."""
    observer_arch: str | None = None
    """Architecture of the observer; read from the weights file where it is written there."""
    student: str | None = None
    """Architecture to train, e.g. convnet3, resnet18-modified, resnet18, timm/NAME; by default
    the observer's."""
    source: str | None = None
    """Real images with a test split; by default what the set was distilled from."""
    seeds: tuple[int, ...] = (0,)
    """One student is trained from each."""
    baselines: tuple[Literal["random"], ...] = ()
    """Also train on as many real images per class, drawn at random."""
    recipe: Literal["rded"] = "rded"
    """How students are trained; the following settings replace its numbers."""
    epochs: int | None = None
    """Passes over the set."""
    batch_size: int | None = None
    """Images of a step, at most."""
    learning_rate: float | None = None
    """Of the first epoch."""
    betas: tuple[float, float] | None = None
    """Of AdamW."""
    weight_decay: float | None = None
    """Of the weights with two dimensions or more."""
    factor: int | None = None
    """Patches per side that are shuffled; by default the set's. Baselines are not shuffled."""
    crop_scale: tuple[float, float] | None = None
    """Least and greatest share of an image's area in a crop; by default 1/factor and 1."""
    crop_ratio: tuple[float, float] | None = None
    """Least and greatest width by height of a crop."""
    horizontal_flip: bool | None = None
    """Whether half of the views are mirrored."""
    mix: Mix | None = None
    """How two images become one."""
    mix_concentration: float | None = None
    """Parameter of the beta distribution that an image's share is drawn from."""
    temperature: float | None = None
    """What logits are divided by before student and observer are compared."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic; auto takes bfloat16 where the processor or the GPU has it."""
    device: str = "cpu"
    """Where students are trained: cpu, cuda, cuda:1. The set, its labels, the augmentations and the
    test images are there too; what is drawn at random is the same on every device."""
    eval_every: int | None = None
    """Epochs between measurements on the test images; by default a tenth of the epochs."""
    out: Path | None = None
    """Folder for the results, each in a file of its own; by default results in the set's."""
    workers: int = dataclasses.field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Threads that decode images; does not change the result."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise PydreamError("seeds must hold at least one number")
        for seed in self.seeds:
            if not 0 <= seed < 2**63:
                raise PydreamError(f"seeds must be 0 to 2**63 - 1, got {seed}")
        if len({*self.seeds}) < len(self.seeds):
            raise PydreamError(f"seeds must differ, got {' '.join(map(str, self.seeds))}")
        for name in ("eval_every", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PydreamError(f"{name} must be at least 1, got {value}")

    def overrides(self) -> dict[str, Any]:
        """Return the settings that take the place of the recipe's."""
        return {name: getattr(self, name) for name in _OVERRIDES if getattr(self, name) is not None}
