"""Which implementation runs, and what kernels report of values."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import devices
import pytest
import torch

from pydream import _C, ops
from pydream.ops import _dispatch

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def gpu_of_tomorrow(monkeypatch):
    """One that this build, for CUDA 13.1, has no code for; returns what its module says."""
    if devices.DEVICE == "cuda-on-cpu":
        pytest.skip("about the launches on a GPU")
    kernels = SimpleNamespace(
        carries=lambda index: False, driver_version=lambda: 13000, runtime_version=lambda: 13010
    )
    build = SimpleNamespace(cuda_architectures="80-real", cuda=kernels)
    monkeypatch.setattr(_dispatch, "_C", build)
    monkeypatch.setattr(_dispatch, "_reports", {})
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of tomorrow")
    return kernels


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


def test_a_gpu_that_the_build_has_no_code_for(gpu_of_tomorrow):
    words = r"80-real, none of which runs on GPU of tomorrow .*PYDREAM_CUDA_ARCHS=120$"
    with pytest.raises(RuntimeError, match=words):
        _dispatch.launch_on(DEVICE)


def test_a_driver_that_is_too_old_is_blamed_first(gpu_of_tomorrow):
    gpu_of_tomorrow.driver_version = lambda: 12080
    with pytest.raises(
        RuntimeError,
        match=r"for CUDA 13\.1, and the driver of GPU of tomorrow for CUDA 12\.8: install a driver "
        r"for CUDA 13\.0 or newer, or .* the nvcc of CUDA 12$",
    ):
        _dispatch.launch_on(DEVICE)


def test_kernels_that_still_count_are_waited_for(gpu_of_tomorrow, monkeypatch):
    faults = _dispatch.no_faults(pin=False)
    faults[1] = torch.tensor([1, 9])

    def synchronize(device):
        faults[1] = torch.tensor([2, 7])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    _dispatch._reports[0] = faults
    with pytest.raises(ValueError, match=r"^boxes\[7\] is not inside its image"):
        _dispatch.launch_on(DEVICE)
    assert faults.equal(_dispatch.no_faults(pin=False))


def test_threads_that_come_first_together_share_one_report(gpu_of_tomorrow, monkeypatch):
    gpu_of_tomorrow.carries = lambda index: True
    made = []

    def slowly(*, pin):
        made.append(pin)
        time.sleep(0.05)  # all threads are inside by then
        return torch.zeros(1)

    monkeypatch.setattr(_dispatch, "no_faults", slowly)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: _dispatch._faults(0), range(8)))
    assert made == [True]
    assert all(each is found[0] for each in found)
