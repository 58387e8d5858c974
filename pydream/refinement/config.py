"""Settings of a refinement, shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydream import checks, marks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.models.config import ObserverSettings
from pydream.processors import usable_processors

Match: TypeAlias = Literal["features", "features+gradients"]

# Settings that change how a run proceeds, never its result.
_EXECUTION = ("set", "source", "out", "resume", "workers")


@dataclass(frozen=True, kw_only=True)
class RefinementSettings:
    """Settings that RDED with a refinement and the refinement of a set share."""

    layer: str | None = None
    """Layer whose features are matched: its name, or the number of a block, counted from 1. By
    default the middle block: 2 of ConvNet-3, 4 of ResNet-18."""
    learning_rate: float = 0.01
    """Learning rate of the refinement's AdamW, for pixels in [0, 1]."""

    match: Match = "features"
    """Quantities in which cells are matched to their anchors: features of the layer, cell by cell;
    with gradients, the mean features and the gradients of each class, too, as in DREAM+."""

    def __post_init__(self) -> None:
        checks.above_zero(learning_rate=self.learning_rate)
        if self.match not in get_args(Match):
            raise PydreamError(f"match must be one of {', '.join(get_args(Match))}: {self.match!r}")

    def refinement(self) -> dict[str, Any]:
        """Return these settings alone."""
        names = [setting.name for setting in dataclasses.fields(RefinementSettings)]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class RefineConfig(ObserverSettings, RefinementSettings):
    """Settings of `pydream.refinement.refine`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    set: Annotated[marks.Positional[Path], marks.arg(metavar="SET")]
    """Distilled set: a folder that pydream wrote, with its provenance."""
    observer: tuple[str, ...]
    """Weights of the observer whose features are matched (.safetensors, .pt or .pth). With several,
    the steps take turns."""
    observer_arch: str | None = None
    """Architecture of the observer. By default it is read from the weights file or inferred from
    the shapes of the weights."""
    source: str | None = None
    """Real images of the set's cells. By default those that the set was distilled from."""
    out: Path | None = None
    """New folder for the refined set, by default named after the set."""
    steps: int = 100
    """Number of steps."""
    seed: int = 0
    """Random seed of the augmentations. The same seed gives the same set, byte for byte."""
    device: str = "auto"
    """Device that refines: auto (a GPU that this build can use, else the CPU), cpu, cuda or cuda:1.
    Results differ in their last bits between devices."""
    workers: int = dataclasses.field(default_factory=usable_processors)
    """Number of threads that decode images."""
    resume: bool = False
    """Continue an interrupted run. The result is byte-identical to that of an uninterrupted one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        RefinementSettings.__post_init__(self)
        expand_settings(self, "set", "source", "out", "observer")
        if not self.observer:
            raise PydreamError("observer must name at least one file of weights")
        checks.different(observer=self.observer)
        checks.at_least(1, steps=self.steps, workers=self.workers)
        checks.seed(self.seed)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the bytes of the set, except the set and the weights."""
        settings = dataclasses.asdict(self)
        del settings["observer"]
        if self.match == "features":  # as in sets made before there was a choice
            del settings["match"]
        given = {name: value for name, value in settings.items() if value is not None}
        return {name: value for name, value in given.items() if name not in _EXECUTION}
