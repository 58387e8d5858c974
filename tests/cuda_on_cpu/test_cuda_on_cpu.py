"""The CUDA kernels executed on the CPU, and whether what executes them notices mistakes."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable

import pytest
from devices import RAN_ON_CPU

# A test that passed, in what pytest -v prints: its family, and its name without parameters.
PASSED = re.compile(r"^tests/ops/test_(\w+)\.py::([\w:]+)(?:\[.*\])? PASSED", re.MULTILINE)
# An hour's work for a harness that hangs; a run takes minutes.
DEADLINE = 1200

# Without PyTorch, which takes seconds to load under the sanitizers. The values come from malloc, so
# that AddressSanitizer knows where they end; Python and NumPy have allocators of their own.
SCRIPT = """
import ctypes, importlib.util, os, sys

spec = importlib.util.spec_from_file_location("_cuda_on_cpu", os.environ["PYDREAM_CUDA_ON_CPU"])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
malloc = ctypes.CDLL(None).malloc
malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
values = (ctypes.c_int * 64).from_address(malloc(64 * 4))
values[:] = range(64)
module.set_order(sys.argv[2])
module.broken(sys.argv[1], ctypes.addressof(values), 64)
print(values[:])
"""
UPWARDS = list(range(64))


def votes(values: range) -> int:
    """Return the votes of a warp's lanes whose value is a multiple of 3, as an int of 32 bits."""
    bits = sum(1 << lane for lane, value in enumerate(values) if value % 3 == 0)
    return bits - (1 << 32) * (bits >> 31)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def broken(
    run_python: Run, kernel: str, order: str = "forward"
) -> subprocess.CompletedProcess[str]:
    return run_python("-c", SCRIPT, kernel, order, timeout=DEADLINE)


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_right_kernels_are_right_in_any_order(run_python: Run, order: str) -> None:
    for kernel, expected in [
        ("reverse", UPWARDS[::-1]),
        ("warp_sum", [sum(range(32))] * 32 + [sum(range(32, 64))] * 32),
        ("copies", [*UPWARDS[31::-1], *UPWARDS[31::-1]]),
        ("tiles", [*UPWARDS[32:], *UPWARDS[:32]]),
        ("vote", [votes(range(32))] * 32 + [votes(range(32, 64))] * 32),
    ]:
        run = broken(run_python, kernel, order)
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == str(expected)


@pytest.mark.parametrize(
    ("kernel", "right"),
    [
        ("missing_barrier", UPWARDS[::-1]),
        ("missing_barrier_behind", [0, *UPWARDS[:-1]]),
        ("copy_over_what_is_read", UPWARDS[::-1]),
        ("tiles_missing_barrier", [*UPWARDS[32:], *UPWARDS[:32]]),
    ],
)
def test_a_missing_barrier_shows_in_some_order(
    run_python: Run, kernel: str, right: list[int]
) -> None:
    runs = [broken(run_python, kernel, order) for order in ("forward", "backward")]
    assert all(run.returncode == 0 for run in runs)
    assert any(run.stdout.strip() != str(right) for run in runs)


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_a_copy_has_not_come_before_it_is_waited_for(run_python: Run, order: str) -> None:
    assert broken(run_python, "copies_not_waited_for", order).stdout.strip() == str([-1] * 64)


@pytest.mark.parametrize("kernel", ["off_by_one", "shared_overrun", "copy_beyond", "tiles_overrun"])
def test_an_index_off_by_one_is_stopped(run_python: Run, kernel: str) -> None:
    run = broken(run_python, kernel)
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
    assert "broken.cu" in run.stderr


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("barrier_for_some", "of 64 threads 32 wait at a barrier"),
        ("lane_missing", "31 in a warp operation for lanes of its mask that do not come"),
        ("tiles_by_some", "31 in a warp operation for lanes of its mask that do not come"),
        ("vote_of_some", "22 in a warp operation for lanes of its mask that do not come"),
    ],
)
def test_waiting_for_what_cannot_come_is_an_error(
    run_python: Run, kernel: str, message: str
) -> None:
    run = broken(run_python, kernel)
    assert run.returncode == 1
    assert message in run.stderr


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("copy_askew", "an asynchronous copy of 16 bytes is not aligned to them"),
        ("tiles_askew", "a row of a matrix in shared memory is not aligned to 16 bytes"),
        ("tiles_of_global_memory", "a row of a matrix is not in shared memory"),
    ],
)
def test_an_address_that_the_instruction_does_not_take_is_an_error(
    run_python: Run, kernel: str, message: str
) -> None:
    run = broken(run_python, kernel)
    assert run.returncode == 1
    assert message in run.stderr


def test_shared_memory_holds_nothing_of_use_at_first(run_python: Run) -> None:
    assert broken(run_python, "unset_shared").stdout.strip() == str([-1] * 64)


@pytest.mark.slow
def test_the_ops_tests_pass_with_cuda_kernels(
    run_python: Run, families: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    run = run_python(
        "-m",
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        *(f"tests/ops/test_{family}.py" for family in families),
        timeout=DEADLINE,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    passed = Counter(PASSED.findall(run.stdout))
    for wanted in families:
        total = sum(count for (family, _), count in passed.items() if family == wanted)
        assert total >= (4 if wanted == "dispatch" else 30)
    for (family, name), count in passed.items():
        record_property(RAN_ON_CPU, f"{family}: {name} ({count})")
