"""What the stages of an RDED run share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydream.data import Source
from pydream.models import Observer
from pydream.ranks import Ranks
from pydream.rded.config import RdedConfig
from pydream.rded.memory import MemoryShares
from pydream.refinement.classes import unrefined_record
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch


@dataclass(frozen=True)
class RdedRun:
    """Everything that the stages of a run share.

    Attributes
    ----------
    config
        The settings, with their defaults filled in where the machine decides them.
    decode
        Decoder of JPEGs for scoring.
    memory
        Bytes of the memory budget for each part.
    source
        The real images.
    observers
        The observers, with their classes in the order of the source.
    side, factor
        Pixels and cells along each side of a distilled image.
    counts
        Number of distilled images of each class.
    writer
        Writer of the set.
    watch
        Stopwatch of the stages.
    ranks
        The processes that share the run.
    """

    config: RdedConfig
    decode: Literal["host", "device"]
    memory: MemoryShares
    source: Source
    observers: tuple[Observer, ...]
    side: int
    factor: int
    counts: tuple[int, ...]
    writer: SetWriter
    watch: Stopwatch
    ranks: Ranks

    @property
    def key_patches(self) -> list[int]:
        """Number of key patches of each class."""
        return [count * self.factor**2 for count in self.counts]

    @property
    def by_cells(self) -> bool:
        """Whether the images are made for students that see their cells."""
        method = self.config.method
        return self.factor > 1 and (method.cells == "matched" or method.refine > 0)

    def assembled(self, label: int) -> dict[str, Any] | None:
        """Return the record of a class whose patches have been tiled, or None."""
        kept = unrefined_record if self.config.method.refine else SetWriter.finished_class
        return kept(self.writer, label)
