"""k-means and nearest samples in plain PyTorch, one problem after the other."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from pydream.ops.reference.crop import philox4x32

STREAM_KMEANS = 4
_PURPOSE = STREAM_KMEANS << 16
_SHOWN = 5
_MOST = torch.finfo(torch.float32).max / 8
_DISTANCES = 1 << 24
"""How many distances are held at once."""


def kmeans(
    x: Tensor,
    offsets: list[int],
    k: list[int],
    init: str,
    given: Tensor | None,
    max_iter: int,
    tol: float,
    spherical: bool,
    seed: int,
    precision: str = "exact",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute :func:`pydream.ops.kmeans`; float64 samples are worked on as such."""
    work = x.double() if x.dtype == torch.float64 else x.float()
    _check_finite(work)
    first = list(itertools.accumulate(k, initial=0))
    results = []
    for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
        samples = work[begin:end]
        if init == "given":
            assert given is not None
            centroids = given[first[b] : first[b + 1]].to(work.dtype)
        elif init == "random":
            centroids = samples[_random(len(samples), k[b], seed, x.device)]
        else:
            centroids = samples[_plusplus(samples, k[b], seed)]
        results.append(_lloyd(samples, centroids, max_iter, tol, spherical))
    return (
        torch.cat([work.new_empty(0, x.shape[1]), *(each[0] for each in results)]),
        torch.cat([x.new_empty(0, dtype=torch.int64), *(each[1] for each in results)]),
        torch.cat([work.new_empty(0), *(each[2][None] for each in results)]).double(),
        torch.tensor([each[3] for each in results], dtype=torch.int64, device=x.device),
    )


def nearest_samples(
    x: Tensor, offsets: list[int], k: list[int], centroids: Tensor, count: int
) -> Tensor:
    """Compute :func:`pydream.ops.nearest_samples` with a stable sort of all distances."""
    work = x.double() if x.dtype == torch.float64 else x.float()
    _check_finite(work)
    first = list(itertools.accumulate(k, initial=0))
    nearest = []
    for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
        for centre in centroids[first[b] : first[b + 1]].to(work.dtype):
            distance = (work[begin:end] - centre).square().sum(dim=1)
            nearest.append(distance.argsort(stable=True)[:count])
    return torch.stack(nearest) if nearest else x.new_empty((0, count), dtype=torch.int64)


def _check_finite(x: Tensor) -> None:
    bad = ~(x.square().sum(dim=1) <= _MOST)
    if bad.any():
        rows = bad.nonzero()[:, 0].tolist()
        shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if rows[_SHOWN:] else "")
        raise ValueError(
            "x must be finite, small enough for squared distances in float32, and for cosine not "
            "zero; it is not in "
            f"{len(rows)} row{'s' if rows[1:] else ''}: {shown}"
        )


def _assign(samples: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centroid of each sample and the squared distance to it."""
    labels, distances = [], []
    for part in torch.split(samples, max(_DISTANCES // len(centroids), 1)):
        squared = torch.cdist(part, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
        nearest = squared.argmin(dim=1)
        labels.append(nearest)
        distances.append((part - centroids[nearest]).square().sum(dim=1))
    return torch.cat(labels), torch.cat(distances)


def _lloyd(
    samples: Tensor, centroids: Tensor, max_iter: int, tol: float, spherical: bool
) -> tuple[Tensor, Tensor, Tensor, int]:
    variance = samples.var(dim=0, correction=0).mean()
    labels, distance = _assign(samples, centroids)
    for iteration in range(1, max_iter + 1):
        before = _fill_empty(labels, distance, len(centroids))
        moved = _means(samples, before, centroids, spherical)
        shift = (moved - centroids).square().sum()
        centroids = moved
        labels, distance = _assign(samples, centroids)
        if shift <= tol * variance or labels.equal(before):
            return centroids, labels, distance.sum(), iteration
    return centroids, labels, distance.sum(), max_iter


def _fill_empty(labels: Tensor, distance: Tensor, k: int) -> Tensor:
    """Give each centre without samples the one that is farthest from its own."""
    labels, distance = labels.clone(), distance.clone()
    members = torch.bincount(labels, minlength=k)
    for centre in (members == 0).nonzero()[:, 0].tolist():
        free = torch.where(members[labels] > 1, distance, 0)
        farthest = int(free.argmax())
        if free[farthest] <= 0:
            break
        members[labels[farthest]] -= 1
        members[centre] += 1
        labels[farthest], distance[farthest] = centre, 0
    return labels


def _means(samples: Tensor, labels: Tensor, centroids: Tensor, spherical: bool) -> Tensor:
    members = torch.bincount(labels, minlength=len(centroids))[:, None]
    sums = torch.zeros_like(centroids, dtype=samples.dtype).index_add_(0, labels, samples)
    scale = sums.square().sum(dim=1, keepdim=True).sqrt() if spherical else members
    keep = (members == 0) | (scale == 0)
    return torch.where(keep, centroids, sums / torch.where(keep, 1, scale))


def _random(count: int, k: int, seed: int, device: torch.device) -> Tensor:
    """Draw k of `count` samples without replacement: those of the lowest random keys."""
    index = torch.arange(count)
    high, low, _, _ = philox4x32(seed, (index, index >> 32, 1, _PURPOSE))
    keys = sorted(zip(high.tolist(), low.tolist(), range(count), strict=True))
    return torch.tensor([each for _, _, each in keys[:k]], device=device)


def _uniform(seed: int, step: int, trial: int) -> tuple[int, float]:
    """Return a random word, and a number in [0, 1)."""
    high, low, _, _ = philox4x32(seed, (step, trial, 0, _PURPOSE))
    return int(high), int(high) * 2.0**-32 + int(low) * 2.0**-64


def _plusplus(samples: Tensor, k: int, seed: int) -> Tensor:
    """Choose samples as scikit-learn's greedy k-means++ does, with our random numbers."""
    count = len(samples)
    word, _ = _uniform(seed, 0, 0)
    chosen = [word * count >> 32]
    closest = (samples - samples[chosen[0]]).square().sum(dim=1)
    for step in range(1, k):
        sums = closest.double().cumsum(0)
        total = float(sums[-1])
        if total <= 0:
            chosen.append(min(set(range(count)) - set(chosen)))
            continue
        marks = [_uniform(seed, step, trial)[1] * total for trial in range(2 + int(math.log(k)))]
        at = torch.searchsorted(sums, sums.new_tensor(marks), right=True)
        last = int((closest > 0).nonzero()[-1])
        candidates = at.clamp(max=last).tolist()
        distances = [(samples - samples[each]).square().sum(dim=1) for each in candidates]
        left = torch.stack([torch.minimum(closest, each) for each in distances])
        best = int(left.double().sum(dim=1).argmin())
        chosen.append(candidates[best])
        closest = left[best]
    return torch.tensor(chosen, device=samples.device)
