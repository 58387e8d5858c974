from __future__ import annotations

import pytest
import torch

from pydream.dream.replay import Replayed


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_moves_its_state_once_a_call(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    state = torch.zeros(3, device=device)

    def step(inputs: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        factor, extra = inputs
        assert factor is not None
        assert extra is None
        state.add_(factor)
        return state.sum()

    replayed = Replayed(step, [state])
    total = 0.0
    for number in (1.0, 2.0, 5.0):
        total += number
        result = replayed((torch.tensor(number, device=device), None))
        assert state.tolist() == [total] * 3
        assert float(result) == 3 * total
