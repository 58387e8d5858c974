"""DREAM: distillation from representative real images."""

from __future__ import annotations

from pydream.dream.sampler import RepresentativeSampler

__all__ = ["RepresentativeSampler"]
