"""The same test bodies on every device.

PYDREAM_TEST_DEVICE says where the ops of a test run: ``cpu``, ``cuda``, or ``cuda-on-cpu``, the
CUDA kernels executed by the module that PYDREAM_CUDA_ON_CPU names (tests/cuda_on_cpu). A test
calls the public ops with tensors of the CPU; on ``cuda`` they are moved there as they lie in
memory, and the results moved back.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pydream import ops
from pydream.ops import _dispatch
from pydream.ops._view import DTYPES, View

DEVICE = os.environ.get("PYDREAM_TEST_DEVICE", "cpu")
OPS = (
    "crop_resize",
    "realism_scores",
    "select_key_patches",
    "key_patches",
    "collage",
    "matched_cells",
    "kmeans",
    "nearest_samples",
    "representatives",
    "diff_augment",
)
# Before a test of another device replaces them.
_PUBLIC: dict[str, Callable[..., Any]] = {name: getattr(ops, name) for name in ops.__all__}
# For tests that say nothing of the kernels, which are slow on fibers and under the sanitizers.
NOT_ON_FIBERS = pytest.mark.skipif(DEVICE == "cuda-on-cpu", reason="about what PyTorch does")
# For tests that call a kernel for CUDA themselves.
NOT_ON_CPU = pytest.mark.skipif(DEVICE == "cpu", reason="about the kernels for CUDA")
# How an error names the place of a test's tensors.
PLACE = "cuda:0" if DEVICE == "cuda" else "cpu"
# The property of a test that names a test of the ops which it has run with CUDA kernels.
RAN_ON_CPU = "ran with CUDA kernels on the CPU"
# Orders in which the threads of a block run there: of any two, each comes first in one of them.
ORDERS = ("forward", "backward")
# The order of tests that choose none.
ANY_ORDER = "shuffled"


def load_cuda_on_cpu(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("_cuda_on_cpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_cuda_on_cpu"] = module
    spec.loader.exec_module(module)
    return module


def run_cuda_on_cpu(patch: pytest.MonkeyPatch) -> Any:
    """Let the CUDA path of the ops take tensors of the CPU, with the kernels run there too."""
    module = load_cuda_on_cpu(os.environ["PYDREAM_CUDA_ON_CPU"])
    module.set_order(ANY_ORDER)
    faults = _dispatch.no_faults(pin=False)
    launch = _dispatch.Launch(module, faults.data_ptr(), 0, 0)

    def launch_on(device: torch.device) -> _dispatch.Launch | None:
        return launch if device.type == "cpu" else None

    def check_values() -> None:
        if module.any_fault(faults.data_ptr()):
            taken = _dispatch.no_faults(pin=False)
            module.take_faults(taken.data_ptr(), launch)
            _dispatch.raise_faults(taken, torch.device("cpu"))

    patch.setattr(_dispatch, "launch_on", launch_on)
    for name in OPS:
        patch.setattr(ops, name, _settled(getattr(ops, name), check_values))
    return module


def run_on_cuda(patch: pytest.MonkeyPatch) -> None:
    for name in OPS:
        patch.setattr(ops, name, _moved(getattr(ops, name)))


def _settled(op: Callable[..., Any], check_values: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(op)
    def run(*arguments: Any, **options: Any) -> Any:
        result = op(*arguments, **options)
        _settle(check_values)
        return result

    return run


def _settle(check_values: Callable[[], None]) -> None:
    """Raise what the op found, as if it had raised it itself."""
    try:
        check_values()
    except ValueError as error:
        raise ValueError(str(error).partition(" (found on")[0]) from error


def as_called(name: str) -> Callable[..., Any]:
    """Return an op as a user calls it: with tensors that lie where they should."""
    return _PUBLIC[name]


def place(value: Any) -> Any:
    """Put tensors, also those in lists and tuples, where the ops of this test run."""
    return _to_cuda(value) if DEVICE == "cuda" else value


def kernels() -> tuple[Any, _dispatch.Launch]:
    """Return the kernels for CUDA, and the launch that their calls take."""
    launch = _dispatch.launch_on(torch.device("cuda" if DEVICE == "cuda" else "cpu"))
    assert launch is not None
    return launch.module, launch


def without_memory(shape: tuple[int, ...], dtype: torch.dtype) -> View:
    """Describe a contiguous tensor of any size, for kernels that refuse it unread."""
    return 0, DTYPES[dtype], shape


def faulty_rows(*rows: int, more: bool = False, count: int | None = None) -> str:
    """Return a pattern for how an error names rows: all on the CPU, else the first."""
    many = len(rows) if count is None else count
    if many == 1:
        return f"in 1 row: {rows[0]}$"
    if DEVICE != "cpu":
        return f"in {many} rows, the first: {rows[0]}$"
    listed = ", ".join(map(str, rows)) + (r", \.\.\." if more else "")
    return f"in {many} rows: {listed}$"


def faulty_place(pattern: str) -> str:
    """Return the part of a pattern that every device's error has: the argument and its place."""
    if DEVICE == "cpu":
        return pattern
    place = re.search(r"at row \d+|(boxes|image_index)\\\[\d+\\\]", pattern)
    return pattern if place is None else place[0]


def _to_cuda(value: Any) -> Any:
    """Move tensors with their strides and offset, since these are what some tests are about."""
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cuda(item) for item in value)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.copy())
    if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
        return value
    storage = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage()).cuda()
    return storage.as_strided(value.shape, value.stride(), value.storage_offset())


def _moved(op: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(op)
    def run(*arguments: Any, **options: Any) -> Any:
        there = {name: _to_cuda(value) for name, value in options.items()}
        if isinstance(options.get("out"), np.ndarray):  # what no op may write to, on any device
            there["out"] = options["out"]
        result = op(*map(_to_cuda, arguments), **there)
        _settle(ops.check_values)
        if "out" in options:
            options["out"].copy_(there["out"])
            return options["out"]
        if isinstance(result, tuple):
            return type(result)(*(tensor.cpu() for tensor in result))
        return result.cpu()

    return run
