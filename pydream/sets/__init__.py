"""Distilled sets: reading, writing, importing and exporting them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.lazy import lazy_members
from pydream.sets.config import ExportConfig

if TYPE_CHECKING:
    from pydream.sets.ddranking import label_robust_score
    from pydream.sets.distilled import DistilledSet, load_set
    from pydream.sets.export import ExportedSet, export_set
    from pydream.sets.imported import open_distilled
    from pydream.sets.run import MadeSet

__all__ = [
    "DistilledSet",
    "ExportConfig",
    "ExportedSet",
    "MadeSet",
    "export_set",
    "label_robust_score",
    "load_set",
    "open_distilled",
]

lazy_members(
    __name__,
    {
        "DistilledSet": "pydream.sets.distilled",
        "ExportedSet": "pydream.sets.export",
        "MadeSet": "pydream.sets.run",
        "export_set": "pydream.sets.export",
        "label_robust_score": "pydream.sets.ddranking",
        "load_set": "pydream.sets.distilled",
        "open_distilled": "pydream.sets.imported",
    },
)
