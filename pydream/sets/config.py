"""Settings of what opens or exports a distilled set: shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydream import marks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.models.config import ObserverSettings

Layout: TypeAlias = Literal["tensors", "rded", "ddranking"]
"""Whose files are written."""


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
