"""Tensors in the form that the kernels take: plain tuples, since C++ does not know torch."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from pydream import _C

# Address, dtype, shape and strides; a contiguous tensor has no strides.
View: TypeAlias = (
    tuple[int, int, tuple[int, ...], tuple[int, ...]] | tuple[int, int, tuple[int, ...]]
)

DTYPES: dict[torch.dtype, int] = {
    getattr(torch, name): number for number, name in enumerate(_C.dtypes)
}
"""The number of each dtype that the kernels know (csrc/common/view.h)."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of the kernels for floating-point values."""

MOST_DIMENSIONS = 5


def view(tensor: Tensor) -> View:
    """Describe a tensor, which must stay alive until the kernel has been called."""
    return tensor.data_ptr(), DTYPES[tensor.dtype], tensor.shape, tensor.stride()


def view_or_none(tensor: Tensor | None) -> View | None:
    return None if tensor is None else view(tensor)


def contiguous_view(tensor: Tensor) -> View:
    """Describe a contiguous tensor in two thirds of the time, for lists of many small ones."""
    return tensor.data_ptr(), DTYPES[tensor.dtype], tensor.shape
