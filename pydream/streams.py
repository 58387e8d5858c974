"""A GPU's streams: whether one is being captured in a CUDA graph, and copies that wait for none."""

from __future__ import annotations

import torch


def capturing(device: torch.device) -> bool:
    """Return whether a device's current stream is being captured in a CUDA graph.

    PyTorch only tells it of the current device, which need not be that of a tensor.
    """
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the CPU to a device; to a GPU through page-locked memory, in its stream."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
