"""Checks that all ops share; their errors name the caller's argument and the remedy."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

TensorLike: TypeAlias = Any
"""A torch tensor, or any array with DLPack (NumPy, CuPy, JAX)."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# What PyTorch says where a tensor is beyond memory, or beyond 64 bits.
_TOO_LARGE = re.compile(r"allocate|overflow|invalid size|too (large|big)|exceeds")
_QUOTED = 60
"""Largest number of letters of a value that an error quotes."""


def within_memory(op: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Make an op raise ValueError, with its arguments, where they ask for more memory than exists.

    Errors of a GPU's memory pass as they are: a caller can catch them, and try a smaller batch.
    """

    @functools.wraps(op)
    def checked(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return op(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or _TOO_LARGE.search(str(error))):
                raise
            given = inspect.signature(op).bind(*arguments, **options).arguments
            shown = ", ".join(f"{name}={_in_short(value)}" for name, value in given.items())
            raise ValueError(
                f"{op.__name__}({shown}) needs more memory than this machine has"
            ) from error

    return checked


def _in_short(value: Any) -> str:
    """Return a value in some twenty letters; of a tensor, its shape."""
    shape = getattr(value, "shape", None)
    return f"{tuple(shape)}" if isinstance(shape, tuple) else quoted(value, 20)


def quoted(value: Any, most: int = _QUOTED) -> str:
    """Return the repr of a value in one line of limited length, for an error message."""
    try:
        words = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4300 digits
        words = f"{type(value).__name__} of more than 4300 digits"
    return words if len(words) <= most else f"{words[: most - 3]}..."


def as_tensor(value: TensorLike, name: str) -> torch.Tensor:
    """Take a tensor or any DLPack object, sharing its memory.

    Raises
    ------
    TypeError
        If the value is neither, has no memory that a kernel can read (sparse, nested, meta), or has
        a memory layout that cannot be shared.
    """
    tensor = value if isinstance(value, torch.Tensor) else _shared(value, name)
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta:
        raise TypeError(f"{name} must be a dense tensor, {_what_it_is(tensor)}")
    return tensor


def _shared(value: Any, name: str) -> torch.Tensor:
    """Return a tensor on the memory of an array."""
    if isinstance(value, np.ndarray):
        reason = _why_not_shared(value)
        if reason is not None:
            raise TypeError(f"{name} must be {reason}")
        with warnings.catch_warnings():  # read-only arrays are fine: ops do not write inputs
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(value)
    if not hasattr(value, "__dlpack__"):
        raise TypeError(f"{name} must be a tensor or speak DLPack, got {type(value).__name__}")
    try:
        return from_dlpack(value)
    except Exception as error:  # any error of the other library
        raise TypeError(
            f"{name}: this {type(value).__name__} cannot be shared through DLPack as it is; "
            f"pass it as a contiguous array, or as a tensor"
        ) from error


def _why_not_shared(array: np.ndarray[Any, Any]) -> str | None:
    """Say what must change about an array if PyTorch cannot use its memory."""
    if isinstance(array, np.ma.MaskedArray):
        return "an array without a mask, got a masked array; pass its .filled(value)"
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16 or array.dtype == np.longdouble:
        return f"an array of numbers that PyTorch has a dtype for, got {array.dtype}"
    if not array.dtype.isnative:
        return (
            f"in the byte order of this machine, got {array.dtype.str}; pass "
            f"array.astype({array.dtype.newbyteorder('=').name!r})"
        )
    if any(stride < 0 for stride in array.strides):
        return "an array without negative strides; pass numpy.ascontiguousarray(array)"
    if any(stride % array.itemsize for stride in array.strides):
        return "an array whose strides are whole elements; pass numpy.ascontiguousarray(array)"
    return None


def _what_it_is(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        return "got a meta tensor, which has no values"
    if tensor.is_nested:
        return "got a nested tensor; pad it, or pass its parts one by one"
    kind = str(tensor.layout).removeprefix("torch._").removeprefix("torch.")
    return f"got layout {kind}; pass .to_dense()"


def check_no_gradient(tensor: torch.Tensor, name: str) -> None:
    """Raise ValueError if a gradient is recorded for an argument whose op has no derivative."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, and this op has no derivative: pass {name}.detach(), or "
            "call it under torch.no_grad()"
        )


def as_list(value: Any, name: str) -> list[Any]:
    """Return the items of a list or another sequence; TypeError for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a list or tuple, got {type(value).__name__}")
    return list(value)


def check_shape(tensor: torch.Tensor, name: str, shape: Sequence[int | str]) -> None:
    """Raise ValueError unless the shape fits; a word stands for a dimension of any size."""
    have = tensor.shape
    fits = len(have) == len(shape)
    if fits:
        for size, want in zip(have, shape, strict=True):
            if not isinstance(want, str) and size != want:
                fits = False
    if not fits:
        wanted = "(" + ", ".join(str(size) for size in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")


def check_dtype(tensor: torch.Tensor, name: str, *allowed: torch.dtype) -> None:
    """Raise TypeError unless the dtype is allowed."""
    if tensor.dtype not in allowed:
        words = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} must be {words}, got {str(tensor.dtype).removeprefix('torch.')}")


def check_device(tensor: torch.Tensor, name: str, device: torch.device, other: str) -> None:
    """Raise ValueError unless the tensor is on the device of another argument."""
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, but {other} is on {device}")


def check_at_least(value: Any, name: str, least: int) -> int:
    """Return the value as an int.

    Raises
    ------
    TypeError
        If the value is not an int.
    ValueError
        If the value is below the least allowed, or beyond 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {quoted(value)}")
    if value >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {quoted(value)}")
    return int(value) if isinstance(value, np.integer) else cast(int, value)


def check_seed(seed: Any) -> int:
    """Return the seed; raise unless it is an int in [0, 2^63)."""
    return check_at_least(seed, "seed", 0)


def check_pair(value: Any, name: str) -> list[int]:
    """Return height and width, each at least 1, from a pair or from one number for both."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        pair = list(value)
        if len(pair) != 2:
            raise ValueError(f"{name} must be a number or height and width, got {quoted(value)}")
    else:
        pair = [value, value]
    return [check_at_least(number, name, 1) for number in pair]


def check_number(value: Any, name: str) -> float:
    """Return a finite number; TypeError if it is not a number, ValueError if it is not finite."""
    kinds = (int, float, np.integer, np.floating, torch.SymInt, torch.SymFloat)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value) if isinstance(value, (np.integer, np.floating)) else cast(float, value)
    if not abs(number) <= sys.float_info.max:  # torch.compile cannot compile math.isfinite
        raise ValueError(f"{name} must be finite, got {quoted(value)}")
    # PyTorch takes no int beyond 64 bits.
    return float(number) if isinstance(number, int) else number


def check_numbers(value: Any, name: str) -> list[float]:
    """Return finite numbers from a list, a tuple, or a one-dimensional array or tensor."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        tensor = as_tensor(value, name)
        check_shape(tensor, name, ("numbers",))
        value = tensor.tolist()
    return [check_number(number, name) for number in as_list(value, name)]


def check_flag(value: Any, name: str) -> bool:
    """Return the value as a bool; TypeError if it is not one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return bool(value)


def check_choice(value: Any, name: str, known: Sequence[str]) -> None:
    """Raise unless the value is a known word: TypeError if it is not even a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(known)}, got {type(value).__name__}")
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {quoted(value)}")
