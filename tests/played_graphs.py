"""CUDA graphs played on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch


class PlayedGraph:
    """A graph that calls its step, which reads the tensors that it was captured with."""

    def __init__(self, step: Callable[[], torch.Tensor]) -> None:
        self.step, self.result = step, torch.empty(())

    def replay(self) -> None:
        self.result.copy_(self.step())
