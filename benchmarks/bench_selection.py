"""The rules that choose key patches: those that cluster beside scikit-learn, class by class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from benchmarks.timing import Work, compare, report, table
from pydream.rded.config import SelectionRule
from pydream.rded.selection import WITH_FEATURES, Selection, select_images

CLASSES, IMAGES, FEATURES, CHOSEN = 1000, 300, 512, 30
PARTS = 40  # of which a class is a mixture
FEWER = 20  # classes for scikit-learn, whose time is multiplied
THREADS = 2
ROUNDS = 5
# Rules that cluster choose as well as scikit-learn's if samples are as near to a chosen one. Both
# start from k-means++ with different random numbers: over 20 classes the means differ by less.
MOST_APART = 0.03


@pytest.fixture(scope="module")
def classes() -> tuple[list[np.ndarray], list[torch.Tensor]]:
    """Scores, and features as after a ReLU: mixtures, so that k-means has something to find."""
    generator = torch.Generator().manual_seed(0)
    scores, features = [], []
    for _ in range(CLASSES):
        centres = torch.randn(PARTS, FEATURES, generator=generator)
        of_images = centres[torch.randint(PARTS, (IMAGES,), generator=generator)]
        noise = torch.randn(IMAGES, FEATURES, generator=generator)
        features.append((of_images + 0.7 * noise).relu_())
        scores.append(-torch.rand(IMAGES, generator=generator).numpy())
    return scores, features


def by_scikit_learn(
    rule: SelectionRule, scores: list[np.ndarray], features: list[torch.Tensor]
) -> list[Selection]:
    """Fit and choose in one class after another."""
    chosen = []
    for of_class, own in zip(features, scores, strict=True):
        fit = KMeans(CHOSEN, n_init=1, random_state=0).fit(of_class.numpy())
        rows = []
        for cluster in range(CHOSEN):
            members = np.flatnonzero(fit.labels_ == cluster)
            away = ((of_class.numpy()[members] - fit.cluster_centers_[cluster]) ** 2).sum(1)
            rows.append(members[own[members].argmax() if rule == "diverse" else away.argmin()])
        chosen.append(Selection(np.array(rows)))
    return chosen


def coverage(features: list[torch.Tensor], chosen: list[Selection]) -> float:
    """Return the mean distance of a sample to the nearest chosen one."""
    nearest = [
        torch.cdist(of_class, of_class[torch.from_numpy(selection.rows)]).amin(1).mean()
        for of_class, selection in zip(features, chosen, strict=True)
    ]
    return float(torch.stack(nearest).mean())


@pytest.mark.parametrize("rule", WITH_FEATURES)
def test_selection(
    benchmark: Any,
    record: dict[str, Any],
    classes: tuple[list[np.ndarray], list[torch.Tensor]],
    rule: SelectionRule,
) -> None:
    scores, features = classes
    few = scores[:FEWER], features[:FEWER]

    def select() -> list[Selection]:
        return select_images(rule, scores, features, [CHOSEN] * CLASSES)

    with threadpool_limits(THREADS):
        theirs = coverage(features[:FEWER], by_scikit_learn(rule, *few))
        ours = coverage(features[:FEWER], select_images(rule, *few, [CHOSEN] * FEWER))
        assert ours == pytest.approx(theirs, rel=MOST_APART)
        calls: dict[str, Callable[[], object]] = {
            f"pydream, {FEWER} classes": lambda: select_images(rule, *few, [CHOSEN] * FEWER),
            f"scikit-learn, {FEWER} classes": lambda: by_scikit_learn(rule, *few),
        }
        work = Work(sum(of_class.nbytes for of_class in features[:FEWER]))
        rounds = ROUNDS if benchmark.enabled else 1
        result = report(
            compare(calls, rounds=rounds, threads=THREADS),
            ours=f"pydream, {FEWER} classes",
            items=FEWER,
            unit="class",
            work=work,
        )
        whole = report(
            compare({"pydream": select}, rounds=rounds, threads=THREADS),
            ours="pydream",
            items=CLASSES,
            unit="class",
            work=Work(sum(of_class.nbytes for of_class in features)),
        )
    if benchmark.enabled:
        size = f"{CHOSEN} of {IMAGES} x {FEATURES}, {rule}"
        for name, rows in ((f"{CLASSES} classes: {size}", whole), (size, result)):
            record[name] = rows
            print("\n" + table(f"{name}; a class", rows))
    benchmark.pedantic(select, rounds=1)
