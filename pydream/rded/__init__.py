"""RDED: distillation by the most realistic patches of real images, without optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.lazy import lazy_members
from pydream.rded.config import RdedConfig

if TYPE_CHECKING:
    from pydream.rded.distill import distill
    from pydream.rded.prediction import Prediction, predict

__all__ = ["Prediction", "RdedConfig", "distill", "predict"]

lazy_members(
    __name__,
    {
        "Prediction": "pydream.rded.prediction",
        "distill": "pydream.rded.distill",
        "predict": "pydream.rded.prediction",
    },
)
