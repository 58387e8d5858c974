"""A sample of a run: some images of some classes, distilled as the run would distil them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pydream.ranks import ALONE
from pydream.rded.class_loop import distill_classes, patch_maker
from pydream.rded.groups import images_together
from pydream.rded.opened import OpenedRun
from pydream.rded.patches import Preselection
from pydream.rded.run import RdedRun
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch

_CLASSES = 4  # classes that a sample is spread over at least
_ENOUGH = 8.0  # seconds that the last sample should take
_MOST_GROWTH = 16  # times as many images as in the sample before


@dataclass(frozen=True)
class Sample:
    """A part of a run.

    Attributes
    ----------
    run
        The run with a writer and a stopwatch of its own. Classes of which not all candidates belong
        to the sample have fewer distilled images.
    selection
        The candidates that belong to the sample.
    labels
        Their classes.
    whole
        Whether these are all that the process distils.
    seconds
        Seconds that the classes took.
    """

    run: RdedRun
    selection: Preselection
    labels: list[int]
    whole: bool
    seconds: float = 0.0

    @property
    def scored(self) -> int:
        """Number of real images that are scored."""
        return len(self.selection.indices)

    @property
    def distilled(self) -> int:
        """Number of distilled images that are made."""
        return sum(self.run.counts[label] for label in self.labels)


def measure_samples(opened: OpenedRun, own: Sequence[int], folder: Path) -> list[Sample]:
    """Distil samples of a run, until one after the first has taken long enough.

    The first one, of a few images, warms the machine up. If the run is small, the last one is all
    of it.

    Parameters
    ----------
    opened
        The run.
    own
        The classes that this process distils.
    folder
        Folder for what the samples write.

    Returns
    -------
    list[Sample]
        The samples. The writer of each has the classes that were made.
    """
    maker = patch_maker(opened.run)
    together = images_together(maker)
    wanted = math.ceil(2 * maker.observer.tile / maker.crops)
    samples: list[Sample] = []
    while True:
        drawn = draw_sample(opened, own, wanted, together, folder / f"sample-{len(samples)}")
        begun = time.perf_counter()
        with drawn.run.writer.begin():
            distill_classes(drawn.run, drawn.selection, drawn.labels)
        sample = replace(drawn, seconds=time.perf_counter() - begun)
        samples.append(sample)
        if sample.whole or (len(samples) > 1 and sample.seconds >= _ENOUGH / 2):
            return samples
        growth = min(_ENOUGH / sample.seconds, _MOST_GROWTH)
        wanted = max(wanted, math.ceil(sample.scored * growth))


def draw_sample(
    opened: OpenedRun, own: Sequence[int], wanted: int, together: int, out: Path
) -> Sample:
    """Draw a sample, evenly over the classes and over the candidates of each.

    Whole classes are taken if the sample has room for four of them, and else a part of each of
    four. At least half of the candidates of a class are then no key patches, as reserve for images
    that cannot be read.

    Parameters
    ----------
    opened, own
        The run, and the classes that this process distils.
    wanted
        Number of images to score, about.
    together
        Number of images that fill whole passes of the observers.
    out
        Place of the sample's set.
    """
    run, full = opened.run, opened.selection
    sizes = np.diff(full.starts)
    total, classes = int(sizes[own].sum()), len(own)
    labels, most = list(own), int(sizes.max())
    if wanted < total:
        mean = total / classes
        count = min(classes, max(_CLASSES, int(wanted / mean)))
        labels = [own[(2 * number + 1) * classes // (2 * count)] for number in range(count)]
        if wanted < count * mean:
            passes = math.ceil(wanted / together) * together if wanted > together else wanted
            most = max(math.ceil(passes / count), 2 * run.factor**2)  # two for a key patch
    counts, taken, parts = [*run.counts], np.zeros_like(sizes), []
    for label in labels:
        size = int(sizes[label])
        number = min(size, most)
        taken[label] = number
        parts.append(full.starts[label] + np.arange(number) * size // number)
        if number < size:
            counts[label] = min(counts[label], number // (2 * run.factor**2))
    chosen = np.concatenate(parts)
    selection = Preselection(
        full.indices[chosen], full.labels[chosen], np.concatenate([[0], np.cumsum(taken)])
    )
    sampled = replace(
        run,
        config=replace(run.config, allow_skipped=1.0),
        counts=tuple(counts),
        writer=SetWriter(out, opened.identity, resume=True),
        watch=Stopwatch(),
        ranks=ALONE,
    )
    return Sample(sampled, selection, labels, whole=len(chosen) == total)
