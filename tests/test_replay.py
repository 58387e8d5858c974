from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from played_graphs import play_captures

from pydream.replay import Replayed
from pydream.streams import capture


class Inputs(NamedTuple):
    factor: torch.Tensor
    extra: torch.Tensor | None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_moves_its_state_once_a_call(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    state = torch.zeros(3, device=device)

    def step(inputs: Inputs) -> torch.Tensor:
        assert inputs.extra is None
        state.add_(inputs.factor)
        return state.sum()

    replayed = Replayed(step, [state], state.device)
    total = 0.0
    for number in (1.0, 2.0, 5.0):
        total += number
        result = replayed(Inputs(torch.tensor(number, device=device), None))
        assert state.tolist() == [total] * 3
        assert float(result) == 3 * total


@pytest.mark.parametrize("requires_grad", [False, True])
def test_what_is_replayed_reads_the_inputs_of_each_call(
    monkeypatch: pytest.MonkeyPatch, requires_grad: bool
) -> None:
    """Played on the CPU: inputs are copied to where the graph reads, and the warm-up undone."""
    state = torch.zeros(3, requires_grad=requires_grad)
    structures = set()

    @torch.no_grad()
    def step(inputs: Inputs) -> torch.Tensor:
        structures.add((type(inputs), inputs.extra))
        state.add_(inputs.factor)
        return state.sum()

    graphs = play_captures(monkeypatch)
    replayed = Replayed(step, [state], state.device)
    given = [torch.tensor(number) for number in (1.0, 2.0, 5.0)]
    results = [replayed(Inputs(number, None)) for number in given]
    assert [float(result) for result in results] == [3.0, 9.0, 24.0]
    assert state.tolist() == [8.0] * 3
    assert [float(number) for number in given] == [1.0, 2.0, 5.0]
    assert structures == {(Inputs, None)}
    assert len(graphs) == 1


def test_a_step_is_captured_before_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.zeros(3)
    graphs = play_captures(monkeypatch)
    replayed = Replayed[torch.Tensor](
        lambda factor: state.add_(factor).sum(), [state], state.device
    )
    replayed.prepare(lambda: torch.tensor(7.0))
    assert len(graphs) == 1
    assert state.tolist() == [0.0] * 3
    assert float(replayed(torch.tensor(2.0))) == 6
    assert len(graphs) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_that_cannot_be_captured_runs_without_a_graph_on_the_same_stream() -> None:
    state = torch.zeros(3, device="cuda")

    def step(factor: torch.Tensor) -> torch.Tensor:
        state.add_(float(factor))  # waits, which a capture forbids
        return state.sum()

    replayed = Replayed(step, [state], state.device)
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="the steps run without a CUDA graph"):
        result = replayed(torch.tensor(2.0, device="cuda"))
    assert torch.cuda.current_stream() == stream
    assert float(result) == 6
    assert float(replayed(torch.tensor(1.0, device="cuda"))) == 9
    graph, total = capture(state.sum, state.device)  # one that can be made
    graph.replay()
    assert float(total) == 9


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_step_is_captured_on_the_device_of_its_state() -> None:
    state = torch.zeros(3, device="cuda:1")

    def step(factor: torch.Tensor) -> torch.Tensor:
        state.add_(factor)
        return state.sum()

    replayed = Replayed(step, [state], state.device)
    for number in (1, 2, 3):
        assert float(replayed(torch.ones((), device="cuda:1"))) == 3 * number
    assert torch.cuda.current_device() == 0
