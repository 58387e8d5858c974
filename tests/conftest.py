from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import devices
import pytest
import torch

from pydream import _C

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real images, kept beside the repository or where PYDREAM_DATA says."""
    root = Path(os.environ.get("PYDREAM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no data at {root}: set PYDREAM_DATA to a folder with the real images")
    return root


@pytest.fixture(scope="session", autouse=True)
def kernels() -> Iterator[Any]:
    """The kernels of PYDREAM_TEST_DEVICE behind the public ops."""
    with pytest.MonkeyPatch.context() as patch:
        if devices.DEVICE == "cuda":
            devices.run_on_cuda(patch)
        yield devices.run_cuda_on_cpu(patch) if devices.DEVICE == "cuda-on-cpu" else None


@pytest.fixture(scope="session", autouse=True)
def auto_is_the_cpu() -> Iterator[None]:
    """Tests that name no device run on the CPU, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pydream.devices._choose", lambda: (torch.device("cpu"), "for tests"))
        yield


def _variants() -> list[str]:
    """What tests of the kernels run under: instruction sets, or orders of a block's threads."""
    if devices.DEVICE == "cpu":
        return list(_C.available_isas())
    return list(devices.ORDERS) if devices.DEVICE == "cuda-on-cpu" else ["cuda"]


@pytest.fixture(params=_variants())
def isa(request: pytest.FixtureRequest, kernels: Any) -> Iterator[str]:
    """Run the test once under every instruction set that this processor has."""
    if devices.DEVICE == "cuda-on-cpu":
        kernels.set_order(request.param)
    if devices.DEVICE != "cpu":
        yield request.param
        return
    before = _C.active_isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


@pytest.fixture
def on_cpu() -> None:
    """For tests of what only the CPU kernels do."""
    if devices.DEVICE != "cpu":
        pytest.skip("about the kernels of the CPU")
