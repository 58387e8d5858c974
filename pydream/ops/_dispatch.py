"""Which implementation of an op runs: the compiled one, or the plain-PyTorch reference."""

from __future__ import annotations

import functools
import warnings

import torch


@functools.cache
def warn_reference_once(device: torch.device) -> None:
    """Say once for each device that its tensors are worked on by the plain-PyTorch reference."""
    warnings.warn(
        f"pydream has no compiled kernels for {device.type} in this build: plain PyTorch runs "
        "instead, more slowly. For the CUDA kernels, install pydream where nvcc is found.",
        RuntimeWarning,
        stacklevel=2,
    )
