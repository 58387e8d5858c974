"""Time on a GPU, by events, and how fast that GPU copies, reads and multiplies.

Inputs go round, so that none is found in the second-level cache. The device's time is that between
events around replays of a CUDA graph, which holds one call for each input; where a call cannot be
captured, around the calls themselves, which the host may then hold up. A call's time as its caller
sees it, with all that the host does, is a figure of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from benchmarks.timing import Timing, timing
from pydream.profiling import Limits
from pydream.streams import capture

# More than any second-level cache, so that no input is found there again.
_ROTATED_BYTES = 512 << 20
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 200
# Rounds of calls whose first round takes all the time that there is for them.
_SLOW_ROUNDS = 2


def copies(size: int, device: torch.device) -> int:
    """How many inputs of this size to take turns with; two where a GPU's figures are not wanted."""
    return max(2, -(-_ROTATED_BYTES // size)) if device.type == "cuda" else 2


def call_seconds(call: Callable[[Any], object], inputs: Iterable[Any], least: float) -> float:
    """Seconds of one call, host and all, the median of blocks that take `least` seconds in all."""
    turn = itertools.cycle(list(inputs))
    timer = Timer("call(next(turn))", globals={"call": call, "turn": turn})
    return float(timer.blocked_autorange(min_run_time=least).median)


def device_seconds(
    device: torch.device,
    call: Callable[[Any], object],
    inputs: list[Any],
    least: float,
    *,
    captured: bool = True,
) -> Timing:
    """Seconds of the device for one call: of rounds that take `least` seconds in all."""

    def work() -> None:
        for value in inputs:
            call(value)

    run = capture(work, device)[0].replay if captured else work
    once = between_events(run, 1)[0]
    fewest = _LEAST_ROUNDS if once < least else _SLOW_ROUNDS
    taken = between_events(run, min(max(int(least / once) + 1, fewest), _MOST_ROUNDS))
    return timing([seconds / len(inputs) for seconds in taken])


def between_events(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of some rounds in a row; waits once, behind the last."""
    run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]


def seconds_on(
    device: torch.device,
    call: Callable[[Any], object],
    inputs: list[Any],
    least: float,
    *,
    captured: bool = True,
) -> Timing:
    """Seconds of the device; on the CPU, where a benchmark is only rehearsed, those of a call."""
    if device.type == "cuda":
        return device_seconds(device, call, inputs, least, captured=captured)
    return timing([call_seconds(call, inputs, least)])


def measure_limits(device: torch.device, dtype: torch.dtype, least: float) -> Limits:
    """Measure how fast the device copies, and multiplies matrices of a type."""
    return Limits(
        copy_bytes=copy_rate(device, least),
        matrix_operations=matrix_rate(device, dtype, least),
        dtype=kind_of_product(device, dtype),
        threads=torch.get_num_threads(),
    )


def kind_of_product(device: torch.device, dtype: torch.dtype) -> str:
    """Name the arithmetic of `matrix_rate`."""
    if device.type == "cuda" and dtype == torch.float32:
        return "tf32"
    return str(dtype).removeprefix("torch.")


def copy_rate(device: torch.device, least: float) -> float:
    """Bytes a second of a copy, read and written."""
    source = _gigabyte(device)
    target = torch.empty_like(source)
    taken = seconds_on(device, target.copy_, [source], least)
    return 2 * source.nbytes / taken.median


def read_rate(device: torch.device, least: float) -> float:
    """Bytes a second that are only read: by a sum."""
    source = _gigabyte(device)
    return source.nbytes / seconds_on(device, torch.sum, [source], least).median


def matrix_rate(device: torch.device, dtype: torch.dtype, least: float) -> float:
    """Operations a second of a square matrix product; of TF32 for float32 on a GPU."""
    side = 8192 if device.type == "cuda" else 256
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        matrix = torch.randn(side, side, device=device).to(dtype)
        taken = seconds_on(device, lambda given: given @ given, [matrix], least)
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * side**3 / taken.median


def _gigabyte(device: torch.device) -> Tensor:
    """Return a GiB of numbers on a GPU, 64 MiB on the CPU."""
    return torch.ones((1 << 28) if device.type == "cuda" else (1 << 24), device=device)
