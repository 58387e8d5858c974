"""CUDA graphs played on the CPU: a replay calls the step that was captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pydream.replay import Replayed


class PlayedGraph:
    """A graph that calls its step, which reads the tensors that it was captured with."""

    def __init__(self, step: Callable[[], torch.Tensor]) -> None:
        self.step, self.result = step, torch.empty(())

    def replay(self) -> None:
        found = self.step()
        self.result.resize_(found.shape).copy_(found)


def play_captures(monkeypatch: pytest.MonkeyPatch) -> list[PlayedGraph]:
    """Let every `Replayed` made from now on capture on the CPU; return its graphs as they come."""
    graphs: list[PlayedGraph] = []

    def played(step: Callable[[], torch.Tensor], device: torch.device, warm_up: int) -> Any:
        for _ in range(warm_up):
            step()
        graphs.append(PlayedGraph(step))
        return graphs[-1], graphs[-1].result

    made = Replayed.__init__

    def make(self: Replayed[Any], *arguments: Any) -> None:
        made(self, *arguments)
        self._captures = True

    monkeypatch.setattr("pydream.replay.capture", played)
    monkeypatch.setattr(Replayed, "__init__", make)
    return graphs
