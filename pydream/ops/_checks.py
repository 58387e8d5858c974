"""Checks that every op shares: what came in, said in the words of the caller's argument."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

TensorLike: TypeAlias = Any
"""A torch tensor, or anything that speaks DLPack (NumPy, CuPy, JAX)."""


def as_tensor(value: TensorLike, name: str) -> torch.Tensor:
    """Take a tensor or any DLPack object, sharing its memory.

    Raises
    ------
    TypeError
        If it is neither, or cannot be shared as it lies in memory.
    """
    if isinstance(value, torch.Tensor):
        return value
    try:
        if isinstance(value, np.ndarray):
            with warnings.catch_warnings():  # read-only arrays are fine: ops do not write inputs
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                return torch.from_numpy(value)
        if hasattr(value, "__dlpack__"):
            return from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name}: this {type(value).__name__} cannot be shared: {error}") from error
    raise TypeError(f"{name} must be a tensor or speak DLPack, got {type(value).__name__}")


def check_shape(tensor: torch.Tensor, name: str, shape: Sequence[int | str]) -> None:
    """Raise ValueError unless the shape fits; a word stands for a dimension of any size."""
    have = tensor.shape
    fits = len(have) == len(shape)
    if fits:
        for size, want in zip(have, shape, strict=True):
            if not isinstance(want, str) and size != want:
                fits = False
    if not fits:
        wanted = "(" + ", ".join(str(each) for each in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")


def check_dtype(tensor: torch.Tensor, name: str, *allowed: torch.dtype) -> None:
    """Raise TypeError unless the dtype is one of those allowed."""
    if tensor.dtype not in allowed:
        words = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} must be {words}, got {str(tensor.dtype).removeprefix('torch.')}")


def check_device(tensor: torch.Tensor, name: str, device: torch.device, other: str) -> None:
    """Raise ValueError unless the tensor lies on the device of another argument."""
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, but {other} is on {device}")


def check_at_least(value: int, name: str, least: int) -> None:
    """Raise TypeError unless the value is an int, ValueError if it is below the least allowed."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_seed(seed: int) -> None:
    """Raise unless the seed is an int in [0, 2^63)."""
    check_at_least(seed, "seed", 0)
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2^63, got {seed}")
