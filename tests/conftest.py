from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydream.processors import usable_processors

# Before torch is loaded, which reads it then. By default OpenMP's threads keep their processors
# while they wait for each other, which makes training many times slower where other programs want
# these processors too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# As the command line sets it for ranks: PyTorch would tell of every connection that a rank closes.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
# Processes of pytest-xdist share the processors; with more threads than those, all take longer.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    share = max(1, usable_processors() // int(workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

import devices
import numpy as np
import pytest
import torch

from pydream import _C

REPOSITORY = Path(__file__).resolve().parents[1]
# Those of the start alone: libraries add some of their own when they are imported.
VARIABLES = tuple(name for name in os.environ if name != "PYTEST_CURRENT_TEST")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let campaigns (tests/campaigns) make all their trials, and record them."""
    group = parser.getgroup("campaigns of pydream")
    group.addoption("--long", action="store_true", help="make all trials of campaigns")
    group.addoption("--records", metavar="FOLDER", help="where campaigns write their records")


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-randomly choose the order of tests and no more, and Ctrl-C interrupt them.

    Its seed, which it prints, gives an order again. What tests draw is the same in every run.
    """
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False
    # A shell starts what runs in its background without Ctrl-C, which tests press, and children
    # would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A process for each processor: eight at most, which the longest test keeps waiting already."""
    return min(8, usable_processors())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests of the ops that ran with CUDA kernels here, and how many of each."""
    ran = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == devices.RAN_ON_CPU
    ]
    if ran:
        terminalreporter.section(f"tests that {devices.RAN_ON_CPU}")
        terminalreporter.write_line("\n".join(ran))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin every test, and what it prepares, from the same random numbers."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def _settings() -> dict[str, Any]:
    """What tests may change of the whole process, and have to put back."""
    return {
        "instruction set": _C.active_isa(),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "cuDNN": torch.backends.cudnn.enabled,
        "folder": os.getcwd(),
        "threads of OpenMP": os.environ.get("OMP_NUM_THREADS"),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "variables": {name for name in os.environ if name.startswith("PYDREAM_")},
    }


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves another process behind than it found: the next ones would differ."""
    before = _settings()
    yield
    assert _settings() == before


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real images, in the folder named by PYDREAM_DATA."""
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
        yield request.param
        kernels.set_order(devices.ANY_ORDER)
        return
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


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An observer of scikit-learn's digits, trained once, with real images (`small_digits`)."""
    from small_digits import train_digits

    return train_digits(tmp_path_factory.mktemp("observer"))


@pytest.fixture
def digits_set(tmp_path: Path) -> Path:
    """Real digits as a distilled set, five of each class."""
    from small_digits import write_digits

    return write_digits(tmp_path / "set")


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Any]:
    """Write a distilled set of plain colours, another one with every call (`plain_sets`)."""
    from plain_sets import write_set

    numbers = itertools.count()
    return lambda *args, **kwargs: write_set(tmp_path / f"set{next(numbers)}", *args, **kwargs)


@pytest.fixture
def measures() -> Any:
    """What may have been measured of a set, with random real images beside."""
    from plain_sets import MEASURES

    return MEASURES
