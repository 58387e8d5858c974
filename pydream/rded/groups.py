"""Groups of images whose patches fill whole passes of the observers, and groups of classes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from pydream.ranks import Ranks
from pydream.rded.patches import PatchMaker, Preselection


def group_size(tile: int, crops: int) -> int:
    """Return the smallest number of images whose crops fill whole passes of the observer."""
    return tile // math.gcd(tile, crops)


def images_together(maker: PatchMaker) -> int:
    """Return the smallest number of images whose crops fill whole passes of all observers."""
    return math.lcm(*(group_size(observer.tile, maker.crops) for observer in maker.observers))


def single_classes(counts: Sequence[int]) -> list[range]:
    """Return a group of its own for every class."""
    return [range(label, label + 1) for label in range(len(counts))]


def own_groups(groups: Sequence[range], selection: Preselection, ranks: Ranks) -> list[range]:
    """Return the groups of classes that this process distils, balanced by the images to score."""
    images = np.diff(selection.starts)
    own = ranks.own([int(images[group.start : group.stop].sum()) for group in groups])
    return [groups[number] for number in own]


def needed_images(
    maker: PatchMaker, selection: Preselection, finished: Collection[int]
) -> npt.NDArray[np.bool_]:
    """Mark the images to score when some classes are finished: (n,) bool.

    The patches of a group of images share passes of the observer, and the last bits of a sum may
    depend on the other rows of a pass. So a group is scored as a whole or not at all.
    """
    wanted = ~np.isin(selection.labels, list(finished))
    group = images_together(maker)
    groups = np.arange(len(wanted)) // group
    return np.isin(groups, groups[wanted])
