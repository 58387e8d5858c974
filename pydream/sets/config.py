"""Settings for opening or exporting a distilled set, shared by the API and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydream import checks, marks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.models.config import ObserverSettings

Layout: TypeAlias = Literal[
    "tensors",
    "dc",
    "mtt",
    "rded",
    "patches",
    "cim",
    "ddranking",
    "parquet",
    "rethinkdc",
    "webdataset",
]
"""Layout to write, named after the tool that reads it."""


@dataclass(frozen=True)
class SetSettings(ObserverSettings):
    """A distilled set, from pydream or another tool, and the settings for reading it."""

    set: Annotated[marks.Positional[Path], marks.arg(metavar="SET")]
    """Distilled set: a folder that pydream wrote, a folder of class folders or of parquet files, a
    .pt file of [images, labels] as DC, IDC, DREAM and MTT write it, or a folder of DD-Ranking."""
    _: dataclasses.KW_ONLY
    image_mean: tuple[float, ...] | None = None
    """Mean that the images of a .pt file were normalised with, one number per channel. By default
    they are taken to be unnormalised."""
    image_std: tuple[float, ...] | None = None
    """Standard deviation that the images of a .pt file were normalised with, one number per
    channel. By default they are taken to be unnormalised."""
    classes: Path | None = None
    """Text file that names the classes of a set made by another tool, one per line, in the order of
    their numbers or, in natural order, of their folders."""
    observer_arch: str | None = None
    """Architecture of the observer. By default it is read from the weights file or inferred from
    the shapes of the weights."""
    device: str = "auto"
    """Device that runs and trains networks: auto (a GPU that this build can use, else the CPU),
    cpu, cuda, cuda:1, or cuda:all for a process on each GPU. Random draws are the same on every
    device."""


@dataclass(frozen=True)
class ExportConfig(ObserverSettings):
    """Settings of `pydream.sets.export_set`.

    Raises
    ------
    PydreamError
        If the layout needs an observer but has none, or does not use one.
    """

    set: Annotated[marks.Positional[Path], marks.arg(metavar="SET")]
    """Folder of the distilled set."""
    to: Layout
    """Layout to write: tensors is images.pt with [images, labels] as in IDC and DREAM; dc is the
    file of results of DC, DSA and DM, and mtt the two files of MTT, with normalised images; rded is
    class folders as RDED's code writes them; patches is the JPEG files that CV-DD, SRe²L++ and
    FADRM begin from; cim is the data.pt of CIM; ddranking is DD-Ranking's tensors, folders, teacher
    and settings; parquet is files and a card as the Hugging Face Hub has them; rethinkdc is the
    same with the columns of that package; webdataset is shards of tar files."""
    out: Path
    """New folder for the exported set."""
    observer: str | None = None
    """Weights of the observer that gives soft labels (.safetensors, .pt or .pth); only for
    ddranking and tensors, and required for ddranking."""
    quality: int | None = None
    """Quality of JPEG files, 1 to 100; only for patches. By default 95, and JPEG files of the set
    are copied as they are."""
    observer_arch: str | None = None
    """Architecture of the observer. By default it is read from the weights file or inferred from
    the shapes of the weights."""
    device: str = "auto"
    """Device that runs the observer: auto (a GPU that this build can use, else the CPU), cpu, cuda
    or cuda:1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "out", "observer")
        if self.to == "ddranking" and self.observer is None:
            raise PydreamError(
                "ddranking needs soft labels and a teacher: give its weights with --observer"
            )
        if self.to not in ("ddranking", "tensors") and self.observer is not None:
            raise PydreamError(f"{self.to} holds images and classes alone: leave out --observer")
        checks.between(1, 100, quality=self.quality)
        if self.to != "patches" and self.quality is not None:
            raise PydreamError(f"{self.to} keeps images as they are: leave out --quality")


@dataclass(frozen=True)
class MergeConfig:
    """Settings of `pydream.merging.merge`.

    Raises
    ------
    PydreamError
        If there are no parts.
    """

    out: Annotated[marks.Positional[Path], marks.arg(metavar="SET")]
    """Folder for the distilled set, which must not exist."""
    parts: Annotated[marks.Positional[tuple[Path, ...]], marks.arg(metavar="PART")]
    """Folders that the shards had as --out. Together they hold every class once."""

    def __post_init__(self) -> None:
        expand_settings(self, "out", "parts")
        if not self.parts:
            raise PydreamError("name the parts to merge: what the shards had as --out")
