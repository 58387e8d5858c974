"""Arithmetic on a GPU: float32 without TF32, and the same algorithms in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch.backends import cudnn

_Switch = tuple[Callable[[], Any], Callable[[Any], None]]  # reads it, and sets it


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Switch TF32 off during the block, in convolutions and in matrix products.

    By default PyTorch lets cuDNN round the inputs of a float32 convolution to the 10 bits of TF32's
    mantissa. The switches belong to the whole process, so other threads see them, too; the block
    restores them.
    """
    values: list[tuple[_Switch, Any]] = [
        (_attribute(cudnn, "allow_tf32"), False),
        ((torch.get_float32_matmul_precision, torch.set_float32_matmul_precision), "highest"),
    ]
    # PyTorch 2.9 added further switches, which override those above and are changed by them.
    if hasattr(cudnn, "conv"):
        for owner in (cudnn.conv, torch.backends.cuda.matmul):
            values.append((_attribute(owner, "fp32_precision"), "ieee"))
    with _set(values):
        yield


@contextmanager
def repeatable_arithmetic_of(precision: str) -> Iterator[None]:
    """Make cuDNN choose the same deterministic algorithms in every run; as `arithmetic_of`, too.

    The switches belong to the whole process, so other threads see them, too; the block restores
    them. Whether cuDNN is used at all does not change. PyTorch's own kernels are not switched:
    `torch.use_deterministic_algorithms` lists those that sum in no fixed order on a GPU.
    """
    # Benchmark mode chooses by time, which varies.
    values = [
        (_attribute(cudnn, "deterministic"), True),
        (_attribute(cudnn, "benchmark"), False),
    ]
    with _set(values), arithmetic_of(precision):
        yield


def repeatable_float32() -> AbstractContextManager[None]:
    """Return `repeatable_arithmetic_of` float32."""
    return repeatable_arithmetic_of("float32")


def arithmetic_of(precision: str) -> AbstractContextManager[None]:
    """Return `ieee_float32` if the precision is float32, else an empty context."""
    return ieee_float32() if precision == "float32" else nullcontext()


def _attribute(owner: Any, name: str) -> _Switch:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


@contextmanager
def _set(values: list[tuple[_Switch, Any]]) -> Iterator[None]:
    """Set switches during the block, in order; skip those that PyTorch refuses to read.

    PyTorch raises RuntimeError when an old switch is read after a program has set the 2.9 switches
    to a state that the old ones cannot express. The newer ones then decide.
    """
    before: list[tuple[_Switch, Any]] = []
    for switch, _ in values:
        with suppress(RuntimeError):
            before.append((switch, switch[0]()))
    readable = [switch for switch, _ in before]
    try:
        for switch, value in values:
            if switch in readable:
                switch[1](value)
        yield
    finally:
        for switch, value in before:
            switch[1](value)
