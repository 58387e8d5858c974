"""k-means of many independent problems in one call, and the samples nearest to its centres."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from pydream import _C
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_at_least,
    check_device,
    check_dtype,
    check_seed,
    check_shape,
)
from pydream.ops.reference import kmeans as reference

_SAMPLE_TYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
_INITS = ("k-means++", "random")
_METRICS = ("euclidean", "cosine")
_PRECISIONS = ("exact", "fast")

Counts: TypeAlias = int | Sequence[int]
"""One number for all problems, or one for each."""


class KMeansResult(NamedTuple):
    """Centres, and which samples are nearest to which.

    Attributes
    ----------
    centroids
        float32: (k, D) for one problem, (B, k, D) for several with one k, and (sum of k, D), one
        problem after the other, with a k for each.
    labels
        int64, shaped as the samples without D: the nearest of these centroids, counted from 0
        within each problem. Of equally near ones the lower.
    inertia
        float64, () or (B,): the sum of squared Euclidean distances of the samples to these
        centroids; with ``metric="cosine"`` the sum of 1 − cos.
    n_iter
        int64, () or (B,): how often centroids were moved.
    """

    centroids: Tensor
    labels: Tensor
    inertia: Tensor
    n_iter: Tensor


class _Problems(NamedTuple):
    """Samples of all problems in one matrix."""

    x: Tensor  # (total, D), contiguous
    offsets: list[int]  # B + 1
    shape: tuple[int, ...]  # of the labels
    single: bool  # one problem, without a dimension for it


def kmeans(
    x: TensorLike,
    k: Counts,
    *,
    offsets: Sequence[int] | TensorLike | None = None,
    init: str | TensorLike = "k-means++",
    max_iter: int = 100,
    tol: float = 1e-4,
    metric: str = "euclidean",
    seed: int = 0,
    precision: str = "exact",
) -> KMeansResult:
    """Cluster each of many independent problems, in one call.

    Lloyd's iterations from greedy k-means++ (the variant of scikit-learn). Each problem stops on
    its own: when no label changes, when the squared movement of its centroids is at most `tol`
    times the mean variance of its dimensions, or after `max_iter`. A centroid without samples is
    given the one that lies farthest from its own centroid.

    A problem's result depends on its own samples, its k and `seed`: it is the same alone as among
    others, whatever the number of threads.

    Parameters
    ----------
    x
        float32, float16 or bfloat16: (N, D) is one problem, (B, N, D) are B of them, and
        (total, D) with `offsets` are problems of any sizes. Finite.
    k
        Centroids of each problem: one number, or one for each problem. At most as many as samples.
    offsets
        B + 1 ascending numbers from 0 to total: problem b has the rows
        ``offsets[b]`` to ``offsets[b + 1]``. Read on the host.
    init
        ``"k-means++"``, ``"random"`` (samples without replacement), or the first centroids, shaped
        as those of the result: a warm start.
    max_iter
        How often centroids move at most; with 0 samples only get the labels of `init`.
    tol
        See above; 0 goes on until no label changes.
    metric
        ``"euclidean"``, or ``"cosine"``: samples and centroids are scaled to length 1. A row of
        zeros has distance 1 to all.
    seed
        In [0, 2^63).
    precision
        ``"exact"``: labels as of distances in float32, but for ties within rounding. ``"fast"``
        lets a GPU round centroids to the format of its tensor cores when it compares distances.

    Returns
    -------
    KMeansResult
        Labels, inertia and centroids of the same iteration.

    Raises
    ------
    TypeError
        For a dtype or type that is not one of these.
    ValueError
        For samples that are not finite, naming the rows; for a k below 1 or above the number of
        samples; for offsets that do not start at 0, rise and end at the number of rows; for an
        empty problem; for centroids of another shape; for any other value out of range.

    Notes
    -----
    Not differentiable. Peak memory beside the results is some numbers per sample and centroids in
    float64; never a distance for each sample and centroid. On a GPU the host looks every few
    iterations whether all problems have ended.

    Sources: Lloyd, "Least squares quantization in PCM" (1982); Arthur and Vassilvitskii,
    "k-means++" (2007), with the candidates of scikit-learn; Hamerly, "Making k-means even faster"
    (2010), for the bounds on the CPU. DREAM (arXiv 2302.14416, section 3.2) clusters the features
    of each class so.
    """
    problems = _check_samples(x, offsets)
    counts = _check_counts(k, problems)
    check_at_least(max_iter, "max_iter", 0)
    check_seed(seed)
    _check_choice(metric, "metric", _METRICS)
    _check_choice(precision, "precision", _PRECISIONS)
    if not (tol >= 0 and math.isfinite(tol)):
        raise ValueError(f"tol must be a number that is not negative, got {tol}")
    shape = _centroid_shape(k, counts, problems)
    given = None if isinstance(init, str) else _check_centroids(init, "init", shape, problems)
    if isinstance(init, str):
        _check_choice(init, "init", _INITS)
    cosine = metric == "cosine"
    samples = _unit(problems.x) if cosine else problems.x
    if cosine and given is not None:
        given = _unit(given)
    centroids, labels, inertia, n_iter = torch.ops.pydream.kmeans(
        samples,
        problems.offsets,
        counts,
        init if isinstance(init, str) else "given",
        given,
        max_iter,
        tol,
        cosine,
        seed,
        precision,
    )
    if cosine:  # of unit vectors, 1 - cos is half of the squared distance; of zeros, that and 1/2
        inertia = (inertia + _zero_rows(samples, problems.offsets)) / 2
    per_problem = () if problems.single else (len(counts),)
    return KMeansResult(
        centroids.view(shape),
        labels.view(problems.shape),
        inertia.view(per_problem),
        n_iter.view(per_problem),
    )


def nearest_samples(
    x: TensorLike,
    centroids: TensorLike,
    count: int,
    offsets: Sequence[int] | TensorLike | None = None,
    k: Counts | None = None,
) -> Tensor:
    """Find the samples that lie nearest to each centroid, of all samples of its problem.

    Parameters
    ----------
    x
        float32, float16 or bfloat16: (N, D), (B, N, D), or (total, D) with `offsets`. Finite.
    centroids
        float32, float16 or bfloat16, on the same device: (k, D), (B, k, D) or, where `k` gives
        one number for each problem, (sum of k, D).
    count
        How many samples to each centroid, at least 1 and at most as many as a problem has.
    offsets
        As of :func:`kmeans`.
    k
        Centroids of each problem, where that is not to be seen from the shape of `centroids`.

    Returns
    -------
    Tensor
        int64, shaped as `centroids` with `count` instead of D: nearest first, of equally near
        ones the lower first. Indices of samples of (N, D) and (B, N, D) count within the problem;
        with `offsets` they are rows of `x`.

    Raises
    ------
    TypeError
        For a dtype or type that is not one of these.
    ValueError
        For values that are not finite, naming the rows of samples; for shapes, offsets and
        numbers that do not fit.

    Notes
    -----
    Source: DREAM (arXiv 2302.14416, section 3.2): the samples nearest to the cluster centres.
    """
    problems = _check_samples(x, offsets)
    centres = as_tensor(centroids, "centroids")
    if k is None:
        fits = centres.dim() == (2 if problems.single else 3)
        if not fits:
            raise ValueError(
                "centroids must have shape (k, D) for one problem and (B, k, D) for several, "
                f"got {tuple(centres.shape)}; name k where problems have numbers of their own"
            )
        k = centres.shape[-2]
    counts = _check_counts(k, problems, of_samples=False)
    shape = _centroid_shape(k, counts, problems)
    given = _check_centroids(centres, "centroids", shape, problems)
    check_at_least(count, "count", 1)
    least = min((b - a for a, b in itertools.pairwise(problems.offsets)), default=count)
    if count > least:
        raise ValueError(f"count must be at most the samples of each problem, {least}, got {count}")
    nearest: Tensor = torch.ops.pydream.nearest_samples(
        problems.x, problems.offsets, counts, given, count
    )
    if offsets is not None:
        first = torch.tensor(problems.offsets[:-1]).repeat_interleave(torch.tensor(counts))
        nearest = nearest + first[:, None].to(nearest.device)
    return nearest.view(*shape[:-1], count)


def representatives(
    x: TensorLike,
    k: Counts,
    per_cluster: int = 1,
    *,
    offsets: Sequence[int] | TensorLike | None = None,
    init: str | TensorLike = "k-means++",
    max_iter: int = 100,
    tol: float = 1e-4,
    metric: str = "euclidean",
    seed: int = 0,
    precision: str = "exact",
) -> Tensor:
    """Choose samples that represent each problem evenly: those nearest to its cluster centres.

    The same as :func:`kmeans` and then :func:`nearest_samples` to its centroids.

    Parameters
    ----------
    x, k, offsets, init, max_iter, tol, metric, seed, precision
        As of :func:`kmeans`.
    per_cluster
        How many samples to choose for each centroid.

    Returns
    -------
    Tensor
        int64, (k, per_cluster), (B, k, per_cluster), or (sum of k, per_cluster) with a k for each
        problem; see :func:`nearest_samples` for what the indices count. A sample that is nearest
        to two centroids is there twice.

    Raises
    ------
    TypeError, ValueError
        As of the two.

    Notes
    -----
    Source: DREAM (arXiv 2302.14416, section 3.2).
    """
    problems = _check_samples(x, offsets)
    check_at_least(per_cluster, "per_cluster", 1)
    if metric == "cosine":
        x = _unit(problems.x)
        x = x if offsets is not None else x.view(*problems.shape, -1)
    else:
        x = as_tensor(x, "x")
    result = kmeans(
        x,
        k,
        offsets=offsets,
        init=init,
        max_iter=max_iter,
        tol=tol,
        metric=metric,
        seed=seed,
        precision=precision,
    )
    return nearest_samples(
        x, result.centroids, per_cluster, offsets, None if isinstance(k, int) else k
    )


def _check_samples(value: TensorLike, offsets: Sequence[int] | TensorLike | None) -> _Problems:
    x = as_tensor(value, "x")
    check_dtype(x, "x", *_SAMPLE_TYPES)
    if offsets is not None:
        check_shape(x, "x", ("total", "D"))
        bounds = _check_offsets(offsets, x.shape[0])
        problems = _Problems(x.contiguous(), bounds, (x.shape[0],), single=False)
    elif x.dim() == 2:
        problems = _Problems(x.contiguous(), [0, x.shape[0]], (x.shape[0],), single=True)
    elif x.dim() == 3:
        batch, samples, dim = x.shape
        bounds = [each * samples for each in range(batch + 1)]
        flat = x.reshape(batch * samples, dim).contiguous()
        problems = _Problems(flat, bounds, (batch, samples), single=False)
    else:
        raise ValueError(f"x must have shape (N, D) or (B, N, D), got {tuple(x.shape)}")
    if x.shape[-1] < 1:
        raise ValueError(f"x must have at least one dimension, got shape {tuple(x.shape)}")
    return problems


def _check_offsets(value: Sequence[int] | TensorLike, total: int) -> list[int]:
    offsets = value if isinstance(value, (list, tuple)) else as_tensor(value, "offsets")
    if isinstance(offsets, Tensor):
        check_dtype(offsets, "offsets", torch.int64, torch.int32)
        check_shape(offsets, "offsets", ("B + 1",))
        offsets = offsets.tolist()
    bounds = list(offsets)
    for each in bounds:
        check_at_least(each, "offsets", 0)
    if not bounds or bounds[0] != 0:
        raise ValueError(f"offsets must start at 0, got {bounds[:1]}")
    for b, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if end < begin:
            raise ValueError(f"offsets must rise, but {begin} is followed by {end} at {b + 1}")
        if end == begin:
            raise ValueError(f"offsets leave problem {b} without samples: {begin} to {end}")
    if bounds[-1] != total:
        raise ValueError(f"offsets must end at the rows of x, {total}, got {bounds[-1]}")
    return bounds


def _check_counts(k: Counts, problems: _Problems, *, of_samples: bool = True) -> list[int]:
    """Return k of every problem; `of_samples` says whether as many samples must be there."""
    batch = len(problems.offsets) - 1
    if isinstance(k, Tensor):
        check_dtype(k, "k", torch.int64, torch.int32)
        k = k.tolist()
    if isinstance(k, (list, tuple)):
        if problems.single:
            raise TypeError("k must be an int for one problem, got a sequence")
        if len(k) != batch:
            raise ValueError(f"k must be one number or {batch}, one for each problem, got {len(k)}")
        counts = list(k)
    else:
        check_at_least(cast(int, k), "k", 1)
        counts = [cast(int, k)] * batch
    sizes = [end - begin for begin, end in itertools.pairwise(problems.offsets)]
    for b, (each, size) in enumerate(zip(counts, sizes, strict=True)):
        check_at_least(each, "k", 1)
        if of_samples and each > size:
            of = "" if problems.single else f" of problem {b}"
            raise ValueError(f"k must be at most the number of samples{of}, {size}, got {each}")
    return counts


def _centroid_shape(k: Counts, counts: list[int], problems: _Problems) -> tuple[int, ...]:
    dim = problems.x.shape[1]
    if problems.single:
        return counts[0], dim
    if isinstance(k, int):
        return len(counts), k, dim
    return sum(counts), dim


def _check_centroids(
    value: TensorLike, name: str, shape: tuple[int, ...], problems: _Problems
) -> Tensor:
    """Return (sum of k, D) contiguous float32 centroids."""
    centroids = as_tensor(value, name)
    check_shape(centroids, name, shape)
    check_dtype(centroids, name, *_SAMPLE_TYPES)
    check_device(centroids, name, problems.x.device, "x")
    return centroids.float().reshape(-1, shape[-1]).contiguous()


def _check_choice(value: str, name: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _unit(x: Tensor) -> Tensor:
    """Scale rows to length 1, in float32; rows of zeros stay so."""
    x = x.float()
    largest = x.abs().amax(dim=1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    length = x.square().sum(dim=1, keepdim=True).sqrt()
    return x / torch.where(length > 0, length, 1)


def _zero_rows(x: Tensor, offsets: list[int]) -> Tensor:
    """Count the rows of zeros of each problem, float64 (B,)."""
    zero = (x == 0).all(dim=1).double()
    sizes = torch.tensor([b - a for a, b in itertools.pairwise(offsets)], device=x.device)
    return torch.segment_reduce(zero, "sum", lengths=sizes, unsafe=True, initial=0)


def _empty_result(
    x: Tensor, offsets: list[int], k: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty((sum(k), x.shape[1]), dtype=torch.float32),
        x.new_empty(x.shape[0], dtype=torch.int64),
        x.new_empty(len(k), dtype=torch.float64),
        x.new_empty(len(k), dtype=torch.int64),
    )


def _cpu_kmeans(
    x: Tensor,
    offsets: list[int],
    k: list[int],
    init: str,
    given: Tensor | None,
    max_iter: int,
    tol: float,
    spherical: bool,
    seed: int,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    centroids, labels, inertia, n_iter = _empty_result(x, offsets, k)
    if given is not None:
        centroids.copy_(given)
    _C.kmeans_cpu(
        x.data_ptr(),
        _SAMPLE_TYPES[x.dtype],
        x.shape[1],
        offsets,
        k,
        init,
        max_iter,
        tol,
        spherical,
        seed,
        centroids.data_ptr(),
        labels.data_ptr(),
        inertia.data_ptr(),
        n_iter.data_ptr(),
        torch.get_num_threads(),
    )
    return centroids, labels, inertia, n_iter


def _cpu_nearest_samples(
    x: Tensor, offsets: list[int], k: list[int], centroids: Tensor, count: int
) -> Tensor:
    nearest = x.new_empty((sum(k), count), dtype=torch.int64)
    _C.nearest_samples_cpu(
        x.data_ptr(),
        _SAMPLE_TYPES[x.dtype],
        x.shape[1],
        offsets,
        k,
        centroids.data_ptr(),
        count,
        nearest.data_ptr(),
        torch.get_num_threads(),
    )
    return nearest


def _cuda_kmeans(launch: _dispatch.Launch, *arguments: Any) -> Any:
    return reference.kmeans(*arguments)


def _cuda_nearest_samples(launch: _dispatch.Launch, *arguments: Any) -> Any:
    return reference.nearest_samples(*arguments)


def _fake_kmeans(
    x: Tensor, offsets: list[int], k: list[int], *arguments: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_result(x, offsets, k)


def _fake_nearest_samples(
    x: Tensor, offsets: list[int], k: list[int], centroids: Tensor, count: int
) -> Tensor:
    return x.new_empty((sum(k), count), dtype=torch.int64)


_dispatch.register(
    "kmeans(Tensor x, SymInt[] offsets, SymInt[] k, str init, Tensor? given, SymInt max_iter,"
    " float tol, bool spherical, SymInt seed, str precision)"
    " -> (Tensor centroids, Tensor labels, Tensor inertia, Tensor n_iter)",
    _cpu_kmeans,
    _cuda_kmeans,
    reference.kmeans,
    _fake_kmeans,
)
_dispatch.register(
    "nearest_samples(Tensor x, SymInt[] offsets, SymInt[] k, Tensor centroids, SymInt count)"
    " -> Tensor",
    _cpu_nearest_samples,
    _cuda_nearest_samples,
    reference.nearest_samples,
    _fake_nearest_samples,
)
