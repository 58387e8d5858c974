"""Which implementation runs, and what kernels report of values."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pydream import _C, ops
from pydream.ops import _dispatch

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def no_kernels_known():
    _dispatch._faults.cache_clear()
    yield
    _dispatch._faults.cache_clear()


def test_faults_are_raised_once_and_forgotten():
    faults = _dispatch.no_faults(pin=False)
    _dispatch._raise_faults(faults, DEVICE)
    faults[1] = torch.tensor([1, 7])
    with pytest.raises(ValueError, match=r"^boxes\[7\] is not inside its image \(found on cuda:0"):
        _dispatch._raise_faults(faults, DEVICE)
    _dispatch._raise_faults(faults, DEVICE)
    assert faults.equal(_dispatch.no_faults(pin=False))


def test_rows_are_counted():
    faults = _dispatch.no_faults(pin=False)
    faults[4] = torch.tensor([30, 10])
    with pytest.raises(ValueError, match=r"^logits hold NaN.* in 30 rows, the first: 10 "):
        _dispatch._raise_faults(faults, DEVICE)


def test_kernels_and_python_know_the_same_faults(kernels):
    compiled = kernels or getattr(_C, "cuda", None)
    if compiled is None:
        pytest.skip("built without CUDA")
    assert compiled.fault_kinds == len(_dispatch.no_faults(pin=False))


def test_a_build_without_cuda_has_no_kernels(monkeypatch):
    monkeypatch.setattr(_dispatch, "_C", SimpleNamespace(cuda_architectures=""))
    assert _dispatch.launch_on(DEVICE) is None
    ops.check_values(DEVICE)


def test_other_devices_have_no_cuda_kernels():
    if _dispatch.launch_on(torch.device("cpu")) is not None:
        pytest.skip("CUDA kernels stand in for those of the CPU")
    assert _dispatch.launch_on(torch.device("meta")) is None
    ops.check_values("cpu")


def test_a_gpu_that_the_build_has_no_code_for(monkeypatch, no_kernels_known):
    kernels = SimpleNamespace(carries=lambda index: False)
    monkeypatch.setattr(
        _dispatch, "_C", SimpleNamespace(cuda_architectures="80-real", cuda=kernels)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "GPU of tomorrow")
    with pytest.raises(
        RuntimeError,
        match=r"80-real, none of which runs on GPU of tomorrow .*PYDREAM_CUDA_ARCHS=120",
    ):
        _dispatch._faults(0)
