"""DREAM: distillation from representative real images."""

from __future__ import annotations

from pydream.dream.compare import CompareConfig, Comparison, compare
from pydream.dream.config import RECIPES, DreamConfig
from pydream.dream.distill import DreamResult, distill
from pydream.dream.sampler import RepresentativeSampler

__all__ = [
    "RECIPES",
    "CompareConfig",
    "Comparison",
    "DreamConfig",
    "DreamResult",
    "RepresentativeSampler",
    "compare",
    "distill",
]
