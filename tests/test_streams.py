"""Whether a stream is being captured, as asked for the device of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
