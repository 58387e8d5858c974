"""Tensors as the kernels take them: as plain tuples, since C++ does not know torch."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from pydream import _C

# Address, dtype, shape and strides; without strides of a contiguous tensor.
View: TypeAlias = (
    tuple[int, int, tuple[int, ...], tuple[int, ...]] | tuple[int, int, tuple[int, ...]]
)

DTYPES: dict[torch.dtype, int] = {
    getattr(torch, name): number for number, name in enumerate(_C.dtypes)
}
"""The number of each dtype that may cross the border (csrc/common/view.h)."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""What kernels for floating-point values take."""

MOST_DIMENSIONS = 5


def view(tensor: Tensor) -> View:
    """Describe a tensor, which must be kept alive until the kernel has been called."""
    return tensor.data_ptr(), DTYPES[tensor.dtype], tensor.shape, tensor.stride()


def view_or_none(tensor: Tensor | None) -> View | None:
    return None if tensor is None else view(tensor)


def contiguous_view(tensor: Tensor) -> View:
    """Describe a contiguous tensor in two thirds of the time, for lists of many small ones."""
    return tensor.data_ptr(), DTYPES[tensor.dtype], tensor.shape
