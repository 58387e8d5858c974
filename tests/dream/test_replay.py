from __future__ import annotations

import pytest
import torch

from pydream.dream.replay import Replayed
from pydream.streams import capture


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_that_cannot_be_captured_runs_without_a_graph_on_the_same_stream() -> None:
    state = torch.zeros(3, device="cuda")

    def step(inputs: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        (factor,) = inputs
        assert factor is not None
        state.add_(float(factor))  # waits, which a capture forbids
        return state.sum()

    replayed = Replayed(step, [state])
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="matching runs without a CUDA graph"):
        result = replayed((torch.tensor(2.0, device="cuda"),))
    assert torch.cuda.current_stream() == stream
    assert float(result) == 6
    assert float(replayed((torch.tensor(1.0, device="cuda"),))) == 9
    graph, total = capture(state.sum, state.device)  # one that can be made
    graph.replay()
    assert float(total) == 9


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_step_is_captured_on_the_device_of_its_state() -> None:
    state = torch.zeros(3, device="cuda:1")

    def step(inputs: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        (factor,) = inputs
        assert factor is not None
        state.add_(factor)
        return state.sum()

    replayed = Replayed(step, [state])
    for number in (1, 2, 3):
        assert float(replayed((torch.ones((), device="cuda:1"),))) == 3 * number
    assert torch.cuda.current_device() == 0
