"""Peak rates of a device: memory bandwidth and matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Copied at a time: far beyond a processor's or a card's caches.
_COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}
# Side of the matrices, so large that the product and not its start is measured.
_SIDE = {"cpu": 2048, "cuda": 8192}
_ROUNDS = 7


@dataclass(frozen=True)
class Limits:
    """Measured peak rates of a device.

    Attributes
    ----------
    copy_bytes
        A second, read and written, by a copy far larger than its caches.
    matrix_operations
        A second, by a product of square matrices; a multiplication and an addition are two.
    dtype
        Type of the matrices.
    threads
        Number of PyTorch's threads, on a CPU.
    """

    copy_bytes: float
    matrix_operations: float
    dtype: str
    threads: int

    def least_seconds(self, nbytes: int, operations: int) -> float:
        """Return how long so much work takes at least (the roofline of Williams et al., 2009)."""
        return max(nbytes / self.copy_bytes, operations / self.matrix_operations)


def measure_limits(device: torch.device, dtype: torch.dtype = torch.float32) -> Limits:
    """Measure a device: the middle of seven copies and of seven products; about a second.

    On a GPU float32 means TF32 where PyTorch is allowed to take it, as networks do.
    """
    size, side = _COPIED[device.type], _SIDE[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copied = _middle(lambda: target.copy_(source), device)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    multiplied = _middle(lambda: left @ right, device)
    return Limits(
        copy_bytes=2 * size / copied,
        matrix_operations=2 * side**3 / multiplied,
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def _middle(work: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of some calls."""

    def once() -> float:
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - begun

    once()
    return statistics.median(once() for _ in range(_ROUNDS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
