"""Which implementation runs: the compiled kernel on the CPU, the reference elsewhere."""

from __future__ import annotations

import functools
import warnings

import torch


def warn_reference_once(device: torch.device) -> None:
    """Say once per device type that no kernel was built for it and PyTorch does the work."""
    _warn(device.type)


@functools.cache
def _warn(device_type: str) -> None:
    how = (
        "install pydream from source where nvcc is found, with PYDREAM_CUDA=on"
        if device_type == "cuda"
        else "move the tensors to the CPU"
    )
    warnings.warn(
        f"this build of pydream has no kernels for {device_type}: plain PyTorch runs instead, "
        f"with the same results but slower. For the kernels, {how}.",
        RuntimeWarning,
        stacklevel=2,
    )
