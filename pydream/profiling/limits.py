"""Peak rates of a device: memory bandwidth and matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Bytes per copy: far beyond the caches of any processor or GPU.
_COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}
# Side of the matrices, large enough for the product to dominate its launch.
_SIDE = {"cpu": 2048, "cuda": 8192}
_ROUNDS = 7


@dataclass(frozen=True)
class Limits:
    """Measured peak rates of a device.

    Attributes
    ----------
    copy_bytes
        Bytes per second, read and written, of a copy far larger than the caches.
    matrix_operations
        Operations per second of a product of square matrices; a multiplication and an addition
        count as two.
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
        """Return the least time of so much work (the roofline of Williams et al., 2009)."""
        return max(nbytes / self.copy_bytes, operations / self.matrix_operations)


def measure_limits(device: torch.device, dtype: torch.dtype = torch.float32) -> Limits:
    """Measure a device: the median of seven copies and of seven products; about a second.

    On a GPU, float32 means TF32 if PyTorch is allowed to use it, as for networks.
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
