"""RDED: distillation by the most realistic patches of real images, without optimisation."""

from pydream.rded.config import RdedConfig
from pydream.rded.distill import RdedResult, distill

__all__ = ["RdedConfig", "RdedResult", "distill"]
