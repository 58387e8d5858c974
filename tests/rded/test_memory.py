"""The default of the memory budget, by the memory that a process may use."""

from __future__ import annotations

import pytest
import torch

from pydream import memory_limits
from pydream.rded.memory import MemoryShares, default_budget

GIB = 1 << 30
PHOTOGRAPH = 3 * 205_000  # bytes of a decoded photograph of ImageNet, on average
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("memory", "device", "megabytes"),
    [
        (GIB // 2, CPU, 256),
        (2 * GIB, CPU, 512),
        (24 * GIB, CPU, 1024),
        (24 * GIB, GPU, 6144),
        (128 * GIB, GPU, 8192),
        (None, GPU, 8192),
    ],
)
def test_the_budget_follows_the_memory(
    monkeypatch: pytest.MonkeyPatch, memory: int | None, device: torch.device, megabytes: int
) -> None:
    monkeypatch.setattr(memory_limits, "memory_limit", lambda: None)
    monkeypatch.setattr(memory_limits, "physical_memory", lambda: memory)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_budget(device) == megabytes


def test_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits, "memory_limit", lambda: 64 * GIB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert default_budget(GPU) == 2048


def test_a_batch_keeps_its_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fill whole passes of an observer: 64 images with five crops each."""
    monkeypatch.setattr("pydream.rded.memory.usable_memory", lambda: 16 * GIB)
    for device in (CPU, GPU):
        assert MemoryShares.of(None, device).images >= 64 * PHOTOGRAPH
    assert MemoryShares.of(256, CPU).images < 64 * PHOTOGRAPH
