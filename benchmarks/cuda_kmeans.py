"""k-means on a GPU, beside flash-kmeans and fast_pytorch_kmeans, from the same start.

    python -m benchmarks.cuda_kmeans [--device cuda] [--out FOLDER]

An item is an iteration of all problems, ten are timed by events. The limit is the larger of its
2 * N * k * D operations at the rate of a matrix product of the same type on that card (of TF32 for
float32), and one read of the samples at half of what a copy moves, both measured in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cuda_ops import bandwidth, between_events
from benchmarks.records import RESULTS, write_record
from benchmarks.timing import Work
from pydream import ops
from pydream.profiling import measure_limits

ITERATIONS = 10
ROUNDS = 5
# Of two solutions from one start, where near ties fall in two ways.
SAME_INERTIA = 0.01

Case = dict[str, Any]
# Problems, samples, dimensions, centroids, dtype, precision.
SIZES = [
    (32, 75_600, 128, 1000, torch.float16, "fast"),
    (1, 1_000_000, 128, 4096, torch.float16, "fast"),
    (10, 5000, 2048, 128, torch.float32, "exact"),
    (10, 5000, 2048, 128, torch.float16, "exact"),
]


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: the middle of some rounds."""
    if device.type == "cuda":
        return sorted(between_events(call, ROUNDS))[ROUNDS // 2]
    timer = torch.utils.benchmark.Timer("call()", globals={"call": call})
    return float(timer.timeit(1).median)


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of a square matrix product."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    matrix = torch.randn(side, side, device=device).to(dtype)
    taken = seconds(lambda: matrix @ matrix, device)
    torch.set_float32_matmul_precision(before)
    return 2 * side**3 / taken


def by_flash(x: Tensor, start: Tensor) -> Tensor:
    from flash_kmeans import batch_kmeans_Euclid

    result = batch_kmeans_Euclid(
        x, start.shape[1], max_iters=ITERATIONS, tol=0.0, init_centroids=start
    )
    centroids: Tensor = result[1]
    return centroids


def by_fast_pytorch(x: Tensor, start: Tensor) -> Tensor:
    from fast_pytorch_kmeans import KMeans

    found = []
    for samples, centroids in zip(x, start, strict=True):
        model = KMeans(n_clusters=len(centroids), max_iter=ITERATIONS, tol=0)
        model.fit_predict(samples, centroids=centroids.clone())
        found.append(model.centroids)
    return torch.stack(found)


def rivals_of(x: Tensor, start: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return those that work here; say which do not."""
    known = {"flash-kmeans": by_flash, "fast_pytorch_kmeans": by_fast_pytorch}
    rivals = {}
    for name, run in known.items():
        try:
            run(x[:, :2000], start)
        except (AssertionError, ImportError, RuntimeError, ValueError) as error:
            print(f"{name} is absent: {str(error).splitlines()[0]}")
            continue
        rivals[name] = lambda run=run: run(x, start)
    return rivals


def case(
    size: tuple[int, int, int, int, torch.dtype, str],
    device: torch.device,
    rate: float,
    matrix: float,
) -> Case:
    problems, count, dim, k, dtype, precision = size
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(problems, count, dim, device=device, generator=generator).to(dtype)
    start = x[:, :k].contiguous()

    def ours() -> ops.KMeansResult:
        return ops.kmeans(x, k, init=start, max_iter=ITERATIONS, tol=0.0, precision=precision)

    expected = float(ours().inertia.sum())
    rivals = rivals_of(x, start)
    for name, rival in rivals.items():
        found = float(ops.kmeans(x, k, init=rival(), max_iter=0).inertia.sum())
        assert abs(found - expected) <= SAME_INERTIA * expected, f"{name}: {found}, not {expected}"
    taken = {"pydream": seconds(ours, device)}
    taken.update({name: seconds(rival, device) for name, rival in rivals.items()})
    operations = 2 * problems * count * k * dim
    work = Work(ITERATIONS * x.nbytes, ITERATIONS * operations)
    least = max(operations / matrix, x.numel() * x.element_size() / (rate / 2))
    return {
        "items": ITERATIONS,
        "unit": "iteration",
        "work": asdict(work),
        "microseconds_per_item": {name: each / ITERATIONS * 1e6 for name, each in taken.items()},
        "times_as_fast": {name: taken[name] / taken["pydream"] for name in rivals},
        "fraction_of_limit": least * ITERATIONS / taken["pydream"],
    }


def measure(device: torch.device, *, small: bool) -> dict[str, Case]:
    """Run all cases; `small` for a try on a machine that is no GPU."""
    rate = bandwidth(device, 0.05 if small else 0.5)
    results: dict[str, Case] = {"copy": {"bytes_per_second": rate}}
    for size in SIZES:
        problems, count, dim, k, dtype, precision = size
        if small:
            size = (problems, count // 1000 + k // 10, dim, k // 10, dtype, precision)
        matrix = matrix_rate(device, dtype, 256 if small else 8192)
        name = f"({problems}, {count}, {dim}), k {k}, {str(dtype)[6:]}, {precision}"
        results[name] = {
            "operations_per_second": matrix,
            **case(size, device, rate, matrix),
        }
        show(name, results[name])
    return results


def show(name: str, result: Case) -> None:
    print(f"{name}: {result['fraction_of_limit']:.0%} of the limit")
    for rival, each in result["microseconds_per_item"].items():
        times = result["times_as_fast"].get(rival)
        more = f"   pydream is {times:.1f} times as fast" if times else ""
        print(f"  {rival:24s} {each:12.1f} us an iteration{more}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; pydream doctor says what it found")
    results = measure(device, small=device.type != "cuda")
    if device.type == "cuda":
        limits = measure_limits(device)
        print(write_record("cuda-kmeans", results, arguments.out, device, limits=limits))


if __name__ == "__main__":
    main()
