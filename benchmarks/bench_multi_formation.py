"""Multi-formation, alone and with its derivative: ours beside PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Work, compare, report, table
from pydream import ops
from pydream.allocator import in_large_pages

# One inner step of DREAM+: images, side and factor of all classes together.
SETS = {
    "CIFAR-10, IPC 10, factor 2": (100, 32, 2),
    "one class of it": (10, 32, 2),
    "ImageNet-10, IPC 1, factor 3": (10, 224, 3),  # padded by one
}
ROUNDS = 11
# Each value of the result: two blends of rows and one of columns.
OPERATIONS = 6
CALLS = 5  # in a row, as in bench_score.py
# Two blends in float32 of values up to 1, with weights rounded in float32; sums of those.
SAME_PIXELS = 1e-5
SAME_SLOPES = 1e-3


def eager(images: Tensor, factor: int, size: int) -> Tensor:
    """Pad, slice, interpolate a cell at a time, concatenate: as published."""
    side = images.shape[-1]
    cell = -(-side // factor)
    padding = cell * factor - side
    images = F.pad(images, (0, padding, 0, padding), value=0.5)
    cells = []
    for top in range(0, cell * factor, cell):
        for left in range(0, cell * factor, cell):
            part = images[:, :, top : top + cell, left : left + cell]
            cells.append(F.interpolate(part, (size, size), mode="bilinear", align_corners=False))
    return torch.cat(cells)


def measure(name: str, backward: bool, rounds: int) -> dict[str, Any]:
    count, side, factor = SETS[name]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, side, side, generator=generator).requires_grad_(backward)
    expected = ops.multi_formation(images, factor, side).detach()
    upstream = torch.randn(expected.shape, generator=generator)

    def run(form: Callable[..., Tensor]) -> Tensor:
        result = form(images, factor, side)
        return torch.autograd.grad(result, images, upstream)[0] if backward else result

    tolerance = SAME_SLOPES if backward else SAME_PIXELS
    torch.testing.assert_close(run(ops.multi_formation), run(eager), rtol=tolerance, atol=tolerance)
    limit = "as many pixels written, the limit"
    rivals: dict[str, Callable[[], object]] = {
        "pydream": lambda: run(ops.multi_formation),
        "pad, slice, interpolate, cat": lambda: run(eager),
        limit: lambda: in_large_pages(torch.empty_like(expected)).fill_(0.5),
    }
    timings = compare(
        {key: repeated(rival) for key, rival in rivals.items()}, rounds=rounds, threads=2
    )
    passes = CALLS * (2 if backward else 1)
    work = Work(passes * (images.nbytes + expected.nbytes), passes * OPERATIONS * expected.numel())
    return report(
        timings, ours="pydream", limit=limit, items=CALLS * len(expected), unit="image", work=work
    )


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            call()

    return run


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("name", SETS)
def test_multi_formation(benchmark: Any, record: dict[str, Any], name: str, backward: bool) -> None:
    result = measure(name, backward, ROUNDS if benchmark.enabled else 1)
    if benchmark.enabled:
        title = f"{name}, {'forward and backward' if backward else 'forward'}"
        record[title] = result
        print("\n" + table(f"{title}; an image", result))
    count, side, factor = SETS[name]
    benchmark(ops.multi_formation, torch.rand(count, 3, side, side), factor, side)
