"""The stored labels that fit into a budget, and what they are expected to cost in accuracy."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import get_args

from pydream.errors import PydreamError
from pydream.formatting import size_words
from pydream.students.config import Bits
from pydream.students.stored_labels import LabelPlan

# Points of top-1 that a student of 100 CIFAR-10 images loses, against float16 logits of all classes
# in every epoch: `benchmarks/label_budgets.py`, 100 epochs, means of two seeds. 8 and 4 bits cost
# nothing: their means differ by 0.1 and 0.01 points, those of the seeds by more than 1.
_BY_EVERY: Mapping[float, float] = {1: 0.0, 2: 0.6, 5: 1.9, 10: 1.9, 30: 4.5, 100: 11.0}
# By the share of classes that are kept. Below a tenth it falls as LPQLD reports of ImageNet-1K at
# IPC 10 (README of its code): 29.6 % with 100 of 1000 classes, 27.3 % with 50, 20.0 % with 10.
_BY_SHARE: Mapping[float, float] = {1.0: 0.0, 0.5: 1.1, 0.3: 3.9, 0.1: 5.8, 0.05: 8.1, 0.01: 15.4}
EVIDENCE = "by students of CIFAR-10 at IPC 10, and for few classes by LPQLD's of ImageNet-1K"
"""Origin of the expected losses, in words."""


def expected_loss(plan: LabelPlan) -> float:
    """Return the points of top-1 that labels are expected to cost, besides their hard epochs.

    What fewer epochs and fewer classes cost is measured one by one, and added up. Fewer bits cost
    nothing.
    """
    share = plan.form.kept(len(plan.class_names)) / len(plan.class_names)
    return _between(_BY_EVERY, plan.every) + _between(_BY_SHARE, share)


def within(
    plan: LabelPlan, rows: int, budget: int, *, every: bool, top_k: bool, bits: bool
) -> LabelPlan:
    """Choose the labels of least expected loss that a budget holds.

    Parameters
    ----------
    plan
        Labels with the settings that were given.
    rows
        Number of views of an epoch.
    budget
        Largest size in bytes.
    every, top_k, bits
        Whether the number must stay: it was given, or all logits are needed.

    Raises
    ------
    PydreamError
        If the budget does not hold the smallest labels.
    """
    kept = [plan.top_k] if top_k else [None, *_fewer(len(plan.class_names))]
    forms = [
        dataclasses.replace(plan, top_k=count, bits=size)
        for count in kept
        for size in ([plan.bits] if bits else get_args(Bits))
    ]
    room = budget - _plan_bytes(plan)
    richest = forms if every else [_most_epochs(form, rows, room) for form in forms]
    fitting = [one for one in richest if _file_bytes(one, rows) <= room]
    if not fitting:
        least = min(richest, key=lambda one: _file_bytes(one, rows))
        size = size_words(_plan_bytes(plan) + _file_bytes(least, rows))
        raise PydreamError(
            f"a budget of {size_words(budget)} is too small for one epoch of labels: the least is "
            f"{size} ({form_words(least)}); give --budget {size} or more"
        )
    classes = len(plan.class_names)
    return min(
        fitting,
        key=lambda one: (expected_loss(one), one.every, -one.form.kept(classes), -one.bits),
    )


def form_words(plan: LabelPlan) -> str:
    """Describe which labels are stored."""
    epochs = f"{len(plan.stored_epochs())} of {plan.epochs} epochs"
    kept = "all classes" if plan.top_k is None else f"the highest {plan.top_k} of each label"
    hard = f", {plan.hard_epochs} epochs on smoothed classes" if plan.hard_epochs else ""
    return f"{epochs}, {kept}, {plan.bits} bits{hard}"


def _plan_bytes(plan: LabelPlan) -> int:
    """Return a size that ``labels.json`` cannot exceed, whatever is chosen."""
    return len(plan.text().encode()) + 32  # the digits of every, top_k and bits


def _file_bytes(plan: LabelPlan, rows: int) -> int:
    """Return a size that the files of all epochs cannot exceed."""
    return len(plan.stored_epochs()) * plan.form.most_bytes(rows, len(plan.class_names))


def _most_epochs(plan: LabelPlan, rows: int, room: int) -> LabelPlan:
    """Return labels of as many epochs as fit, but at least the fewest possible."""
    choices = [dataclasses.replace(plan, every=every) for every in range(1, plan.epochs + 1)]
    first = bisect.bisect_left(choices, True, key=lambda one: _file_bytes(one, rows) <= room)
    return choices[min(first, len(choices) - 1)]


def _fewer(num_classes: int) -> Iterator[int]:
    """Yield numbers of classes to keep, each about two thirds of the one before."""
    kept = num_classes
    while (kept := math.floor(kept / 1.5)) > 0:
        yield kept


def _between(points: Mapping[float, float], value: float) -> float:
    """Interpolate between measured points by the logarithm; beyond them the last line goes on."""
    at = sorted(points)
    after = min(bisect.bisect_right(at, value, lo=1), len(at) - 1)
    low, high = at[after - 1], at[after]
    share = math.log(value / low) / math.log(high / low)
    return points[low] + share * (points[high] - points[low])
