"""k-means and nearest samples in plain PyTorch, one problem after another."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from pydream.ops.reference.philox import philox4x32

STREAM_KMEANS = 4
_PURPOSE = STREAM_KMEANS << 16
_SHOWN = 5
_MOST = torch.finfo(torch.float32).max / 8
_DISTANCES = 1 << 24
"""Number of distances in memory at once."""


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
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute `pydream.ops.kmeans`, in float64 for float64 samples."""
    work = x.double() if x.dtype == torch.float64 else x.float()
    _check_finite(work)
    first = list(itertools.accumulate(k, initial=0))
    results = []
    mass = work.new_ones(len(x)) if weights is None else weights.to(work.dtype)
    for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
        samples, own = work[begin:end], mass[begin:end]
        if init == "given":
            assert given is not None
            centroids = given[first[b] : first[b + 1]].to(work.dtype)
        elif init == "random":
            centroids = samples[_random(own, k[b], seed)]
        else:
            centroids = samples[_plusplus(samples, own, k[b], seed)]
        results.append(_lloyd(samples, own, centroids, max_iter, tol, spherical))
    return (
        torch.cat([work.new_empty(0, x.shape[1]), *(result[0] for result in results)]),
        torch.cat([x.new_empty(0, dtype=torch.int64), *(result[1] for result in results)]),
        torch.cat([work.new_empty(0), *(result[2][None] for result in results)]).double(),
        torch.tensor([result[3] for result in results], dtype=torch.int64, device=x.device),
    )


def nearest_samples(
    x: Tensor, offsets: list[int], k: list[int], centroids: Tensor, count: int
) -> Tensor:
    """Compute `pydream.ops.nearest_samples` with a stable sort of all distances."""
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
    samples: Tensor, mass: Tensor, centroids: Tensor, max_iter: int, tol: float, spherical: bool
) -> tuple[Tensor, Tensor, Tensor, int]:
    share = (mass / mass.sum())[:, None]
    variance = (share * (samples - (share * samples).sum(dim=0)).square()).sum(dim=0).mean()
    labels, distance = _assign(samples, centroids)
    for iteration in range(1, max_iter + 1):
        before = _fill_empty(labels, distance, mass, len(centroids))
        moved = _means(samples, mass, before, centroids, spherical)
        shift = (moved - centroids).square().sum()
        centroids = moved
        labels, distance = _assign(samples, centroids)
        if shift <= tol * variance or labels.equal(before):
            return centroids, labels, (mass * distance).sum(), iteration
    return centroids, labels, (mass * distance).sum(), max_iter


def _fill_empty(labels: Tensor, distance: Tensor, mass: Tensor, k: int) -> Tensor:
    """Give each centre without samples the sample farthest from its own centre.

    Samples of weight 0 are ignored.
    """
    labels, distance = labels.clone(), torch.where(mass > 0, distance, 0)
    members = torch.bincount(labels[mass > 0], minlength=k)
    for centre in (members == 0).nonzero()[:, 0].tolist():
        free = torch.where(members[labels] > 1, distance, 0)
        farthest = int(free.argmax())
        if free[farthest] <= 0:
            break
        members[labels[farthest]] -= 1
        members[centre] += 1
        labels[farthest], distance[farthest] = centre, 0
    return labels


def _means(
    samples: Tensor, mass: Tensor, labels: Tensor, centroids: Tensor, spherical: bool
) -> Tensor:
    members = mass.new_zeros(len(centroids)).index_add_(0, labels, mass)[:, None]
    sums = torch.zeros_like(centroids, dtype=samples.dtype)
    sums.index_add_(0, labels, mass[:, None] * samples)
    scale = sums.square().sum(dim=1, keepdim=True).sqrt() if spherical else members
    keep = (members == 0) | (scale == 0)
    return torch.where(keep, centroids, sums / torch.where(keep, 1, scale))


def _random(mass: Tensor, k: int, seed: int) -> Tensor:
    """Draw k samples without replacement: those with the lowest random keys.

    With different weights, those with the lowest -log(key) / weight: Efraimidis and Spirakis,
    "Weighted random sampling with a reservoir" (2006).
    """
    count, device = len(mass), mass.device
    index = torch.arange(count, device="cpu")
    high, low, _, _ = philox4x32(seed, (index, index >> 32, 1, _PURPOSE))
    if (mass == mass[0]).all():
        keys = sorted(zip(high.tolist(), low.tolist(), range(count), strict=True))
        return torch.tensor([sample for _, _, sample in keys[:k]], device=device)
    drawn = -torch.log((high.double() + 0.5) * 2.0**-32).to(device) / mass
    return drawn.argsort(stable=True)[:k]


def _uniform(seed: int, step: int, trial: int) -> tuple[int, float]:
    """Return a random word, and a number in [0, 1)."""
    high, low, _, _ = philox4x32(seed, (step, trial, 0, _PURPOSE))
    return int(high), int(high) * 2.0**-32 + int(low) * 2.0**-64


def _pick(shares: Tensor, marks: list[float]) -> list[int]:
    """Return the indices at which the running sum of the shares passes each mark."""
    sums = shares.double().cumsum(0)
    at = torch.searchsorted(sums, sums.new_tensor(marks), right=True)
    found: list[int] = at.clamp(max=int((shares > 0).nonzero()[-1])).tolist()
    return found


def _plusplus(samples: Tensor, mass: Tensor, k: int, seed: int) -> Tensor:
    """Choose samples by scikit-learn's greedy k-means++, with our random numbers."""
    count = len(samples)
    word, share = _uniform(seed, 0, 0)
    if (mass == mass[0]).all():
        chosen = [word * count >> 32]
    else:
        chosen = [_pick(mass, [share * float(mass.double().sum())])[0]]
    closest = (samples - samples[chosen[0]]).square().sum(dim=1)
    for step in range(1, k):
        weighed = mass * closest
        total = float(weighed.double().cumsum(0)[-1])
        if total <= 0:
            chosen.append(min(set(range(count)) - set(chosen)))
            continue
        marks = [_uniform(seed, step, trial)[1] * total for trial in range(2 + int(math.log(k)))]
        candidates = _pick(weighed, marks)
        distances = [(samples - samples[candidate]).square().sum(dim=1) for candidate in candidates]
        left = torch.stack([torch.minimum(closest, distance) for distance in distances])
        best = int((mass * left).double().sum(dim=1).argmin())
        chosen.append(candidates[best])
        closest = left[best]
    return torch.tensor(chosen, device=samples.device)
