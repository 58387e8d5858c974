"""k-means on a GPU, beside flash-kmeans, fast_pytorch_kmeans and cuML, from the same start.

    python -m benchmarks.cuda_kmeans [--device cuda] [--out FOLDER]

Samples lie in overlapping clumps, four times as many as centroids, so that centroids still move
when the last of the iterations that are timed has been made. An item is an iteration of all
problems. Its limit is the larger of 2 * N * k * D operations at the rate of a matrix product of the
same type on that card (of TF32 for float32), and one read of the samples at the rate of a read
alone or a copy, whichever is the higher; all three are measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.comparison import Case, Rival, Setting, by_compile, compared, measure
from benchmarks.cuda_events import kind_of_product, matrix_rate, read_rate
from benchmarks.timing import Work
from pydream import ops
from pydream.profiling import Limits

ITERATIONS = 10
# Times as many clumps as centroids, and how far their samples spread, beside 1 of their centres: so
# that every size here, the small ones too, takes 20 iterations or more until no label changes.
CLUMPS, SPREAD = 4, 2.0
# Inertia of two solutions from one start, where near ties fall in two ways.
SAME_INERTIA = 0.01
# Distances of two samples to a centroid, from products in TF32 or float32.
SAME_DISTANCE = 0.01


@dataclass(frozen=True)
class Size:
    """A size of problems, and how they are solved."""

    problems: int
    count: int
    dim: int
    k: int
    dtype: torch.dtype
    precision: str = "fast"

    @property
    def name(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"({self.problems}, {self.count}, {self.dim}), k {self.k}, {kind}, {self.precision}"

    def small(self) -> Size:
        """Return a size for a rehearsal on the CPU."""
        return Size(min(self.problems, 2), 3000, min(self.dim, 128), 20, self.dtype, self.precision)


SIZES = [
    Size(32, 75_600, 128, 1000, torch.float16),
    Size(32, 75_600, 128, 1000, torch.bfloat16),
    Size(1, 1_000_000, 128, 4096, torch.float16),
    Size(10, 5000, 2048, 128, torch.float32, "exact"),
    Size(10, 5000, 2048, 128, torch.float16, "exact"),
]
STARTS = [
    Size(10, 5000, 2048, 128, torch.float32, "exact"),
    Size(1, 200_000, 128, 1024, torch.float16),
]
NEAREST = [
    Size(10, 5000, 2048, 128, torch.float32),
    Size(1, 1_000_000, 128, 1024, torch.float16),
]


def samples(size: Size, device: torch.device) -> Tensor:
    """Draw samples in overlapping clumps: (problems, count, dim)."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (size.problems, CLUMPS * size.k, size.dim)
    centres = torch.randn(shape, device=device, generator=generator)
    x = torch.empty(size.problems, size.count, size.dim, device=device, dtype=size.dtype)
    for problem, own in zip(x, centres, strict=True):
        clump = torch.randint(len(own), (size.count,), device=device, generator=generator)
        noise = torch.randn(problem.shape, device=device, generator=generator)
        problem.copy_(own[clump] + SPREAD * noise)
    return x


def by_flash(x: Tensor, start: Tensor) -> Tensor:
    from flash_kmeans import batch_kmeans_Euclid

    _, centroids, iterations = batch_kmeans_Euclid(
        x, start.shape[1], max_iters=ITERATIONS, tol=0.0, init_centroids=start.clone()
    )
    if iterations != ITERATIONS:
        raise RuntimeError(f"ended after {iterations} iterations, not {ITERATIONS}")
    found: Tensor = centroids
    return found


def by_fast_pytorch(x: Tensor, start: Tensor) -> Tensor:
    from fast_pytorch_kmeans import KMeans

    found = []
    for problem, centroids in zip(x, start, strict=True):
        model = KMeans(n_clusters=len(centroids), max_iter=ITERATIONS, tol=0)
        model.fit_predict(problem, centroids=centroids.clone())
        found.append(model.centroids)
    return torch.stack(found)


def by_cuml(x: Tensor, start: Tensor) -> Tensor:
    """Solve problem by problem in float32, which is all that cuML has beside float64."""
    from cuml.cluster import KMeans

    found = []
    for problem, centroids in zip(x.float(), start.float(), strict=True):
        model = KMeans(
            n_clusters=len(centroids), init=centroids, n_init=1, max_iter=ITERATIONS, tol=0.0
        )
        model.fit(problem)
        found.append(torch.as_tensor(model.cluster_centers_, device=x.device))
    return torch.stack(found)


@dataclass(frozen=True)
class Rates:
    """What the device does at most: bytes of samples and operations a second."""

    setting: Setting

    @cache  # noqa: B019  (one object lives as long as the program)
    def read(self) -> float:
        return read_rate(self.setting.device, self.setting.least)

    @cache  # noqa: B019
    def limits(self, dtype: torch.dtype) -> Limits:
        """Return the limits for samples of a type, which are only read."""
        device, known = self.setting.device, self.setting.limits
        return Limits(
            copy_bytes=max(self.read(), known.copy_bytes),
            matrix_operations=known.matrix_operations
            if dtype == torch.float32
            else matrix_rate(device, dtype, self.setting.least),
            dtype=kind_of_product(device, dtype),
            threads=known.threads,
        )

    def limit(self, size: Size, x: Tensor) -> float:
        """Return the least seconds of the distances of all samples to all centroids."""
        operations = 2 * size.problems * size.count * size.k * size.dim
        return self.limits(size.dtype).least_seconds(x.nbytes, operations)


def iterations_case(size: Size, rates: Rates) -> Case:
    """Some iterations from the first samples as centroids."""
    x = samples(size, rates.setting.device)
    start = x[:, : size.k].contiguous()

    def ours(x: Tensor) -> ops.KMeansResult:
        return ops.kmeans(
            x, size.k, init=start, max_iter=ITERATIONS, tol=0.0, precision=size.precision
        )

    made = ours(x).n_iter
    assert bool((made == ITERATIONS).all()), f"{made.tolist()} iterations, not {ITERATIONS}"

    def agree(mine: ops.KMeansResult, theirs: Tensor) -> None:
        expected = float(mine.inertia.sum())
        found = float(ops.kmeans(x, size.k, init=theirs, max_iter=0).inertia.sum())
        assert abs(found - expected) <= SAME_INERTIA * expected, (
            f"inertia {found:.6g}, not {expected:.6g}"
        )

    rivals = {
        "flash-kmeans": by_flash,
        "fast_pytorch_kmeans": by_fast_pytorch,
        "cuML": by_cuml,
    }
    operations = ITERATIONS * 2 * size.problems * size.count * size.k * size.dim
    return compared(
        Rival(ours, captured=False),
        {name: Rival(partial(run, start=start), captured=False) for name, run in rivals.items()},
        [x],
        rates.setting.device,
        agree=agree,
        items=ITERATIONS,
        unit="iteration",
        work=Work(ITERATIONS * x.nbytes, operations),
        limit=ITERATIONS * rates.limit(size, x),
        limits=rates.limits(size.dtype),
        least=rates.setting.least,
    )


def start_case(size: Size, rates: Rates) -> Case:
    """The default start, greedy k-means++, and the labels of its centroids; no iteration.

    At least each draw of a centroid has to look at every sample once.
    """
    x = samples(size, rates.setting.device)
    return compared(
        Rival(
            lambda x: ops.kmeans(x, size.k, max_iter=0, precision=size.precision), captured=False
        ),
        {},
        [x],
        rates.setting.device,
        agree=lambda mine, theirs: None,
        items=1,
        unit="start",
        work=Work(size.k * x.nbytes),
        limit=size.k * x.nbytes / rates.limits(size.dtype).copy_bytes,
        least=rates.setting.least,
    )


def nearest_case(size: Size, rates: Rates) -> Case:
    """The sample nearest to each centroid, of all samples of its problem."""
    x = samples(size, rates.setting.device)
    centroids = x[:, : size.k].float() + 0.1

    def by_cdist(x: Tensor) -> Tensor:
        return torch.cdist(centroids, x.float()).argmin(-1, keepdim=True)

    def distances(chosen: Tensor) -> Tensor:
        index = chosen.expand(-1, -1, size.dim)
        return (x.gather(1, index).float() - centroids).square().sum(-1)

    def agree(mine: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(distances(theirs), distances(mine), rtol=SAME_DISTANCE, atol=0.0)

    operations = 2 * size.problems * size.count * size.k * size.dim
    return compared(
        Rival(lambda x: ops.nearest_samples(x, centroids, 1), captured=False),
        {
            "cdist and argmin": Rival(by_cdist, captured=False),
            "torch.compile": Rival(by_compile(rates.setting, by_cdist), captured=False),
        },
        [x],
        rates.setting.device,
        agree=agree,
        items=1,
        unit="call",
        work=Work(x.nbytes, operations),
        limit=rates.limit(size, x),
        limits=rates.limits(size.dtype),
        least=rates.setting.least,
    )


def cases(setting: Setting) -> dict[str, Callable[[], Case]]:
    """Return every case by its name: small ones for a rehearsal."""
    rates = Rates(setting)
    found: dict[str, Callable[[], Case]] = {
        "copy": lambda: {"bytes_per_second": setting.limits.copy_bytes},
        "read": lambda: {"bytes_per_second": rates.read()},
    }

    def product(dtype: torch.dtype) -> Case:
        return {"operations_per_second": rates.limits(dtype).matrix_operations}

    for dtype in dict.fromkeys(size.dtype for size in SIZES):
        name = f"matrix product, {str(dtype).removeprefix('torch.')}"
        found[name] = partial(product, dtype)
    for prefix, case, sizes in (
        ("", iterations_case, SIZES),
        ("k-means++ start, ", start_case, STARTS),
        ("nearest_samples, ", nearest_case, NEAREST),
    ):
        for size in sizes:
            found[prefix + size.name] = partial(
                case, size.small() if setting.small else size, rates
            )
    return found


if __name__ == "__main__":
    measure("cuda-kmeans", __doc__.splitlines()[0], cases, least=0.3)
