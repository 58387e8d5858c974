"""DREAM: distillation from representative real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.dream.config import CompareConfig, DreamConfig
from pydream.dream.experts_config import ExpertsConfig
from pydream.dream.recipes import PRESETS
from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.dream.compare import Comparison, compare
    from pydream.dream.distill import distill
    from pydream.dream.expert_training import train_experts
    from pydream.dream.experts import Experts
    from pydream.dream.sampler import RepresentativeSampler

__all__ = [
    "PRESETS",
    "CompareConfig",
    "Comparison",
    "DreamConfig",
    "Experts",
    "ExpertsConfig",
    "RepresentativeSampler",
    "compare",
    "distill",
    "train_experts",
]

lazy_members(
    __name__,
    {
        "Comparison": "pydream.dream.compare",
        "Experts": "pydream.dream.experts",
        "RepresentativeSampler": "pydream.dream.sampler",
        "compare": "pydream.dream.compare",
        "distill": "pydream.dream.distill",
        "train_experts": "pydream.dream.expert_training",
    },
)
