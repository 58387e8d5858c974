"""Which implementation runs, and what kernels report of values."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NoReturn

import devices
import pytest
import torch

from pydream import _C, ops
from pydream.ops import _dispatch

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def gpu_of_tomorrow(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """One that this build, for CUDA 13.1, has no code for; returns what its module says."""
    if devices.DEVICE == "cuda-on-cpu":
        pytest.skip("about the launches on a GPU")
    kernels = SimpleNamespace(
        has_code_for=lambda index: False,
        driver_version=lambda: 13000,
        runtime_version=lambda: 13010,
    )
    build = SimpleNamespace(cuda_architectures="80-real", cuda=kernels)
    monkeypatch.setattr(_dispatch, "_C", build)
    monkeypatch.setattr(_dispatch, "_reports", {})
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of tomorrow")
    return kernels


@pytest.fixture
def compiled(kernels: Any) -> Any:
    """The entries of the CUDA kernels: those that run on the CPU, or of this build."""
    module = kernels or getattr(_C, "cuda", None)
    if module is None:
        pytest.skip("built without CUDA")
    return module


def test_faults_are_raised_with_their_place() -> None:
    faults = _dispatch.no_faults(pin=False)
    _dispatch.raise_faults(faults, DEVICE)
    faults[1] = torch.tensor([1, 7])
    with pytest.raises(ValueError, match=r"^boxes\[7\] is not inside its image \(found on cuda:0"):
        _dispatch.raise_faults(faults, DEVICE)


def test_rows_are_counted() -> None:
    faults = _dispatch.no_faults(pin=False)
    faults[4] = torch.tensor([30, 10])
    with pytest.raises(ValueError, match=r"^logits hold NaN.* in 30 rows, the first: 10 "):
        _dispatch.raise_faults(faults, DEVICE)


def test_a_count_whose_place_was_told_before_is_not_raised_again() -> None:
    faults = _dispatch.no_faults(pin=False)
    faults[4, 0] = 1
    _dispatch.raise_faults(faults, DEVICE)


@pytest.mark.parametrize("kind", range(len(_dispatch.no_faults(pin=False))))
def test_a_count_of_any_kind_is_seen(compiled: Any, kind: int) -> None:
    faults = _dispatch.no_faults(pin=False)
    assert not compiled.any_fault(faults.data_ptr())
    faults[kind, 1] = 3  # a place is written before it is counted
    assert not compiled.any_fault(faults.data_ptr())
    faults[kind, 0] = 2**40
    assert compiled.any_fault(faults.data_ptr())


def test_what_was_counted_is_taken_and_nothing_else(kernels: Any) -> None:
    if kernels is None:
        pytest.skip("about a kernel")
    faults, taken = (_dispatch.no_faults(pin=False) for _ in range(2))
    faults[1], faults[7] = torch.tensor([2, 9]), torch.tensor([5, 0])
    faults[3, 1] = 4  # of a kernel that has not counted it yet
    before = faults.clone()
    kernels.take_faults(taken.data_ptr(), _dispatch.Launch(kernels, faults.data_ptr(), 0, 0))
    before[3, 1] = -1
    assert taken.equal(before)
    left = _dispatch.no_faults(pin=False)
    left[3, 1] = 4
    assert faults.equal(left)


def test_kernels_and_python_know_the_same_faults(compiled: Any) -> None:
    assert compiled.fault_kinds == len(_dispatch.no_faults(pin=False))


def test_a_build_without_cuda_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_C", SimpleNamespace(cuda_architectures=""))
    assert _dispatch.launch_on(DEVICE) is None
    ops.check_values(DEVICE)


def test_other_devices_have_no_cuda_kernels() -> None:
    if _dispatch.launch_on(torch.device("cpu")) is not None:
        pytest.skip("CUDA kernels stand in for those of the CPU")
    assert _dispatch.launch_on(torch.device("meta")) is None
    ops.check_values("cpu")


def test_a_gpu_that_the_build_has_no_code_for(gpu_of_tomorrow: SimpleNamespace) -> None:
    words = r"80-real, none of which runs on GPU of tomorrow .*PYDREAM_CUDA_ARCHS=120$"
    with pytest.raises(RuntimeError, match=words):
        _dispatch.launch_on(DEVICE)


def test_a_driver_that_is_too_old_is_blamed_first(gpu_of_tomorrow: SimpleNamespace) -> None:
    gpu_of_tomorrow.driver_version = lambda: 12080
    with pytest.raises(
        RuntimeError,
        match=r"for CUDA 13\.1, and the driver of GPU of tomorrow for CUDA 12\.8: install a driver "
        r"for CUDA 13\.0 or newer, or .* the nvcc of CUDA 12$",
    ):
        _dispatch.launch_on(DEVICE)


def words(address: int) -> Any:
    """The counts and places that lie at an address."""
    return (ctypes.c_int64 * _dispatch.no_faults(pin=False).numel()).from_address(address)


@pytest.fixture
def counted(gpu_of_tomorrow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What kernels have counted on a GPU: a box, and another one by the time they have ended."""
    faults, unpinned = _dispatch.no_faults(pin=False), _dispatch.no_faults
    faults[1] = torch.tensor([1, 9])
    done: list[Any] = []

    def synchronize(device: torch.device) -> None:
        done.append("device")
        faults[1] = torch.tensor([2, 7])

    def take_faults(taken: int, launch: _dispatch.Launch) -> None:
        done.append(("taken", launch.device, launch.stream))
        words(taken)[:] = words(launch.faults)[:]
        words(launch.faults)[:] = unpinned(pin=False).flatten().tolist()

    gpu_of_tomorrow.any_fault = lambda address: any(words(address)[::2])
    gpu_of_tomorrow.take_faults = take_faults
    stream = SimpleNamespace(cuda_stream=5, synchronize=lambda: done.append("stream"))
    monkeypatch.setattr(_dispatch, "no_faults", lambda *, pin: unpinned(pin=False))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    _dispatch._reports[0] = faults
    return SimpleNamespace(faults=faults, done=done)


def test_kernels_that_still_count_are_waited_for(
    counted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "capturing", lambda device: False)
    with pytest.raises(ValueError, match=r"^boxes\[7\] is not inside its image"):
        _dispatch.launch_on(DEVICE)
    assert counted.done == ["device", ("taken", 0, 5), "stream"]
    assert counted.faults.equal(_dispatch.no_faults(pin=False))
    launch = _dispatch.launch_on(DEVICE)
    assert launch is not None
    assert launch.faults == counted.faults.data_ptr()


def test_nothing_is_waited_for_while_a_graph_is_captured(
    counted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "capturing", lambda device: True)
    launch = _dispatch.launch_on(DEVICE)
    assert launch is not None
    assert launch.stream == 5
    assert counted.done == []
    monkeypatch.setattr(_dispatch, "capturing", lambda device: False)
    with pytest.raises(ValueError, match=r"^boxes\[7\] is not inside its image"):
        _dispatch.launch_on(DEVICE)


def test_threads_that_come_first_together_share_one_report(
    gpu_of_tomorrow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of_tomorrow.has_code_for = lambda index: True
    made = []

    def slowly(*, pin: bool) -> torch.Tensor:
        made.append(pin)
        time.sleep(0.05)  # all threads are inside by then
        return torch.zeros(1)

    monkeypatch.setattr(_dispatch, "no_faults", slowly)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: _dispatch._faults(0), range(8)))
    assert made == [True]
    assert all(module is found[0] for module in found)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_op_without_cuda_kernels_is_not_launched(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    def launch_on(device: torch.device) -> NoReturn:
        raise AssertionError("asked for a launch")

    monkeypatch.setattr(_dispatch, "launch_on", launch_on)
    monkeypatch.setattr(_dispatch, "warn_reference_once", launch_on)
    ran = {}
    library = SimpleNamespace(
        define=lambda *_, **__: None, impl=lambda _, run, key: ran.update({key: run})
    )
    monkeypatch.setattr(_dispatch, "_LIBRARY", library)
    monkeypatch.setattr(torch.library, "register_fake", lambda *_, **__: None)
    _dispatch.register(
        "op(Tensor x) -> Tensor", lambda x: "cpu", None, lambda x: "meta", lambda x: None
    )
    assert ran["CompositeExplicitAutograd"](torch.empty(0, device=device)) == device
