"""Limits of RDED's scoring, as a run on the CPU has them."""

from __future__ import annotations

import torch

from pydream.rded.memory import MemoryShares
from pydream.rded.scoring import ScoringLimits


def limits(*, batch_size: int = 1024, workers: int = 2, megabytes: int = 256) -> ScoringLimits:
    memory = MemoryShares.of(megabytes, torch.device("cpu"))
    return ScoringLimits(batch_size, "host", workers, memory)
