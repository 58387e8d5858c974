from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICE, NOT_ON_FIBERS, as_called, faulty_rows, place

from pydream import ops
from pydream.ops import _dispatch, _kmeans
from pydream.ops.reference import kmeans as reference

# Centroids are means in float64, rounded once; labels of the float64 reference are the same on
# samples without near ties, so what is left is that rounding and the inertia's sums in float32.
MEAN_RTOL = 1e-6
INERTIA_RTOL = 1e-5
# A label may be that of a centroid farther away by the rounding of float32 distances: products of
# up to 300 dimensions.
TIE_RTOL = 2e-5

# A distance of 4096 squares added up in float32, in the worst order: that many times 2^-24.
LONG_DISTANCE_RTOL = 4096 * 2.0**-24

# With centroids rounded to bfloat16, to 2^-9, another solution as good as the exact one is found.
FAST_RTOL = 0.02

# Samples, dimensions, centroids.
SHAPES = [(1, 1, 1), (7, 1, 3), (19, 5, 19), (111, 3, 7), (60, 37, 13), (90, 130, 33), (45, 300, 5)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ITERATIONS = range(30)
MANY_DIMENSIONS = 4096
LIMITS, LIMITS_FAR_APART, LIMIT_OF_BLOCKS = [0, 1, 2, 5, 100], [0, 3, 20], 2  # of iterations
SEEDS = range(5)
# Also such that a block sums up several sums of samples a thread, and draws 9 candidates at once.
DRAWS = [(7, 3, 7), (200, 12, 9), (139, 260, 5), (33_000, 2, 3), (1200, 5, 1100)]
if DEVICE == "cuda-on-cpu":  # where an iteration of the CUDA kernels takes its time
    SHAPES, ITERATIONS, MANY_DIMENSIONS = SHAPES[::2], range(5), 1024
    LIMITS, LIMITS_FAR_APART, LIMIT_OF_BLOCKS, SEEDS = [0, 1, 100], [0, 2], 1, range(2)
    DRAWS = DRAWS[:3]


def clumps(count: int, dim: int, k: int, seed: int = 0) -> torch.Tensor:
    """Samples around more places than one asks for, so that iterations have something to do."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(2 * k, dim, generator=generator) * 3
    at = torch.randint(2 * k, (count,), generator=generator)
    return places[at] + torch.randn(count, dim, generator=generator)


def exact_distances(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Squared distances in float64, (N, k)."""
    return (x.double()[:, None] - centroids.double()).square().sum(dim=2)


def assert_nearest(x: torch.Tensor, centroids: torch.Tensor, labels: torch.Tensor) -> None:
    distances = exact_distances(x, centroids)
    own = distances.gather(1, labels[:, None])[:, 0]
    scale = x.double().square().sum(1) + centroids.double().square().sum(1).max()
    assert (own <= distances.amin(1) + TIE_RTOL * scale).all()


def assert_same(one: ops.KMeansResult, other: ops.KMeansResult) -> None:
    for name, a, b in zip(one._fields, one, other, strict=True):
        assert a.equal(b), name


def assert_like_reference(x: torch.Tensor, k: int, **options: object) -> ops.KMeansResult:
    """Compare with the reference in float64, for well separated samples."""
    found = ops.kmeans(x, k, **options)  # type: ignore[arg-type]
    given = options.get("init") if isinstance(options.get("init"), torch.Tensor) else None
    init = "given" if given is not None else str(options.get("init", "k-means++"))
    centroids, labels, inertia, n_iter = reference.kmeans(
        x.double(),
        [0, len(x)],
        [k],
        init,
        given,  # type: ignore[arg-type]
        options.get("max_iter", 100),  # type: ignore[arg-type]
        options.get("tol", 1e-4),  # type: ignore[arg-type]
        False,
        options.get("seed", 0),  # type: ignore[arg-type]
    )
    assert found.labels.equal(labels)
    scale = float(x.double().abs().max())
    torch.testing.assert_close(
        found.centroids.double(), centroids, rtol=MEAN_RTOL, atol=MEAN_RTOL * scale
    )
    torch.testing.assert_close(
        found.inertia, inertia[0], rtol=INERTIA_RTOL, atol=INERTIA_RTOL * scale**2
    )
    assert int(found.n_iter) == int(n_iter)
    return found


class TestKMeans:
    @pytest.mark.parametrize(("count", "dim", "k"), SHAPES)
    @pytest.mark.parametrize("init", ["k-means++", "random"])
    def test_is_what_the_reference_makes(
        self, isa: str, count: int, dim: int, k: int, init: str
    ) -> None:
        result = assert_like_reference(clumps(count, dim, k), k, init=init, tol=0.0, seed=3)
        assert result.centroids.shape == (k, dim)
        assert result.centroids.dtype == torch.float32
        assert result.labels.shape == (count,)
        assert result.labels.dtype == torch.int64
        assert result.inertia.shape == ()
        assert result.n_iter.shape == ()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_half_precision_is_widened_exactly(self, isa: str, dtype: torch.dtype) -> None:
        x = clumps(70, 19, 6).to(dtype)
        assert_same(ops.kmeans(x, 6), ops.kmeans(x.float(), 6))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_parallel_samples_of_many_dimensions_get_their_nearest_centroid(
        self, dtype: torch.dtype
    ) -> None:
        """Long sums of products of one sign, from which tensor cores cut off bits at every step."""
        generator = torch.Generator().manual_seed(5)
        dim = MANY_DIMENSIONS
        direction = torch.rand(dim, generator=generator) + 0.5
        lengths = torch.rand(128, 1, generator=generator) * 2 + 1
        x = (lengths * direction + 1e-3 * torch.rand(128, dim, generator=generator)).to(dtype)
        centroids = torch.linspace(1, 3, 17)[:, None] * direction
        found = ops.kmeans(x, 17, init=centroids, max_iter=0)
        distances = exact_distances(x, centroids)
        own = distances.gather(1, found.labels[:, None])[:, 0]
        assert (own <= distances.amin(1) * (1 + LONG_DISTANCE_RTOL)).all()
        assert (distances.argmin(1) == found.labels).float().mean() > 0.9  # few are ties
        assert len(found.labels.unique()) > 12

    def test_labels_centroids_and_inertia_are_of_one_iteration(self, isa: str) -> None:
        x = torch.randn(150, 7, generator=torch.Generator().manual_seed(0))
        for max_iter in LIMITS:
            result = ops.kmeans(x, 11, max_iter=max_iter, tol=0.0)
            assert_nearest(x, result.centroids, result.labels)
            own = exact_distances(x, result.centroids).gather(1, result.labels[:, None]).sum()
            torch.testing.assert_close(result.inertia, own, rtol=INERTIA_RTOL, atol=0.0)
        for centre in range(11):
            mean = x[result.labels == centre].double().mean(dim=0)
            torch.testing.assert_close(
                result.centroids[centre].double(), mean, rtol=MEAN_RTOL, atol=MEAN_RTOL
            )

    def test_inertia_never_rises(self, isa: str) -> None:
        x = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
        runs = [
            ops.kmeans(x, 9, init="random", max_iter=iterations, tol=0.0)
            for iterations in ITERATIONS
        ]
        inertia = torch.stack([run.inertia for run in runs])
        assert (inertia.diff() <= INERTIA_RTOL * inertia[1:]).all()
        assert inertia[-1] < 0.9 * inertia[0]
        assert [int(run.n_iter) for run in runs[:5]] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_fast_inertia_never_rises(self, dtype: torch.dtype) -> None:
        x = torch.randn(200, 5, generator=torch.Generator().manual_seed(3)).to(dtype)
        options: dict[str, Any] = {"init": "random", "tol": 0.0, "precision": "fast"}
        inertia = torch.stack(
            [ops.kmeans(x, 9, max_iter=iterations, **options).inertia for iterations in ITERATIONS]
        )
        assert (inertia.diff() <= INERTIA_RTOL * inertia[1:]).all()

    def test_tolerance_ends_sooner(self) -> None:
        x = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
        exact = ops.kmeans(x, 8, tol=0.0)
        loose = ops.kmeans(x, 8, tol=0.05)
        assert 1 <= int(loose.n_iter) < int(exact.n_iter)
        assert_nearest(x, loose.centroids, loose.labels)

    def test_a_settled_start_stays(self, isa: str) -> None:
        x = clumps(120, 9, 7)
        settled = ops.kmeans(x, 7, tol=0.0)
        again = ops.kmeans(x, 7, init=settled.centroids, tol=0.0)
        assert int(again.n_iter) == 1
        assert again.labels.equal(settled.labels)
        torch.testing.assert_close(again.centroids, settled.centroids, rtol=MEAN_RTOL, atol=1e-6)

    def test_far_from_the_origin(self, isa: str) -> None:
        x = clumps(100, 6, 5)
        moved = x + 1000.0  # exact distances, whatever the rounding of this sum
        init = moved[:5].clone()
        assert_like_reference(moved, 5, init=init, tol=0.0)

    def test_seeds_differ(self) -> None:
        x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        starts = [ops.kmeans(x, 5, max_iter=0, seed=seed).centroids for seed in range(4)]
        assert not any(a.equal(b) for a, b in itertools.combinations(starts, 2))

    def test_random_start_is_without_replacement(self, isa: str) -> None:
        x = torch.arange(23.0)[:, None]
        start = ops.kmeans(x, 23, init="random", max_iter=0, seed=1).centroids
        assert start.flatten().sort().values.equal(x.flatten())
        assert not start.equal(x)

    def test_plusplus_is_better_than_random(self, isa: str) -> None:
        x = torch.cat([torch.randn(40, 2) + 50 * torch.tensor([i, i % 3]) for i in range(8)])
        runs = [ops.kmeans(x, 8, seed=seed, max_iter=1) for seed in SEEDS]
        assert all(float(run.inertia) < 4 * 2 * len(x) for run in runs)

    @pytest.mark.parametrize(("count", "dim", "k"), DRAWS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_starts_are_the_same_on_every_device(
        self, count: int, dim: int, k: int, dtype: torch.dtype
    ) -> None:
        """Distances and sums of whole numbers have no rounding."""
        x = torch.randint(-9, 9, (count, dim), generator=torch.Generator().manual_seed(2)).to(dtype)
        settings = ("k-means++", None, 0, 0.0, False, 5, "exact")
        expected = _kmeans._cpu_kmeans(x, [0, count], [k], *settings)[0]
        assert ops.kmeans(x, k, max_iter=0, seed=5).centroids.equal(expected)

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("problems", [1, 3])
    def test_threads_do_not_matter(
        self, threads: int, problems: int, dtype: torch.dtype, on_cpu: None
    ) -> None:
        x = torch.randn(problems, 400, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        expected = ops.kmeans(x, 40), ops.nearest_samples(x, x[:, :50], 3)
        torch.set_num_threads(threads)
        found = ops.kmeans(x, 40), ops.nearest_samples(x, x[:, :50], 3)
        torch.set_num_threads(before)
        assert_same(found[0], expected[0])
        assert found[1].equal(expected[1])

    def test_bounds_change_nothing(self, isa: str) -> None:
        """More centroids than a panel holds, and iterations in which few of them move."""
        x = clumps(400, 10, 40, seed=5)
        assert_like_reference(x, 70, init=x[:70].clone(), tol=0.0)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("dim", [2, 70, 88])
    def test_more_of_all_than_a_block_takes(self, dim: int, dtype: torch.dtype) -> None:
        x = clumps(300, dim, 100, seed=6).to(dtype)
        found = ops.kmeans(x, 140, init=x[:140].float(), max_iter=LIMIT_OF_BLOCKS, tol=0.0)
        assert_nearest(x, found.centroids, found.labels)
        own = exact_distances(x, found.centroids).gather(1, found.labels[:, None]).sum()
        torch.testing.assert_close(found.inertia, own, rtol=INERTIA_RTOL, atol=0.0)

    @pytest.mark.parametrize(
        ("dtype", "scale", "spread"),
        [
            (torch.float32, 1.0, "of dimensions"),
            (torch.float32, 1.0, "of centroids"),
            (torch.float32, 1e-15, "of samples"),
            (torch.bfloat16, 1e11, "of centroids"),
            (torch.bfloat16, 1.0, "of dimensions"),
            (torch.float16, 1.0, "of dimensions"),
            (torch.float16, 1e-5, "even"),  # most values are below float16's normal numbers
        ],
    )
    def test_labels_are_exact_at_any_scale(
        self, dtype: torch.dtype, scale: float, spread: str
    ) -> None:
        """Where tensor cores of 16 bits need scales, terms and bounds of their errors."""
        generator = torch.Generator().manual_seed(8)
        x = torch.randn(135, 104, generator=generator)[:, : 104 if scale == 1 else 77]
        centroids = x[:5].repeat(27, 1) + torch.randn(135, x.shape[1], generator=generator)
        if spread == "of dimensions":
            factors = 10.0 ** -torch.arange(x.shape[1]).remainder(5)
            x, centroids = x * factors, centroids * factors
        if spread == "of samples":
            x[7] *= 1e3
        if spread == "of centroids":
            centroids[9] *= 1e6
        x, centroids = (x * scale).to(dtype), centroids * scale
        labels = ops.kmeans(x, 135, init=centroids, max_iter=0).labels
        assert labels.equal(exact_distances(x, centroids).argmin(1))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("count", "dim"), [(140, 3), (100, 40), (140, 264), (70, 264)])
    def test_fast_precision_is_near(self, count: int, dim: int, dtype: torch.dtype) -> None:
        x = clumps(count, dim, 9, seed=7).to(dtype)
        start = x[:9].float()
        fast = ops.kmeans(x, 9, init=start, max_iter=3, tol=0.0, precision="fast")
        given = (x.double(), [0, len(x)], [9], "given", start, 3, 0.0, False, 0)
        _, _, exact, _ = reference.kmeans(*given)
        torch.testing.assert_close(fast.inertia, exact[0], rtol=FAST_RTOL, atol=0.0)

    def test_same_start_as_scikit_learn(self, isa: str) -> None:
        cluster = pytest.importorskip("sklearn.cluster")
        x = torch.randn(300, 8, generator=torch.Generator().manual_seed(4))
        start = x[:10].clone()
        ours = ops.kmeans(x, 10, init=start, tol=0.0)
        theirs = cluster.KMeans(10, init=start.numpy(), n_init=1, tol=0, max_iter=100).fit(x)
        torch.testing.assert_close(float(ours.inertia), theirs.inertia_, rtol=1e-4, atol=0.0)
        assert (ours.labels.numpy() == theirs.labels_).mean() > 0.99


class TestSeveral:
    def test_a_problem_among_others_is_as_alone(self, isa: str) -> None:
        sizes, k = [5, 31, 1, 60], [2, 7, 1, 13]
        x = clumps(sum(sizes), 6, 10)
        offsets = [0, *itertools.accumulate(sizes)]
        together = ops.kmeans(x, k, offsets=offsets, seed=9)
        first = [0, *itertools.accumulate(k)]
        assert together.centroids.shape == (sum(k), 6)
        for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
            alone = ops.kmeans(x[begin:end], k[b], seed=9)
            assert together.centroids[first[b] : first[b + 1]].equal(alone.centroids)
            assert together.labels[begin:end].equal(alone.labels)
            assert together.inertia[b] == alone.inertia
            assert together.n_iter[b] == alone.n_iter

    def test_a_batch_is_problems_of_one_size(self, isa: str) -> None:
        x = clumps(80, 5, 8).view(4, 20, 5)
        batch = ops.kmeans(x, 3)
        ragged = ops.kmeans(x.view(80, 5), 3, offsets=[0, 20, 40, 60, 80])
        assert batch.centroids.shape == (4, 3, 5)
        assert batch.labels.shape == (4, 20)
        assert batch.inertia.shape == batch.n_iter.shape == (4,)
        assert ragged.centroids.equal(batch.centroids)
        assert ragged.labels.equal(batch.labels.view(80))
        result = ops.kmeans(x, [3, 3, 3, 3])
        assert result.centroids.equal(batch.centroids.view(12, 5))

    def test_given_centroids_of_each(self, isa: str) -> None:
        x = clumps(60, 4, 6)
        offsets, k = torch.tensor([0, 25, 60]), (2, 4)
        init = x[[0, 1, 30, 31, 32, 33]]
        result = ops.kmeans(x, k, offsets=offsets, init=init)
        alone = ops.kmeans(x[25:], 4, init=init[2:])
        assert result.centroids[2:].equal(alone.centroids)
        batch = ops.kmeans(x.view(2, 30, 4), 2, init=x.view(2, 30, 4)[:, :2])
        assert batch.centroids[1].equal(ops.kmeans(x[30:], 2, init=x[30:32]).centroids)

    def test_none(self) -> None:
        result = ops.kmeans(torch.empty(0, 10, 3), 2)
        assert result.centroids.shape == (0, 2, 3)
        assert result.labels.shape == (0, 10)
        result = ops.kmeans(torch.empty(0, 3), [], offsets=[0])
        assert result.centroids.shape == (0, 3)


class TestHardSamples:
    @pytest.mark.parametrize("k", [1, 4, 9])
    def test_all_alike(self, isa: str, k: int) -> None:
        x = torch.full((9, 5), 2.5)
        result = ops.kmeans(x, k)
        assert result.centroids.equal(x[:k])
        assert (result.labels == 0).all()
        assert float(result.inertia) == 0.0

    @pytest.mark.parametrize("k", [6, 8, 30])
    def test_as_many_centroids_as_places_or_more(self, isa: str, k: int) -> None:
        places = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        x = places.repeat(5, 1)
        result = ops.kmeans(x, k, seed=2)
        assert float(result.inertia) == pytest.approx(0.0, abs=1e-10)
        assert len(result.labels.unique()) == 6
        assert result.centroids.isfinite().all()

    @pytest.mark.parametrize("width", [0.01, 0.1, 1.0])
    def test_two_places_far_apart(self, isa: str, width: float) -> None:
        """Where products are a million times the squared distances that count."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(240, 2, generator=generator) * width
        x += torch.where(torch.arange(240) < 120, 1000.0, -1000.0)[:, None]
        start = x[::12].clone()
        assert ops.nearest_samples(x, start, 1)[:, 0].equal(torch.arange(0, 240, 12))
        for max_iter in LIMITS_FAR_APART:
            result = ops.kmeans(x, 20, init=start, max_iter=max_iter, tol=0.0)
            distances = (x[:, None] - result.centroids).square().sum(2)
            own = distances.gather(1, result.labels[:, None])[:, 0]
            assert (own <= distances.amin(1) * (1 + TIE_RTOL)).all()

    def test_one_sample(self, isa: str) -> None:
        x = torch.tensor([[3.0, -1.0]])
        result = ops.kmeans(x, 1)
        assert result.centroids.equal(x)
        assert float(result.inertia) == 0.0

    def test_centroids_without_samples_are_seeded_again(self, isa: str) -> None:
        x = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0]])
        init = torch.tensor([[1.0], [1000.0], [-1000.0]])
        result = assert_like_reference(x, 3, init=init, tol=0.0)
        # After one update 30 and 11 have centroids of their own, being the farthest from 1.
        once = ops.kmeans(x, 3, init=init, max_iter=1, tol=0.0)
        assert once.centroids.flatten().tolist() == [3.25, 30.0, 11.0]
        assert result.centroids.flatten().tolist() == [1.0, 30.0, 10.5]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_many_centroids_without_samples(self, dtype: torch.dtype) -> None:
        """Equal distances, clusters that must keep their only sample, and several problems."""
        x = torch.randint(-5, 6, (330, 3), generator=torch.Generator().manual_seed(3)).to(dtype)
        x[:4] *= 20  # alone in their clusters
        far = torch.full((70, 3), 4000.0)
        init = torch.cat([x[:4] * 1.5, x[4:9], far, x[310:312], far[:20]]).float()
        offsets, k = [0, 300, 330], [79, 22]
        found = ops.kmeans(x, k, offsets=offsets, init=init, max_iter=1, tol=0.0)
        given = (x.double(), offsets, k, "given", init, 1, 0.0, False, 0)
        expected = reference.kmeans(*given)[0]
        torch.testing.assert_close(found.centroids.double(), expected, rtol=MEAN_RTOL, atol=0.0)

    def test_ties_go_to_the_lower_centroid(self, isa: str) -> None:
        x = torch.tensor([[0.0], [2.0], [4.0], [1.0], [3.0]])
        init = torch.tensor([[4.0], [2.0], [0.0], [2.0]])
        assert ops.kmeans(x, 4, init=init, max_iter=0).labels.tolist() == [2, 1, 0, 1, 0]

    def test_strides_and_arrays(self, isa: str) -> None:
        x = clumps(40, 12, 4)
        expected = ops.kmeans(x[::2, 1::3].contiguous(), 4)
        assert_same(ops.kmeans(x[::2, 1::3], 4), expected)
        assert_same(ops.kmeans(x[::2, 1::3].numpy(), 4), expected)
        assert_same(ops.kmeans(x.t().contiguous().t()[::2, 1::3], 4), expected)


class TestCosine:
    def test_is_euclidean_on_the_sphere(self, isa: str) -> None:
        x = clumps(90, 6, 5) * torch.rand(90, 1) * 5
        unit = x.double() / x.double().norm(dim=1, keepdim=True)
        found = ops.kmeans(x, 5, metric="cosine", tol=0.0)
        similarity = unit @ found.centroids.double().t()
        assert similarity.argmax(dim=1).equal(found.labels)
        torch.testing.assert_close(
            found.centroids.norm(dim=1), torch.ones(5), rtol=0.0, atol=MEAN_RTOL
        )
        torch.testing.assert_close(
            found.inertia, (1 - similarity.amax(dim=1)).sum(), rtol=INERTIA_RTOL, atol=1e-6
        )
        for centre in range(5):
            mean = unit[found.labels == centre].sum(dim=0)
            torch.testing.assert_close(
                found.centroids[centre].double(), mean / mean.norm(), rtol=1e-5, atol=1e-6
            )

    def test_length_does_not_matter(self, isa: str) -> None:
        x = clumps(50, 6, 4)
        lengths = 2.0 ** torch.arange(50).remainder(9)[:, None]
        assert_same(ops.kmeans(x, 4, metric="cosine"), ops.kmeans(x * lengths, 4, metric="cosine"))

    def test_zeros_have_no_direction(self, isa: str) -> None:
        x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
        with pytest.raises(ValueError, match=f"for cosine not zero.* {faulty_rows(2)}"):
            ops.kmeans(x, 1, metric="cosine")

    @pytest.mark.parametrize("scale", [1e-38, 1e18])
    def test_squares_that_float32_does_not_have(self, isa: str, scale: float) -> None:
        x = clumps(40, 6, 4)
        expected = ops.kmeans(x, 4, metric="cosine")
        found = ops.kmeans(x * scale, 4, metric="cosine")
        assert found.labels.equal(expected.labels)

    def test_inertia_never_rises(self, isa: str) -> None:
        x = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))
        runs = [
            ops.kmeans(x, 7, init="random", metric="cosine", max_iter=iterations, tol=0.0)
            for iterations in ITERATIONS
        ]
        inertia = torch.stack([run.inertia for run in runs])
        assert (inertia.diff() <= INERTIA_RTOL * inertia[1:]).all()


@NOT_ON_FIBERS
class TestFloat64:
    """Samples that float32 cannot tell apart where they lie."""

    FAR = torch.tensor([1.7e9, -4.6e6, 3.0], dtype=torch.float64)

    @pytest.mark.parametrize("power", [0, 60, -60])
    def test_is_what_the_reference_makes_in_float64(self, isa: str, power: int) -> None:
        x = clumps(90, 3, 5).double() * 2.0**power + self.FAR * 2.0 ** max(power, 0)
        if power < 0:
            x = clumps(90, 3, 5).double() * 2.0**power  # whose squares float32 does not have
        found = ops.kmeans(x, 5, tol=0.0, seed=2)
        scale = 2.0**-power
        expected = reference.kmeans(
            (x - x[0]) * scale, [0, 90], [5], "k-means++", None, 100, 0.0, False, 2
        )
        centroids, labels, inertia, _ = expected
        assert found.labels.equal(labels)
        assert found.centroids.dtype == torch.float64
        torch.testing.assert_close(
            (found.centroids - x[0]) * scale, centroids, rtol=0.0, atol=20 * MEAN_RTOL
        )
        torch.testing.assert_close(
            found.inertia * scale**2, inertia[0], rtol=INERTIA_RTOL, atol=0.0
        )

    def test_a_problem_among_others_is_as_alone(self, isa: str) -> None:
        sizes, k = [5, 300, 1, 60], [2, 7, 1, 13]
        x = clumps(sum(sizes), 3, 10).double() + self.FAR
        x[5:305] *= 7
        offsets = [0, *itertools.accumulate(sizes)]
        together = ops.kmeans(x, k, offsets=offsets, seed=9)
        chosen = ops.representatives(x, k, offsets=offsets, seed=9)
        first = [0, *itertools.accumulate(k)]
        for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
            alone = ops.kmeans(x[begin:end], k[b], seed=9)
            own = slice(first[b], first[b + 1])
            assert together.centroids[own].equal(alone.centroids)
            assert together.labels[begin:end].equal(alone.labels)
            assert together.inertia[b] == alone.inertia
            nearest = ops.nearest_samples(x[begin:end], alone.centroids, 1)
            assert chosen[own].equal(nearest + begin)

    def test_batches_and_given_centroids(self, isa: str) -> None:
        x = clumps(60, 3, 6).double().view(2, 30, 3) + self.FAR
        start = x[:, :4].clone()
        batch = ops.kmeans(x, 4, init=start, tol=0.0)
        assert batch.centroids.shape == (2, 4, 3)
        assert batch.centroids[1].equal(ops.kmeans(x[1], 4, init=start[1], tol=0.0).centroids)
        for b in range(2):
            exact = (x[b][:, None] - batch.centroids[b]).square().sum(2)
            assert exact.argmin(1).equal(batch.labels[b])
            nearest = ops.nearest_samples(x[b], batch.centroids[b], 30)
            assert nearest.equal(exact.t().argsort(dim=1, stable=True))

    def test_outliers_do_not_take_the_digits_of_the_rest(self, isa: str) -> None:
        x = torch.cat([clumps(200, 1, 3).double(), torch.full((2, 1), -1.7e5)]) + 1.7e9
        found = ops.kmeans(x, 9, tol=0.0)
        exact = (x[:, None] - found.centroids).square().sum(2)
        assert (exact.gather(1, found.labels[:, None])[:, 0] <= exact.amin(1) + 0.05).all()

    def test_cosine_takes_directions(self, isa: str) -> None:
        x = clumps(50, 6, 4).double()
        found = ops.kmeans(x * 1e-200, 4, metric="cosine")
        assert found.labels.equal(ops.kmeans(x, 4, metric="cosine").labels)
        assert found.centroids.dtype == torch.float64

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite_are_named(self, isa: str, value: float) -> None:
        x = X.double() * 1e30
        x[4, 1] = value
        with pytest.raises(ValueError, match=f"x must be finite.* {faulty_rows(4)}"):
            ops.kmeans(x, 2)
        with pytest.raises(ValueError, match="x must be finite"):
            ops.nearest_samples(x, X[:2], 1)

    def test_equal_samples_and_none(self) -> None:
        x = self.FAR.expand(4, 3)
        found = ops.kmeans(x, 2)
        assert found.centroids.equal(self.FAR.expand(2, 3))
        assert float(found.inertia) == 0.0
        assert ops.kmeans(torch.empty(0, 10, 3).double(), 2).centroids.shape == (0, 2, 3)

    def test_float64_centroids_are_for_float64_samples(self) -> None:
        with pytest.raises(TypeError, match=r"init must be float32 .*, got float64"):
            ops.kmeans(X, 2, init=X[:2].double())
        with pytest.raises(TypeError, match=r"centroids must be float32 .*, got float64"):
            ops.nearest_samples(X, X[:2].double(), 1)


@NOT_ON_FIBERS
class TestWeights:
    def test_whole_weights_are_repeated_samples(self, isa: str) -> None:
        x = clumps(40, 5, 6)
        weights = torch.arange(40).remainder(4)
        repeated = x.repeat_interleave(weights, 0)
        start = x[1:7].clone()
        found = ops.kmeans(x, 6, init=start, weights=weights.float())
        expected = ops.kmeans(repeated, 6, init=start)
        torch.testing.assert_close(found.centroids, expected.centroids, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.inertia, expected.inertia, rtol=INERTIA_RTOL, atol=0.0)
        assert found.labels.repeat_interleave(weights).equal(expected.labels)

    @pytest.mark.parametrize("init", ["k-means++", "random"])
    def test_is_what_the_reference_makes(self, isa: str, init: str) -> None:
        x = clumps(70, 5, 6)
        weights = torch.rand(70, generator=torch.Generator().manual_seed(0)) + 0.05
        found = ops.kmeans(x, 6, init=init, weights=weights, seed=3)
        centroids, labels, inertia, n_iter = reference.kmeans(
            x.double(), [0, 70], [6], init, None, 100, 1e-4, False, 3, weights=weights.double()
        )
        assert found.labels.equal(labels)
        torch.testing.assert_close(found.centroids.double(), centroids, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.inertia, inertia[0], rtol=INERTIA_RTOL, atol=0.0)
        assert int(found.n_iter) == int(n_iter)

    @pytest.mark.parametrize("init", ["k-means++", "random"])
    def test_samples_without_weight_are_no_starts(self, isa: str, init: str) -> None:
        x = torch.arange(30.0)[:, None]
        weights = (torch.arange(30) % 3 == 0).float()
        for seed in range(5):
            start = ops.kmeans(x, 10, init=init, max_iter=0, seed=seed, weights=weights).centroids
            assert start.flatten().sort().values.equal(x[::3, 0])

    def test_heavy_samples_are_drawn_more_often(self, isa: str) -> None:
        x = torch.arange(10.0)[:, None]
        weights = torch.ones(10)
        weights[7] = 9.0
        for init in ("k-means++", "random"):
            starts = [
                float(ops.kmeans(x, 1, init=init, max_iter=0, seed=seed, weights=weights).centroids)
                for seed in range(100)
            ]
            assert 30 < starts.count(7.0) < 70  # of a half, four deviations

    def test_equal_weights_change_nothing_but_the_inertia(self, isa: str) -> None:
        x = clumps(80, 4, 6)
        found, expected = ops.kmeans(x, 6, weights=torch.full((80,), 4.0)), ops.kmeans(x, 6)
        assert found.labels.equal(expected.labels)
        torch.testing.assert_close(found.centroids, expected.centroids, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.inertia, 4 * expected.inertia, rtol=INERTIA_RTOL, atol=0.0)

    def test_a_problem_among_others_is_as_alone(self, isa: str) -> None:
        x = clumps(60, 4, 6)
        weights = torch.rand(60, generator=torch.Generator().manual_seed(1))
        together = ops.kmeans(x, [3, 4], offsets=[0, 25, 60], weights=weights)
        alone = ops.kmeans(x[25:], 4, weights=weights[25:])
        assert together.centroids[3:].equal(alone.centroids)
        assert together.labels[25:].equal(alone.labels)
        batch = ops.kmeans(x.view(2, 30, 4), 3, weights=weights.view(2, 30).double())
        assert batch.labels[1].equal(ops.kmeans(x[30:], 3, weights=weights[30:]).labels)

    @pytest.mark.parametrize(
        ("weights", "error", "message"),
        [
            (torch.ones(11), ValueError, r"weights must have shape \(12\), got \(11,\)"),
            (torch.ones(12).long(), TypeError, "weights must be float32 .*, got int64"),
            (torch.zeros(12), ValueError, "weights must not all be zero"),
            (-torch.eye(12)[3], ValueError, "weights must be finite and not negative, .* row 3"),
            (torch.full((12,), torch.nan), ValueError, "not negative, got nan at row 0"),
            (torch.full((12,), torch.inf), ValueError, "not negative, got inf at row 0"),
        ],
    )
    def test_refuses(self, weights: torch.Tensor, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            ops.kmeans(X, 2, weights=weights)

    def test_is_the_same_in_float64_on_every_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        registered: dict[str, list[Any]] = {}

        def register(schema: str, *implementations: Any) -> None:
            registered[schema.partition("(")[0]] = list(implementations)

        monkeypatch.setattr(_dispatch, "register", register)
        spec = importlib.util.spec_from_file_location("registers_again", _kmeans.__file__)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        cpu, cuda, other, _ = registered["weighted_kmeans"]
        assert cuda is None  # and so nobody is warned that this build has no kernels for it
        # The second cluster's mean lies between two float32 numbers.
        x = torch.tensor([[0.0], [1.0], [4096.0], [4096.0 + 2**-11]])
        weights = torch.tensor([1.0, 3.0, 2.0, 2.0], dtype=torch.float64)
        settings = ("given", x[::2].clone(), 10, 0.0, False, 0, "exact")
        for run in (cpu, other):
            _, labels, inertia, _ = run(x, [0, 4], [2], *settings, weights)
            assert labels.tolist() == [0, 0, 1, 1]
            assert float(inertia) == 0.75 + 2 * 2 * 2.0**-24
            for bad in (0 * weights, -weights, weights * torch.nan):
                with pytest.raises(ValueError, match=r"^weights must"):
                    run(x, [0, 4], [2], *settings, bad)


class TestNearestSamples:
    @pytest.mark.parametrize(("count", "dim", "k"), SHAPES)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_is_a_sort_of_all_distances(
        self, isa: str, count: int, dim: int, k: int, dtype: torch.dtype
    ) -> None:
        x = torch.randn(count, dim, generator=torch.Generator().manual_seed(0)).to(dtype)
        centroids = torch.randn(k, dim, generator=torch.Generator().manual_seed(1))
        wanted = min(count, 5)
        nearest = ops.nearest_samples(x, centroids, wanted)
        assert nearest.dtype == torch.int64
        assert nearest.shape == (k, wanted)
        distances = exact_distances(x, centroids).t()
        expected = distances.sort(dim=1).values[:, :wanted]
        torch.testing.assert_close(
            distances.gather(1, nearest), expected, rtol=TIE_RTOL, atol=TIE_RTOL
        )
        assert all(len(row.unique()) == wanted for row in nearest)

    def test_ties_go_to_the_lower_sample(self, isa: str) -> None:
        x = torch.tensor([[2.0], [0.0], [1.0], [0.0], [2.0]]).repeat(8, 1)
        nearest = ops.nearest_samples(x, torch.tensor([[0.0], [2.0]]), 20)
        low = [i for i in range(40) if i % 5 in (1, 3)]
        high = [i for i in range(40) if i % 5 in (0, 4)]
        middle = [i for i in range(40) if i % 5 == 2]
        assert nearest.tolist() == [(low + middle)[:20], (high + middle)[:20]]

    @pytest.mark.parametrize("count", [1, 7])
    def test_ties_in_far_apart_places(self, isa: str, count: int) -> None:
        # So many samples of few values that those as near lie in different parts of them.
        x = torch.randint(3, (700, 2), generator=torch.Generator().manual_seed(0)).float()
        centroids = torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.5, 3.0]])
        nearest = ops.nearest_samples(x, centroids, count, [0, 600, 700], [2, 1])
        order = exact_distances(x[:600], centroids[:2]).t().argsort(dim=1, stable=True)
        assert nearest[:2].equal(order[:, :count])
        order = exact_distances(x[600:], centroids[2:]).t().argsort(dim=1, stable=True)
        assert nearest[2:].equal(order[:, :count] + 600)

    def test_every_sample(self, isa: str) -> None:
        x = torch.randn(33, 3, generator=torch.Generator().manual_seed(0))
        nearest = ops.nearest_samples(x, x[:4], 33)
        assert nearest[:, 0].tolist() == [0, 1, 2, 3]
        assert nearest.sort(dim=1).values.equal(torch.arange(33).expand(4, 33))

    def test_several_problems(self, isa: str) -> None:
        x = clumps(50, 4, 5)
        offsets, k = [0, 20, 50], [2, 3]
        centroids = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
        rows = ops.nearest_samples(x, centroids, 4, offsets, k)
        assert rows[:2].equal(ops.nearest_samples(x[:20], centroids[:2], 4))
        assert rows[2:].equal(ops.nearest_samples(x[20:], centroids[2:], 4) + 20)
        batch = ops.nearest_samples(x.view(2, 25, 4), centroids[:4].view(2, 2, 4), 4)
        assert batch[1].equal(ops.nearest_samples(x[25:], centroids[2:4], 4))

    def test_a_mean_far_from_the_origin(self, isa: str) -> None:
        x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        far = x + 1000.0
        nearest = ops.nearest_samples(far, far[:6], 3)
        expected = exact_distances(far, far[:6]).t().argsort(dim=1, stable=True)[:, :3]
        assert nearest.equal(expected)

    def test_none(self) -> None:
        nearest = ops.nearest_samples(torch.empty(0, 10, 3), torch.empty(0, 2, 3), 4)
        assert nearest.shape == (0, 2, 4)


class TestRepresentatives:
    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    def test_is_both(self, isa: str, metric: str) -> None:
        x = clumps(60, 8, 5)
        chosen = ops.representatives(x, 6, 2, metric=metric, seed=4)
        centroids = ops.kmeans(x, 6, metric=metric, seed=4).centroids
        unit = x / x.norm(dim=1, keepdim=True) if metric == "cosine" else x
        assert chosen.equal(ops.nearest_samples(unit, centroids, 2))
        assert chosen.shape == (6, 2)

    def test_of_several_problems_are_rows(self, isa: str) -> None:
        x = clumps(60, 8, 5)
        chosen = ops.representatives(x, 4, offsets=[0, 20, 60])
        assert chosen.shape == (2, 4, 1)
        assert (chosen[0] < 20).all()
        assert (chosen[1] >= 20).all()
        alone = ops.representatives(x[20:], 4)
        assert chosen[1].equal(alone + 20)
        batch = ops.representatives(x.view(3, 20, 8), [2, 3, 4], 2)
        assert batch.shape == (9, 2)
        assert batch[5:].equal(ops.representatives(x[40:], 4, 2))


X = clumps(12, 3, 2)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"k": 13}, ValueError, "k must be at most the number of samples, 12, got 13"),
            ({"k": 0}, ValueError, "k must be at least 1, got 0"),
            ({"k": 2.0}, TypeError, "k must be an int, got float"),
            ({"k": [2]}, TypeError, "k must be an int for one problem"),
            ({"k": [2, 2, 2], "offsets": [0, 6, 12]}, ValueError, "k must be one number or 2"),
            ({"k": [2, 7], "offsets": [0, 6, 12]}, ValueError, "of problem 1, 6, got 7"),
            ({"x": X.long()}, ValueError, "x must be floating point, got int64"),
            ({"x": X.bool()}, ValueError, "x must be floating point, got bool"),
            ({"x": X[0]}, ValueError, r"x must have shape \(N, D\) or \(B, N, D\), got \(3,\)"),
            ({"x": X[:, :0]}, ValueError, "at least one dimension"),
            ({"x": X.view(2, 6, 3), "offsets": [0, 2]}, ValueError, r"shape \(total, D\)"),
            ({"x": "samples"}, TypeError, "x must be a tensor or speak DLPack, got str"),
            ({"offsets": [1, 12]}, ValueError, r"offsets must start at 0, got \[1\]"),
            ({"offsets": []}, ValueError, "offsets must start at 0"),
            ({"offsets": [0, 8, 4, 12]}, ValueError, "offsets must rise, but 8 is followed by 4"),
            ({"offsets": [0, 5]}, ValueError, "offsets must end at the rows of x, 12, got 5"),
            ({"offsets": [0, 5, 5, 12]}, ValueError, "problem 1 without samples: 5 to 5"),
            ({"offsets": torch.tensor([0.0, 12.0])}, TypeError, "offsets must be int64 or int32"),
            ({"offsets": [0, 12.0]}, TypeError, "offsets must be an int, got float"),
            ({"init": torch.zeros(2, 4)}, ValueError, r"init must have shape \(2, 3\)"),
            ({"init": torch.zeros(3, 3)}, ValueError, r"init must have shape \(2, 3\)"),
            ({"init": "best"}, ValueError, "init must be one of k-means.., random, got 'best'"),
            ({"metric": "l1"}, ValueError, "metric must be one of euclidean, cosine, got 'l1'"),
            ({"precision": "low"}, ValueError, "precision must be one of exact, fast"),
            ({"max_iter": -1}, ValueError, "max_iter must be at least 0, got -1"),
            ({"tol": -1.0}, ValueError, "tol must not be negative, got -1.0"),
            ({"tol": float("nan")}, ValueError, "tol must be finite, got nan"),
            ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
            ({"seed": 2**63}, ValueError, "seed must be below"),
        ],
    )
    def test_kmeans(self, change: dict[str, object], error: type, message: str) -> None:
        arguments = {"x": X, "k": 2, **change}
        with pytest.raises(error, match=message):
            ops.kmeans(**arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e19])
    @pytest.mark.parametrize("rows", [[4], [1, 4, 5, 6, 8, 11]])
    def test_samples_that_are_not_finite(self, value: float, rows: list[int]) -> None:
        x = X.clone()
        x[rows, 1] = value
        shown = faulty_rows(*rows[:5], more=len(rows) > 5, count=len(rows))
        for offsets in (None, [0, 2, 12]):
            with pytest.raises(ValueError, match=f"x must be finite.* {shown}"):
                ops.kmeans(x, 2, offsets=offsets)
        with pytest.raises(ValueError, match="x must be finite"):
            ops.nearest_samples(x, X[:2], 1)

    @pytest.mark.parametrize("value", [float("nan"), -float("inf"), 3e38])
    def test_centroids_that_are_not_finite(self, value: float) -> None:
        init = X[:2].clone()
        init[1, 2] = value
        with pytest.raises(
            ValueError, match=r"(init|centroids) must be finite.* it is not in.* 1$"
        ):
            ops.kmeans(X, 2, init=init)
        with pytest.raises(ValueError, match=r"centroids must be finite.* it is not in.* 1$"):
            ops.nearest_samples(X, init, 1)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"centroids": X[0]}, ValueError, r"centroids must have shape \(k, D\)"),
            ({"centroids": X[:2, :2]}, ValueError, r"centroids must have shape \(2, 3\)"),
            ({"centroids": X[:2].long()}, TypeError, "centroids must be float32"),
            ({"count": 0}, ValueError, "count must be at least 1, got 0"),
            ({"count": 13}, ValueError, "at most the samples of each problem, 12, got 13"),
            ({"offsets": [0, 5, 12]}, ValueError, "name k where problems have numbers"),
            ({"offsets": [0, 5, 12], "k": [1, 1], "count": 6}, ValueError, "problem, 5, got 6"),
            ({"offsets": [0, 5, 12], "k": [1, 2]}, ValueError, r"must have shape \(3, 3\)"),
        ],
    )
    def test_nearest_samples(self, change: dict[str, object], error: type, message: str) -> None:
        arguments = {"x": X, "centroids": X[:2], "count": 1, **change}
        with pytest.raises(error, match=message):
            ops.nearest_samples(**arguments)  # type: ignore[arg-type]

    def test_representatives(self) -> None:
        with pytest.raises(ValueError, match="per_cluster must be at least 1, got 0"):
            ops.representatives(X, 2, 0)


@pytest.mark.slow
def test_no_memory_that_grows_with_samples_times_centroids(on_cpu: None) -> None:
    script = """
import torch
from pydream import ops
from pydream.allocator import peak_host_bytes
x = torch.randn(200_000, 2)
ops.nearest_samples(x, ops.kmeans(x[:2000], 9).centroids, 1)
before = peak_host_bytes()
result = ops.kmeans(x, 2000, init="random", max_iter=2)
ops.nearest_samples(x, result.centroids, 1)
print((peak_host_bytes() - before) >> 20)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # MiB; a float32 for each sample and centroid would be 1526, the results are 2.
    assert int(run.stdout) < 100


class TestInPyTorch:
    @NOT_ON_FIBERS
    def test_opcheck(self) -> None:
        tests = ("test_schema", "test_faketensor", "test_autograd_registration")
        x, start = place(X), place(X[:2])
        arguments = (x, [0, 5, 12], [2, 3], "k-means++", None, 5, 0.0, False, 1, "exact")
        torch.library.opcheck(torch.ops.pydream.kmeans, arguments, test_utils=tests)
        weighted = (*arguments, place(torch.linspace(1, 2, 12).double()))
        torch.library.opcheck(torch.ops.pydream.weighted_kmeans, weighted, test_utils=tests)
        torch.library.opcheck(
            torch.ops.pydream.nearest_samples, (x, [0, 5, 12], [1, 1], start, 2), test_utils=tests
        )

    @NOT_ON_FIBERS
    def test_compiles_whole(self) -> None:
        choose, x = as_called("representatives"), place(X)

        def both(x: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = choose(x * 2, 3, 2, offsets=[0, 5, 12])
            return rows + 1

        compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
        assert compiled(x).equal(both(x))

    def test_numpy(self) -> None:
        x = np.ascontiguousarray(X.numpy())
        assert ops.nearest_samples(x, x[:2], 1).flatten().tolist() == [0, 1]
