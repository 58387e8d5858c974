"""What a device's name stands for, played with what torch and the compiled module say of GPUs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import pydream.devices
from pydream.devices import announce_device, resolve_device
from pydream.errors import PydreamError

choose = pydream.devices._choose  # before conftest.py replaces it for all tests


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Play two GPUs; the list says which of them the kernels of this build run on."""
    usable = [False, True]
    real = torch.zeros

    def zeros(*size: int, device: str = "cpu") -> object:
        place = torch.device(device)
        if place.type == "cpu":
            return real(*size)
        index = place.index or 0
        if index > 1:
            raise RuntimeError("CUDA error: invalid device ordinal\nmore words of torch")
        return SimpleNamespace(device=torch.device("cuda", index))

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {'AB'[index]}")
    monkeypatch.setattr(
        pydream.devices,
        "no_kernels",
        lambda place: None if usable[place.index] else "this build of pydream has no code for it",
    )
    monkeypatch.setattr(pydream.devices, "_C", SimpleNamespace(cuda_architectures="90"))
    monkeypatch.setattr(pydream.devices, "_choose", choose)
    return usable


def test_auto_takes_the_first_gpu_that_the_build_can_use_and_says_so(
    gpus: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve_device("auto") == torch.device("cuda", 1)
    announce_device("auto")
    assert capsys.readouterr().err == "device: cuda:1 (GPU B)\n"
    gpus[0] = True
    assert resolve_device("auto") == torch.device("cuda", 0)
    announce_device("cuda")  # as the user said
    announce_device(torch.device("cuda", 0))
    assert capsys.readouterr().err == ""


def test_auto_falls_back_to_the_cpu_and_says_why(
    gpus: list[bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        assert resolve_device("auto") == torch.device("cpu")
        announce_device("auto")
        return capsys.readouterr().err

    gpus[1] = False
    assert "no code for it" in said()
    monkeypatch.setattr(pydream.devices, "_C", SimpleNamespace(cuda_architectures=""))
    assert said() == "device: cpu (this build of pydream has no CUDA kernels for GPU A)\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert said() == "device: cpu (no GPU was found)\n"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert said() == "device: cpu (this PyTorch is built without CUDA)\n"


@pytest.mark.parametrize("name", ["1", "cuda:1", " CUDA:1 ", torch.device("cuda", 1)])
def test_a_gpu_goes_by_its_number(gpus: list[bool], name: str | torch.device) -> None:
    assert resolve_device(name) == torch.device("cuda", 1)


def test_cuda_is_the_first_gpu(gpus: list[bool]) -> None:
    gpus[0] = True
    assert resolve_device("cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    "name", ["mps", "gpu", "xpu", "meta", "cuda:", "cuda:-1", "", "tpu!", "cuda:256", "9" * 20]
)
def test_what_is_no_device_gets_a_list_of_those_that_are_there(gpus: list[bool], name: str) -> None:
    with pytest.raises(PydreamError) as raised:
        resolve_device(name)
    message = f"device {name!r} cannot be used: pydream computes on cpu, cuda:0 (GPU A), "
    assert str(raised.value) == message + "cuda:1 (GPU B)"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("cuda:7", "invalid device ordinal"), ("cuda:01", "Invalid device string: 'cuda:01'")],
)
def test_a_gpu_that_is_not_there_gets_the_list_too(
    gpus: list[bool], name: str, reason: str
) -> None:
    with pytest.raises(PydreamError, match=rf"{reason}; there is: cpu, cuda:0 \(GPU"):
        resolve_device(name)


def test_an_error_without_words_is_called_by_its_name(
    gpus: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(place: torch.device) -> None:
        raise RuntimeError

    monkeypatch.setattr(pydream.devices, "no_kernels", fail)
    with pytest.raises(PydreamError, match="'1' cannot be used: RuntimeError; there is: cpu"):
        resolve_device("1")


def test_a_gpu_without_kernels_is_refused_when_it_is_asked_for(gpus: list[bool]) -> None:
    with pytest.raises(PydreamError, match="'0' cannot be used: this build of pydream has no code"):
        resolve_device("0")
