"""Coresets: real images that represent their class, chosen by their features.

All classes are processed together: the rows of a class are contiguous, and every step picks one row
of each class.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pydream.ops import nearest_samples

# Rows whose distances to the newest centre are computed at once: some tens of megabytes.
_ROWS_AT_ONCE = 16384


def herding(features: Tensor, offsets: Sequence[int], count: int | Sequence[int]) -> list[Tensor]:
    """Choose samples whose mean stays as near as possible to the mean of their class.

    The first sample is the one most similar to the mean; every further one best compensates the
    error of the mean so far. Rows are scaled to length 1.

    Parameters
    ----------
    features
        float32 (R, D), the rows of each class contiguous.
    offsets
        First row of each of K classes, and the end of the last; no class is empty.
    count
        Number of samples of every class, or of each; a smaller class gives all of its own.

    Returns
    -------
    list[Tensor]
        For each class the chosen rows, int64, in the order they were chosen.

    Notes
    -----
    Welling, "Herding Dynamical Weights to Learn", ICML 2009; as Rebuffi et al., "iCaRL", CVPR 2017,
    choose exemplars (algorithm 4).
    """
    labels = _labels(features, offsets)
    unit = torch.nn.functional.normalize(features, dim=1)
    mean = _class_means(unit, labels)
    wanted = mean.clone()

    def scores(newest: Tensor | None) -> Tensor:
        nonlocal wanted
        if newest is not None:
            wanted = wanted + mean - unit[newest]
        return _by_rows(unit, wanted, labels, lambda x, w: (x * w).sum(dim=1))

    return _pick(scores, labels, offsets, count)


def k_centre(features: Tensor, offsets: Sequence[int], count: int | Sequence[int]) -> list[Tensor]:
    """Choose samples greedily so that no other sample of the class is far from all of them.

    The first is nearest to the mean of its class; every further one is the farthest from those
    before it (at most twice the best possible radius).

    Parameters
    ----------
    features, offsets, count
        The same as for `herding`.

    Returns
    -------
    list[Tensor]
        For each class the chosen rows, int64, in the order they were chosen.

    Notes
    -----
    Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance", 1985; as a coreset, Sener
    and Savarese, ICLR 2018 (algorithm 1).
    """
    labels = _labels(features, offsets)
    means = _class_means(features, labels)
    first = nearest_samples(features, means, 1, offsets, [1] * len(means)).flatten()
    nearest = torch.full((len(features),), torch.inf, device=features.device)

    def scores(newest: Tensor | None) -> Tensor:
        nonlocal nearest
        if newest is None:
            return torch.zeros_like(nearest).index_fill_(0, first, 1.0)
        centres = features[newest]
        apart = _by_rows(features, centres, labels, lambda x, c: (x - c).square().sum(dim=1))
        nearest = torch.minimum(nearest, apart)
        return nearest

    return _pick(scores, labels, offsets, count)


def _pick(
    scores: Callable[[Tensor | None], Tensor],
    labels: Tensor,
    offsets: Sequence[int],
    count: int | Sequence[int],
) -> list[Tensor]:
    """Repeatedly take the row of each class with the highest score, the first of equals."""
    rows, classes = torch.arange(len(labels), device=labels.device), len(offsets) - 1
    left = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    chosen: list[Tensor] = []
    counts = [count] * classes if isinstance(count, int) else count
    counts = [min(most, n) for most, n in zip(counts, _lengths(offsets), strict=True)]
    for _ in range(max(counts)):
        values = scores(chosen[-1] if chosen else None)
        values = torch.where(left, values, -torch.inf)
        best = values.new_full((classes,), -torch.inf).scatter_reduce(0, labels, values, "amax")
        where = torch.where(left & (values == best[labels]), rows, len(rows))
        picked = rows.new_full((classes,), len(rows)).scatter_reduce(0, labels, where, "amin")
        # A class without rows left keeps its last row, which is not taken again below.
        picked = torch.where(picked < len(rows), picked, chosen[-1] if chosen else picked)
        left[picked] = False
        chosen.append(picked)
    columns = torch.stack(chosen)
    return [columns[:most, c] for c, most in enumerate(counts)]


def _by_rows(
    features: Tensor,
    of_classes: Tensor,
    labels: Tensor,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Combine every row with the vector of its class, some rows at a time."""
    parts = zip(
        torch.split(features, _ROWS_AT_ONCE), torch.split(labels, _ROWS_AT_ONCE), strict=True
    )
    return torch.cat([combine(rows, of_classes[own]) for rows, own in parts])


def _class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the rows of each class, (K, D), which the CPU sums in their order.

    On a GPU, `index_add_` would sum in another order in every run, and ranks choose for themselves.
    """
    rows, classes = features.cpu(), labels.cpu()
    lengths = classes.bincount()
    sums = torch.zeros(len(lengths), rows.shape[1]).index_add_(0, classes, rows)
    return (sums / lengths[:, None]).to(features.device)


def _lengths(offsets: Sequence[int]) -> list[int]:
    return [end - begin for begin, end in itertools.pairwise(offsets)]


def _labels(features: Tensor, offsets: Sequence[int]) -> Tensor:
    lengths = torch.tensor(_lengths(offsets), device=features.device)
    return torch.arange(len(lengths), device=features.device).repeat_interleave(lengths)
