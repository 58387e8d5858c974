"""DREAM: distillation from representative real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.dream.config import CompareConfig, DreamConfig
from pydream.dream.recipes import PRESETS
from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.dream.compare import Comparison, compare
    from pydream.dream.distill import distill
    from pydream.dream.sampler import RepresentativeSampler

__all__ = [
    "PRESETS",
    "CompareConfig",
    "Comparison",
    "DreamConfig",
    "RepresentativeSampler",
    "compare",
    "distill",
]

lazy_members(
    __name__,
    {
        "Comparison": "pydream.dream.compare",
        "RepresentativeSampler": "pydream.dream.sampler",
        "compare": "pydream.dream.compare",
        "distill": "pydream.dream.distill",
    },
)
