"""Rules that choose the key patches of a class (stage 4 of RDED; ``--select``).

First, as published, the best crop of every image is found: it alone can become a key patch, and its
realism score is the score of the image. A rule then chooses among the images of a class. The rules
differ only in this choice: crops, cells, and the order of the patches in the distilled images (most
realistic first) are the same.

Images that could not be used (score minus infinity) are never chosen. Of equal images, the earlier
one is chosen. All numbers of a class depend on that class alone, so a rule may be given any classes
at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pydream.ops import kmeans
from pydream.rded.classes import ScoredClass
from pydream.rded.config import SelectionRule
from pydream.rded.patches import KeyPatch, select

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

WITH_FEATURES: tuple[SelectionRule, ...] = ("diverse", "representative")
"""Rules that cluster the features of the images."""

_BUFFER = 4 << 20  # float32 numbers of the features that are clustered together


@dataclass(frozen=True)
class Selection:
    """The images chosen in a class.

    Attributes
    ----------
    rows
        (count,) int64: rows of the images in their class, most realistic first.
    filled
        Number of them that the rule did not find: the class has fewer distinct features than
        clusters, and the most realistic of the other images stand in.
    """

    rows: Rows
    filled: int = 0


def select_key_patches_by(
    rule: SelectionRule,
    classes: Sequence[ScoredClass],
    counts: Sequence[int],
    *,
    share: float = 1.0,
    seed: int = 0,
) -> list[tuple[list[KeyPatch], int]]:
    """Choose the best crop of every image, then images of every class by a rule.

    Parameters
    ----------
    rule
        The rule.
    classes
        The classes, with features if the rule is among `WITH_FEATURES`.
    counts
        Number of key patches of each class; one with fewer usable images gives all of them.
    share, seed
        The same as for `select_images`.

    Returns
    -------
    list[tuple[list[KeyPatch], int]]
        For each class its key patches, best first, and `Selection.filled`.
    """
    if rule == "realistic":
        return [
            (select(scored.scores, scored.candidates.start, count), 0)
            for scored, count in zip(classes, counts, strict=True)
        ]
    scores = [scored.scores.numpy() for scored in classes]
    features = [scored.features for scored in classes if scored.features is not None]
    chosen = select_images(
        rule,
        [crops.max(axis=1) for crops in scores],
        features,
        counts,
        share=share,
        seed=seed,
    )
    ranked = []
    for scored, crops, selection in zip(classes, scores, chosen, strict=True):
        best = crops.argmax(axis=1)
        keys = [
            KeyPatch(scored.candidates.start + row, int(best[row]), float(crops[row, best[row]]))
            for row in selection.rows.tolist()
        ]
        ranked.append((keys, selection.filled))
    return ranked


def select_images(
    rule: SelectionRule,
    scores: Sequence[Scores],
    features: Sequence[torch.Tensor],
    counts: Sequence[int],
    *,
    share: float = 1.0,
    seed: int = 0,
) -> list[Selection]:
    """Choose images of every class by their scores and features.

    Parameters
    ----------
    rule
        A rule other than the published one, for which see `pydream.rded.patches.select`.

        - ``"median"``: the scores around the median (DELT, CVPR 2025); where the same number
          cannot be left out on both sides, one more of the less realistic is.
        - ``"hard"``: the lowest scores (NRR-DD, CVPR 2025).
        - ``"diverse"``: the highest score of each of k clusters of features.
        - ``"representative"``: the image nearest to the centre of each of k clusters, among the
          members of the cluster (DREAM, arXiv 2302.14416, section 3.2).
    scores
        For each class (n,) float32: the score of each image.
    features
        For each class (n, D) float32, on the CPU; the first two rules do without.
    counts
        Number of images to choose in each class, k. A class with fewer usable ones gives all.
    share
        Share of the usable images, the most realistic ones, that the rule chooses among, in (0, 1]:
        ``round(share · n)`` images, and at least k. With 1, all of them.
    seed
        Random seed of the clusters.

    Returns
    -------
    list[Selection]
        The choice in each class.
    """
    orders = [_by_realism(of_class) for of_class in scores]
    pools = [
        order[: max(count, round(share * len(order)))]
        for order, count in zip(orders, counts, strict=True)
    ]
    if rule in WITH_FEATURES:
        return _select_by_clusters(rule, pools, features, counts, seed)
    pick = {"median": median, "hard": hard}[rule]
    return [Selection(pick(pool, count)) for pool, count in zip(pools, counts, strict=True)]


def feature_map(
    features: torch.Tensor, chosen: npt.NDArray[np.bool_]
) -> dict[str, list[list[float]]]:
    """Project the features of a class to its first two principal components.

    Parameters
    ----------
    features
        (n, D) float32.
    chosen
        (n,) bool: whether an image was chosen.

    Returns
    -------
    dict
        ``others`` and ``chosen``: x and y of each image, ready for JSON. All are 0 along components
        that the class does not have.
    """
    from sklearn.decomposition import PCA  # takes a second to import

    values, points = features.double().numpy(), np.zeros((len(features), 2))
    if np.ptp(values, axis=0).any():
        kept = min(2, *values.shape)
        points[:, :kept] = PCA(kept, svd_solver="full").fit_transform(values)
    rounded = points.round(4)
    return {"others": rounded[~chosen].tolist(), "chosen": rounded[chosen].tolist()}


def median(ranked: Rows, count: int) -> Rows:
    """Choose the middle of the images, which are ranked by realism."""
    first = max(0, len(ranked) - count) // 2
    return ranked[first : first + count]


def hard(ranked: Rows, count: int) -> Rows:
    """Choose the last of the images, which are ranked by realism."""
    return ranked[max(0, len(ranked) - count) :]


def diverse(labels: Rows) -> Rows:
    """Choose the most realistic image of each cluster.

    Parameters
    ----------
    labels
        (n,) int64: cluster of each image; the images are ranked by realism.

    Returns
    -------
    (m,) int64
        Places of the chosen images, ascending: one for each cluster that has any.
    """
    return np.sort(np.unique(labels, return_index=True)[1])


def representative(labels: Rows, distances: npt.NDArray[np.float32]) -> Rows:
    """Choose the image nearest to the centre of each cluster, among its members.

    Parameters
    ----------
    labels
        (n,) int64: cluster of each image; the images are ranked by realism.
    distances
        (n,) float32: squared distance of each image to the centre of its cluster.

    Returns
    -------
    (m,) int64
        Places of the chosen images, ascending: one for each cluster that has any.
    """
    nearest_first = np.argsort(distances, kind="stable")
    return np.sort(nearest_first[np.unique(labels[nearest_first], return_index=True)[1]])


def _by_realism(scores: Scores) -> Rows:
    """Return the rows of the images that can be used, most realistic first."""
    usable = np.flatnonzero(np.isfinite(scores))
    return usable[np.argsort(-scores[usable], kind="stable")]


def _select_by_clusters(
    rule: SelectionRule,
    pools: Sequence[Rows],
    features: Sequence[torch.Tensor],
    counts: Sequence[int],
    seed: int,
) -> list[Selection]:
    """Cluster the features of the classes, and choose an image of each cluster.

    Classes are clustered together, as many as one buffer takes: memory that is asked for anew costs
    more than the copies into it.
    """
    chosen = [Selection(pool) for pool in pools]
    wide = [place for place, pool in enumerate(pools) if len(pool) > counts[place]]
    if not wide:
        return chosen
    columns = features[wide[0]].shape[1]
    most = max(_BUFFER // columns, *(len(pools[place]) for place in wide), 1)
    buffer = np.empty((most, columns), dtype=np.float32)
    while wide:
        ends = np.cumsum([len(pools[place]) for place in wide])
        group = wide[: int(np.searchsorted(ends, most, side="right"))]
        wide = wide[len(group) :]
        offsets = [0, *ends[: len(group)].tolist()]
        # In the order of the images: scores that differ in the last bit change no cluster.
        rows = [np.sort(pools[place]) for place in group]
        for place, own, (begin, end) in zip(group, rows, itertools.pairwise(offsets), strict=True):
            # By one thread: those of index_select would wait for each other at every class.
            np.take(features[place].numpy(), own, axis=0, out=buffer[begin:end], mode="clip")
        samples, k = buffer[: offsets[-1]], [counts[place] for place in group]
        found = kmeans(torch.from_numpy(samples), k, offsets=offsets, seed=seed)
        centres = np.split(found.centroids.numpy(), np.cumsum(k)[:-1])
        for number, (begin, end) in enumerate(itertools.pairwise(offsets)):
            pool = pools[group[number]]
            ranks = np.searchsorted(rows[number], pool)  # of the images, in the order of realism
            labels = found.labels[begin:end].numpy()
            if rule == "diverse":
                places = diverse(labels[ranks])
            else:
                away = samples[begin:end] - centres[number][labels]
                places = representative(labels[ranks], np.einsum("nd,nd->n", away, away)[ranks])
            chosen[group[number]] = _filled_up(pool, places, k[number])
    return chosen


def _filled_up(pool: Rows, places: Rows, count: int) -> Selection:
    """Return the images at these places of a pool; if they are too few, with the next ones."""
    missing = count - len(places)
    if missing:
        others = np.setdiff1d(np.arange(len(pool)), places)[:missing]
        places = np.union1d(places, others)
    return Selection(pool[places], missing)
