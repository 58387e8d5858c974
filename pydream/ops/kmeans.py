"""k-means of many independent problems in one call, and the samples nearest to the centres."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pydream.ops import _kmeans as _kmeans  # registers the ops
from pydream.ops._centring import Frame, centred
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_at_least,
    check_choice,
    check_number,
    check_seed,
    within_memory,
)
from pydream.ops._problems import (
    Counts,
    Problems,
    centroid_shape,
    check_centroids,
    check_counts,
    check_samples,
    check_weights,
    one_for_all,
    per_centroid,
    unit,
)

_INITS = ("k-means++", "random")
_METRICS = ("euclidean", "cosine")
_PRECISIONS = ("exact", "fast")


class KMeansResult(NamedTuple):
    """Centres, and the nearest centre of each sample.

    Attributes
    ----------
    centroids
        float32, or float64 for float64 samples: (k, D) for one problem; (B, k, D) for several
        problems with one k; (sum of k, D), one problem after another, if each has its own k.
    labels
        int64, shaped as the samples without D: the nearest of these centroids, counted from 0
        within each problem; of equally near ones the lower.
    inertia
        float64, () or (B,): the sum of squared Euclidean distances of the samples to these
        centroids; with ``metric="cosine"`` the sum of 1 − cos.
    n_iter
        int64, () or (B,): the number of updates of the centroids.
    """

    centroids: Tensor
    labels: Tensor
    inertia: Tensor
    n_iter: Tensor


@within_memory
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
    weights: TensorLike | None = None,
) -> KMeansResult:
    """Cluster many independent problems in one call.

    Lloyd's iterations from greedy k-means++ (the variant of scikit-learn). Each problem stops on
    its own: when no label changes, when the squared movement of its centroids is at most `tol`
    times the mean variance of its dimensions, or after `max_iter`. A centroid without samples moves
    to the sample farthest from its own centroid.

    The result of a problem depends only on its samples, its k and `seed`. It is the same alone and
    among others, for any number of threads.

    Parameters
    ----------
    x
        float32, float16, bfloat16 or float64, finite: (N, D) is one problem, (B, N, D) are B of
        them, and (total, D) with `offsets` are problems of any sizes. Differences are squared in
        float32, so those below 1e-19 count as zero. float64 samples are first centred and scaled,
        problem by problem and in float64, then rounded to float32: the resolution is 2^-24 of the
        distance from the middle, wherever the middle is.
    k
        Number of centroids of each problem: one number, or a number for each. At most the number of
        samples, unless samples only receive the labels of centroids.
    offsets
        B + 1 ascending numbers from 0 to total, read on the host: problem b has the rows
        ``offsets[b]`` to ``offsets[b + 1]``.
    init
        ``"k-means++"``, ``"random"`` (samples without replacement), or the initial centroids in the
        shape of the result: a warm start.
    max_iter
        Largest number of updates of the centroids; with 0, samples only receive the labels of
        `init`.
    tol
        Tolerance, as above; with 0, a problem runs until no label changes.
    metric
        ``"euclidean"``, or ``"cosine"``, which scales samples and centroids to length 1; a row of
        zeros has no direction, and raises.
    seed
        Random seed, in [0, 2^63).
    precision
        ``"exact"``: labels by distances in float32, except for ties within rounding. ``"fast"``
        lets a GPU round centroids to the format of its tensor cores when it compares distances.
    weights
        Floating point, shaped as the labels: weight of each sample in the means, the inertia, the
        variance that `tol` is compared with, and the draws of `init`. Not negative, and not all
        zero in a problem; by default all are 1. No kernel takes weights: PyTorch's operations run
        in float64 instead, more slowly, and the last digits of the inertia may depend on the number
        of threads.

    Returns
    -------
    KMeansResult
        Labels, inertia and centroids of the same iteration.

    Raises
    ------
    TypeError
        For any other type.
    ValueError
        For integer samples; for samples that require a gradient, because there is no derivative;
        for samples that are not finite, naming the rows; for a k below 1 or above the number of
        samples; for offsets that do not start at 0, ascend and end at the number of rows; for an
        empty problem; for centroids of another shape; for any other value out of range.

    Notes
    -----
    Besides the results, peak memory is a few numbers per sample, and the centroids in float64;
    never a distance for each pair of sample and centroid. On a GPU, the host checks every few
    iterations whether all problems have converged. A CUDA graph can capture a call without weights,
    for problems of one size and any `init` except ``"random"``. It then runs `max_iter` iterations,
    and those after the convergence of a problem do nothing.

    Sources: Lloyd, "Least squares quantization in PCM" (1982); Arthur and Vassilvitskii,
    "k-means++" (2007), with the candidates of scikit-learn; Hamerly, "Making k-means even faster"
    (2010), for the bounds on the CPU. DREAM (arXiv 2302.14416, section 3.2) clusters the features
    of each class in this way.
    """
    problems = check_samples(x, offsets)
    max_iter = check_at_least(max_iter, "max_iter", 0)
    counts = check_counts(k, problems, of_samples=max_iter > 0 or isinstance(init, str))
    seed = check_seed(seed)
    check_choice(metric, "metric", _METRICS)
    check_choice(precision, "precision", _PRECISIONS)
    tol = check_number(tol, "tol")
    if tol < 0:
        raise ValueError(f"tol must not be negative, got {tol}")
    shape = centroid_shape(k, counts, problems)
    given = None if isinstance(init, str) else check_centroids(init, "init", shape, problems)
    if isinstance(init, str):
        check_choice(init, "init", _INITS)
    mass = None if weights is None else check_weights(weights, problems)
    samples, given, frame = _for_kernels(problems, given, counts, cosine=metric == "cosine")
    settings = (
        samples,
        problems.offsets,
        counts,
        init if isinstance(init, str) else "given",
        given,
        max_iter,
        tol,
        metric == "cosine",
        seed,
        precision,
    )
    if mass is None:
        found = torch.ops.pydream.kmeans(*settings)
    else:
        found = torch.ops.pydream.weighted_kmeans(*settings, mass)
    centroids, labels, inertia, n_iter = found
    if metric == "cosine":  # of unit vectors, 1 - cos is half of the squared distance
        inertia = inertia / 2
    if frame is not None:
        centroids, inertia = frame.leave(centroids, counts), inertia / frame.scale.square()
    per_problem = () if problems.single else (len(counts),)
    return KMeansResult(
        centroids.to(torch.promote_types(problems.x.dtype, torch.float32)).view(shape),
        labels.view(problems.shape),
        inertia.view(per_problem),
        n_iter.view(per_problem),
    )


def _for_kernels(
    problems: Problems, given: Tensor | None, counts: list[int], *, cosine: bool
) -> tuple[Tensor, Tensor | None, Frame | None]:
    """Return samples and centroids for the kernels, and the frame of float64 samples."""
    if cosine:  # directions have no other origin
        return unit(problems.x), None if given is None else unit(given), None
    if problems.x.dtype != torch.float64:
        return problems.x, given, None
    samples, frame = centred(problems.x, problems.offsets)
    return samples, None if given is None else frame.enter(given, counts), frame


@within_memory
def nearest_samples(
    x: TensorLike,
    centroids: TensorLike,
    count: int,
    offsets: Sequence[int] | TensorLike | None = None,
    k: Counts | None = None,
) -> Tensor:
    """Find the samples nearest to each centroid, among all samples of its problem.

    Parameters
    ----------
    x
        float32, float16, bfloat16 or float64, finite: (N, D), (B, N, D), or (total, D) with
        `offsets`. float64 samples are first centred, as by `kmeans`.
    centroids
        float32, float16, bfloat16 or, for float64 samples, float64, on the same device: (k, D),
        (B, k, D) or, if `k` gives a number for each problem, (sum of k, D).
    count
        Number of samples per centroid, at least 1 and at most the number in each problem.
    offsets
        The same as for `kmeans`.
    k
        Number of centroids of each problem, if the shape of `centroids` does not show it.

    Returns
    -------
    Tensor
        int64, shaped as `centroids` with `count` instead of D: nearest first; of equally near
        samples the lower first. Indices of samples of (N, D) and (B, N, D) count within the
        problem; with `offsets` they are rows of `x`.

    Raises
    ------
    TypeError
        For any other dtype or type.
    ValueError
        For values that are not finite, naming the rows of samples; for shapes, offsets and
        numbers that do not fit.

    Notes
    -----
    Source: DREAM (arXiv 2302.14416, section 3.2): the samples nearest to the cluster centres.
    """
    problems = check_samples(x, offsets)
    centres = as_tensor(centroids, "centroids")
    if k is None:
        fits = centres.dim() == (2 if problems.single else 3)
        if not fits:
            raise ValueError(
                "centroids must have shape (k, D) for one problem and (B, k, D) for several, "
                f"got {tuple(centres.shape)}; name k where problems have numbers of their own"
            )
        k = centres.shape[-2]
    counts = check_counts(k, problems, of_samples=False)
    shape = centroid_shape(k, counts, problems)
    given = check_centroids(centres, "centroids", shape, problems)
    count = _check_nearest(count, "count", problems)
    samples, places, _ = _for_kernels(problems, given, counts, cosine=False)
    nearest: Tensor = torch.ops.pydream.nearest_samples(
        samples, problems.offsets, counts, places, count
    )
    if offsets is not None:
        first = per_centroid(problems.offsets[:-1], counts, nearest.device)
        nearest = nearest + first[:, None]
    return nearest.view(*shape[:-1], count)


def _check_nearest(count: int, name: str, problems: Problems) -> int:
    """Return a number of samples per centroid, unless a problem has fewer."""
    count = check_at_least(count, name, 1)
    lengths = [b - a for a, b in itertools.pairwise(problems.offsets)]
    least = min(lengths) if lengths else count  # torch.compile knows no min with a default
    if count > least:
        raise ValueError(
            f"{name} must be at most the samples of each problem, {least}, got {count}"
        )
    return count


@within_memory
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
    """Choose samples that represent each problem evenly: the nearest ones to its cluster centres.

    Equivalent to `kmeans`, then `nearest_samples` with its centroids.

    Parameters
    ----------
    x, k, offsets, init, max_iter, tol, metric, seed, precision
        The same as for `kmeans`.
    per_cluster
        Number of samples per centroid.

    Returns
    -------
    Tensor
        int64, (k, per_cluster), (B, k, per_cluster), or, if each problem has its own k,
        (sum of k, per_cluster); see `nearest_samples` for the meaning of the indices. A sample
        nearest to two centroids appears twice.

    Raises
    ------
    TypeError, ValueError
        In the same cases as these two functions.

    Notes
    -----
    Source: DREAM (arXiv 2302.14416, section 3.2).
    """
    problems = check_samples(x, offsets)
    per_cluster = _check_nearest(per_cluster, "per_cluster", problems)
    check_choice(metric, "metric", _METRICS)
    if metric == "cosine":
        x = unit(problems.x)
        x = x if offsets is not None else x.view(*problems.shape, x.shape[1])
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
    return nearest_samples(x, result.centroids, per_cluster, offsets, None if one_for_all(k) else k)
