"""The refinement of a sample, in few steps, and what all steps of the whole run will take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from pydream.rded.finishing import RdedRefinement, open_refinement
from pydream.rded.sample import Sample
from pydream.refinement.classes import kept_unrefined, make_refiner

_STEPS = 2  # of the classes of the sample: the fewest with a curve in the report
_ENOUGH = 4.0  # seconds that the steps of a group should take


@dataclass(frozen=True)
class RefinedSample:
    """A sample whose classes are refined.

    Attributes
    ----------
    refining
        Its refinement.
    seconds
        Seconds of the whole run by stage.
    """

    refining: RdedRefinement
    seconds: dict[str, float]


def measure_refinement(
    sample: Sample,
    steps: int,
    counts: Sequence[int],
    images: int,
    observer: nn.Module | Sequence[nn.Module] | None,
) -> RefinedSample:
    """Refine the classes of a sample in few steps, and measure the steps of a whole group.

    Parameters
    ----------
    sample
        The sample, whose patches are tiled.
    steps
        Number of steps of the run.
    counts
        Number of distilled images of each class.
    images
        Number of distilled images that the run has to refine.
    observer
        The same as for `pydream.rded.distill`.
    """
    run, watch = sample.run, sample.run.watch
    begun = time.perf_counter()
    few = replace(run.config, refine=min(_STEPS, steps))
    refining = open_refinement(replace(run, config=few), observer)
    opening, before = time.perf_counter() - begun, dict(watch.seconds)
    refining.run([range(label, label + 1) for label in sample.labels])
    scale = images / sample.distilled
    beside = {
        name: (watch.seconds[name] - before.get(name, 0.0)) * scale
        for name in ("read anchors", "write")
    }
    group, seconds = _group_seconds(sample, refining, steps, counts)
    return RefinedSample(
        refining, {"others": opening, "refine": seconds * images / group, **beside}
    )


def _group_seconds(
    sample: Sample, refining: RdedRefinement, steps: int, counts: Sequence[int]
) -> tuple[int, float]:
    """Return the number of images of a group of the run, and the seconds that it takes."""
    run, first = sample.run, sample.labels[0]
    groups = refining.refinement.refiner.groups(counts)
    group = groups[len(groups) // 2]
    labels = [label for label in group for _ in range(counts[label])]
    unrefined = kept_unrefined(run.writer, first)
    anchors = refining.refinement.anchors.read(unrefined.record["rows"], unrefined.images)
    rows = torch.arange(len(labels)) % len(unrefined.images)

    def seconds(number: int) -> float:
        refiner = make_refiner(
            refining.observers,
            run.config,
            steps=number,
            factor=run.factor,
            side=run.side,
            seed=run.config.seed,
        )
        begun = time.perf_counter()
        refiner(unrefined.images[rows], anchors[:, rows], labels)
        return time.perf_counter() - begun

    once = seconds(1)
    more = min(max(2, math.ceil(_ENOUGH / once)), max(2, steps))
    step = (seconds(1 + more) - once) / more
    return len(labels), max(once - step, 0.0) + steps * step
