"""Captures of CUDA graphs, and copies: on a stand-in for a GPU's streams."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pydream import streams


def test_a_capture_is_asked_for_on_the_device_in_question(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [torch.device("cuda", 0)]

    @contextmanager
    def device(other: torch.device) -> Iterator[None]:
        current.append(other)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[-1].index == 1)
    assert streams.capturing(torch.device("cuda", 1))
    assert not streams.capturing(torch.device("cuda", 0))
    assert len(current) == 1


def test_nothing_is_captured_elsewhere_than_on_a_gpu() -> None:
    assert not streams.capturing(torch.device("cpu"))
    assert not streams.capturing(torch.device("meta"))


def test_a_tensor_arrives_as_it_is() -> None:
    tensor = torch.arange(6).view(2, 3).mT
    assert streams.to_device(tensor, torch.device("cpu")).equal(tensor)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What happens to the streams and the allocator of a GPU, which fails captures as PyTorch does.

    When a call waits within a capture, both the call and the end of the capture raise: the stream
    stays as it is, and the allocator goes on.
    """
    state = SimpleNamespace(
        stream="usual", recording=[], released=[], modes=[], streams=iter("abcdefgh")
    )
    state.numbers = SimpleNamespace(state="capturing", clone_state=lambda: "copy")
    state.numbers.graphsafe_set_state = partial(setattr, state.numbers, "state")

    @contextmanager
    def stream(chosen: Any) -> Iterator[None]:
        before, state.stream = state.stream, chosen
        try:
            yield
        finally:
            state.stream = before

    @contextmanager
    def graph(graph: object, *, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        state.modes.append(capture_error_mode)
        assert not state.recording  # else `empty_cache`, with which a capture begins, raises
        state.recording.append(pool)
        before, state.stream = state.stream, stream
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("the capture was invalidated") from error
        except ValueError:
            state.recording.remove(pool)
            state.stream = before
            raise
        state.recording.remove(pool)
        state.stream = before

    def end(device: int, pool: Any) -> None:
        if pool not in state.recording:
            raise RuntimeError("not recording")
        state.recording.remove(pool)

    def new_stream() -> Any:
        return SimpleNamespace(name=next(state.streams), wait_stream=lambda other: None)

    pools = iter(range(9))
    current = SimpleNamespace(wait_stream=lambda other: None)
    for name, replacement in {
        "device": lambda device: nullcontext(),
        "current_device": lambda: 0,
        "current_stream": lambda: current,
        "Stream": new_stream,
        "stream": stream,
        "graph": graph,
        "CUDAGraph": object,
        "default_generators": [state.numbers],
        "graph_pool_handle": lambda: (0, next(pools)),
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(
        torch._C, "_cuda_releasePool", lambda _, pool: state.released.append(pool), raising=False
    )
    return state


@pytest.mark.parametrize("error", [RuntimeError("waits"), ValueError("bad values")])
def test_a_failed_capture_leaves_the_stream_and_lets_the_next_begin(
    gpu: SimpleNamespace, error: Exception
) -> None:
    device, on = torch.device("cuda", 0), []

    def fails() -> None:
        on.append(gpu.stream)
        if gpu.recording:
            raise error

    with pytest.raises(type(error)):
        streams.capture(fails, device, warm_up=2)
    assert gpu.stream == "usual"
    assert [stream.name for stream in on] == ["a"] * 3
    assert gpu.numbers.state == "copy"
    assert gpu.released == ([(0, 0)] if isinstance(error, RuntimeError) else [])
    _, result = streams.capture(lambda: gpu.recording[:], device)
    assert result == [(0, 1)]
    assert gpu.modes == ["thread_local", "thread_local"]
    assert gpu.stream == "usual"
    assert gpu.recording == []


def test_the_collector_frees_nothing_within_a_capture(gpu: SimpleNamespace) -> None:
    freed: list[bool] = []
    enabled: list[bool] = []

    class Old:
        def __init__(self) -> None:
            self.itself = self  # left to the collector, as an older graph in a cycle is

        def __del__(self) -> None:
            freed.append(bool(gpu.recording))

    Old()
    streams.capture(lambda: enabled.append(gc.isenabled()), torch.device("cuda", 0))
    assert freed == [False]
    assert enabled == [True, False]  # to warm up, and in the capture
    assert gc.isenabled()
