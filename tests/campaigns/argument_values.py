"""Values of arguments as descriptions that print well: tensors in all forms, and odd values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

VAST = 2**50
"""A dimension that no machine holds; a stride of 0 or a dimension of 0 makes it free."""
FORMS = (
    "plain",
    "offset",
    "permuted",
    "gaps",
    "rows apart",
    "expanded",
    "overlapping",
    "channels last",
    "array",
    "array, read only",
    "misaligned",
    "guest",
    "parameter",
    "negative bit",
)
"""How a tensor may lie in memory, or who may own it, without other values."""
REFUSED_FORMS = ("meta", "sparse", "nested", "reversed", "big-endian", "masked", "odd strides")
CONTENTS = ("normal", "whole", "zeros", "one NaN", "one inf", "one -inf", "large", "tiny", "ties")
FLOATS = ("float32", "float16", "bfloat16", "float64")
DTYPES = (*FLOATS, "uint8", "int32", "int64", "bool", "int16", "complex64", "float8_e4m3fn")


class Guest:
    """An array of another library: nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


@dataclass(frozen=True)
class Values:
    """A tensor, an array or a guest, as `make` builds it."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    form: str = "plain"
    content: str | tuple[int, ...] = "normal"  # or the numbers themselves
    below: int = 256  # for whole numbers
    seed: int = 0
    requires_grad: bool = False

    def make(self) -> Any:
        tensor = _in_memory(self._content(), self.form)
        if self.requires_grad and isinstance(tensor, torch.Tensor):
            return tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())
        return tensor

    def _content(self) -> torch.Tensor:
        dtype = getattr(torch, self.dtype)
        if any(size > 2**20 for size in self.shape):
            one = torch.zeros([1 if size > 2**20 else size for size in self.shape], dtype=dtype)
            return one.expand(self.shape)
        if not isinstance(self.content, str):
            return torch.tensor(self.content, dtype=torch.int64).to(dtype).reshape(self.shape)
        generator = torch.Generator().manual_seed(self.seed)
        if self.content == "zeros":
            return torch.zeros(self.shape, dtype=dtype)
        if self.content == "whole" or not (dtype.is_floating_point or dtype.is_complex):
            return torch.randint(0, self.below, self.shape, generator=generator).to(dtype)
        values = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        if self.content == "ties":
            values = values.round()
        values *= {"large": 1e30, "tiny": 1e-40}.get(self.content, 1.0)
        if self.content.startswith("one ") and values.numel():
            values.view(-1)[self.seed % values.numel()] = float(self.content.removeprefix("one "))
        return values.to(dtype)


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor's values in order: its memory, if they lie so, or a copy."""
    if tensor.numel() == 0:  # it may have strides that no view as bytes takes
        return torch.empty(0, dtype=torch.uint8)
    return tensor.contiguous().view(-1).view(torch.uint8)


def _in_memory(values: torch.Tensor, form: str) -> Any:
    """Return the values in another form; as they are where they cannot have it."""
    if max((values.numel(), *values.shape)) > 2**20 or not values.dim():
        return values.to("meta") if form == "meta" else values
    if form in _FORMS:
        return _FORMS[form](values)
    numpy_has_it = values.dtype not in (torch.bfloat16, torch.float8_e4m3fn)
    return _ARRAYS[form](values.numpy()) if form in _ARRAYS and numpy_has_it else values


def _filled(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Memory around a tensor, which no op may read or write: all ones in bits, NaN in floats."""
    count = math.prod(shape) * like.element_size()
    return torch.full((count,), 255, dtype=torch.uint8).view(like.dtype).view(shape)


def _offset(values: torch.Tensor) -> torch.Tensor:
    return _filled((values.numel() + 5,), values)[3:-2].copy_(values.flatten()).view(values.shape)


def _gaps(values: torch.Tensor) -> torch.Tensor:
    return _filled((*values.shape[:-1], 2 * values.shape[-1]), values)[..., ::2].copy_(values)


def _rows_apart(values: torch.Tensor) -> torch.Tensor:
    if values.dim() < 2:
        return _offset(values)
    # The last two dimensions are a row of an image; of a matrix, the last one is a row.
    at = -3 if values.dim() > 2 else -2
    shape = list(values.shape)
    shape[at + 1] += 3
    return _filled(tuple(shape), values).narrow(at + 1, 0, values.shape[at + 1]).copy_(values)


def _permuted(values: torch.Tensor) -> torch.Tensor:
    return values.transpose(0, -1).contiguous().transpose(0, -1)


def _overlapping(values: torch.Tensor) -> torch.Tensor:
    flat = values.flatten()
    return flat.as_strided(values.shape, (1,) * values.dim()) if len(flat) else values


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    four = values.dim() == 4
    return values.contiguous(memory_format=torch.channels_last) if four else _permuted(values)


def _misaligned(values: torch.Tensor) -> torch.Tensor:
    data = flat_bytes(values).numpy().tobytes()
    if not data:
        return values
    found = torch.frombuffer(
        bytearray(b"\xff" + data + b"\xff"), dtype=values.dtype, offset=1, count=values.numel()
    )
    return found.view(values.shape)


def _read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.setflags(write=False)
    return array


def _nested(values: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are a prototype
        return torch.nested.nested_tensor([values])


def _negative(values: torch.Tensor) -> torch.Tensor:
    numbers = [getattr(torch, name) for name in FLOATS]
    return cast(Any, torch)._neg_view(-values) if values.dtype in numbers else values


def _odd_strides(array: np.ndarray[Any, Any]) -> Any:
    pairs = np.zeros(array.shape, [("a", "u1"), ("b", array.dtype)])
    pairs["b"] = array
    return pairs["b"]


_FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "offset": _offset,
    "permuted": _permuted,
    "gaps": _gaps,
    "rows apart": _rows_apart,
    "expanded": lambda values: values[:1].expand(values.shape) if len(values) else values,
    "overlapping": _overlapping,
    "channels last": _channels_last,
    "misaligned": _misaligned,
    "guest": Guest,
    "parameter": lambda values: torch.nn.Parameter(values, requires_grad=False),
    "negative bit": _negative,
    "meta": lambda values: values.to("meta"),
    "sparse": lambda values: values.float().to_sparse(),
    "nested": _nested,
}
_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "array": lambda array: array,
    "array, read only": _read_only,
    "reversed": lambda array: array[::-1],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "masked": np.ma.array,
    "odd strides": _odd_strides,
}


@dataclass(frozen=True)
class Out:
    """Memory for a result: of its own, or within or beside the memory of another argument."""

    shape: tuple[int, ...]
    dtype: str
    kind: str  # "own", "channels last", "gaps", "expanded", "over images", "beside images", …
    requires_grad: bool = False

    def make(self, others: dict[str, Any]) -> Any:
        """Build it, and move the argument beside it, in `others`, to the same memory."""
        dtype = getattr(torch, self.dtype)
        own = torch.zeros(self.shape, dtype=dtype)
        place, _, name = self.kind.partition(" ")
        neighbour = others.get(name)
        movable = isinstance(neighbour, torch.Tensor) and neighbour.numel() <= 2**20
        if place in ("over", "beside") and movable:
            return self._together(place, name, own, others)
        made = _in_memory(own, self.kind)
        return made.requires_grad_() if self.requires_grad and dtype.is_floating_point else made

    def _together(
        self, place: str, name: str, own: torch.Tensor, others: dict[str, Any]
    ) -> torch.Tensor:
        neighbour = others[name]
        flat = flat_bytes(neighbour)
        most, first = flat.numel(), 0 if place == "over" else -(-flat.numel() // 16) * 16
        memory = torch.zeros(most + own.nbytes + 64, dtype=torch.uint8)
        memory[:most] = flat
        others[name] = memory[:most].view(neighbour.dtype).view(neighbour.shape)
        return memory[first : first + own.nbytes].view(own.dtype).view(own.shape)


@dataclass(frozen=True)
class Dtype:
    name: str

    def make(self) -> Any:
        return getattr(torch, self.name)


NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 37, 2**31 - 1, 2**31, 2**32, 2**40, 2**53 + 1, VAST, 2**62, 2**63 - 1),
    *(2**63, 2**64, 2**70, -(2**63), -(2**70), 10**400),
    *(0.0, -0.0, 0.5, 1.5, -1.0, 5e-324, 1e-300, 1e300, 1.7e308, math.inf, -math.inf, math.nan),
    *(True, None, "3", b"3", 1j, (), [], (3,), (2, 3), [3, 2], (1, 2, 3), (0, 3), (3, -1), {}),
    *((2.5, 3), (3, None), ("2", "3"), (VAST, 1), (1, VAST), (0.5, math.nan)),
)
"""What is given where a number is wanted."""
WORDS: tuple[Any, ...] = ("", "never", "k-means++ ", "a\nb", "\0", "é", None, 3, b"l1")


class Unshareable:
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("words of\nanother library")


ODD: dict[str, Callable[[], Any]] = {
    "an object": object,
    "5001 digits": lambda: 10**5000,
    "5001 digits below 0": lambda: -(10**5000),
    "a pair of 5001 digits": lambda: (10**5000, 3),
    "10,000 letters": lambda: "x" * 10_000,
    "10,000 numbers": lambda: [1.0] * 10_000,
    "a class": lambda: torch.Tensor,
    "a generator": lambda: (number for number in range(0)),
    "a range": lambda: range(3),
    "a dtype": lambda: torch.float64,
    "a string": lambda: "images",
    "lists of lists": lambda: [[1.0, 2.0], [3.0, 4.0]],
    "Nones": lambda: [None, None],
    "a list of an array": lambda: [np.zeros((2, 2, 3), np.uint8), torch.zeros(1)],
    "many tensors": lambda: [torch.zeros(30, 30)] * 30,
    "a tensor of one number": lambda: torch.tensor(3),
    "a tensor of two numbers": lambda: torch.tensor([2, 3]),
    "an array of numbers": lambda: np.array([[0.5, 1.0]] * 300),
    "a small integer of NumPy": lambda: np.int8(3),
    "an unsigned integer of NumPy": lambda: np.uint64(2**63),
    "a float of NumPy": lambda: np.float32(1.5),
    "NaN of NumPy": lambda: np.float64("nan"),
    "a bool of NumPy": lambda: np.bool_(True),
    "an array of objects": lambda: np.array([object()]),
    "an array of strings": lambda: np.array(["a"]),
    "unshareable": Unshareable,
    "nothing": lambda: torch.empty(0),
    "a device": lambda: torch.device("cpu"),
}


@dataclass(frozen=True)
class Odd:
    """A value of a wrong kind, by its name in `ODD`."""

    name: str

    def make(self) -> Any:
        return ODD[self.name]()
