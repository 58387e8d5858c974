"""What distinguishes the frameworks in which images are optimised by matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Match: TypeAlias = Literal["bidirectional", "gradient", "feature", "trajectory"]
"""Quantities to match: features and gradients (DREAM+), gradients (DREAM, DC, DSA), features (DM),
or the weights that training leads to (MTT)."""

FrameworkName: TypeAlias = Literal["idc", "dc", "dsa", "dm", "mtt"]
"""A framework, by the name that ``pydream dream --framework`` gives it."""

_DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")


@dataclass(frozen=True)
class Framework:
    """How images start, which networks come and how they move, what is matched, how images step.

    Attributes
    ----------
    matches
        Quantities that can be matched. The first is the default.
    start
        First images: Gaussian noise, or real ones.
    networks
        Networks that images are matched in: trained on real images between the steps, trained on
        the synthetic images, never trained, or taken from the trajectories of experts.
    in_turn
        True if the optimiser steps after each class, False if it steps once for all.
    normalised
        True if the optimiser moves normalised images, which may leave the range of colours, and
        False if it moves colours.
    augmentation
        Words of `pydream.ops.random_augment` for the images matched. Empty for none.
    one_operation
        True if a call of the augmentation applies one of these words, False if it applies all.
    """

    matches: tuple[Match, ...]
    start: Literal["noise", "real"]
    networks: Literal["real", "synthetic", "untrained", "experts"]
    in_turn: bool = False
    normalised: bool = True
    augmentation: tuple[str, ...] = _DSA
    one_operation: bool = True

    def strategy(self, *, flip: bool) -> str:
        """Return the words of the augmentation, without ``flip`` where it would change classes."""
        return "_".join(word for word in self.augmentation if flip or word != "flip")


FRAMEWORKS: Mapping[FrameworkName, Framework] = {
    # Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022;
    # with representatives and bidirectional matching it is DREAM+ (arXiv 2310.15052).
    "idc": Framework(
        ("bidirectional", "gradient", "feature"),
        "real",
        "real",
        in_turn=True,
        normalised=False,
        augmentation=("color", "crop", "cutout"),
        one_operation=False,
    ),
    # Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021.
    "dc": Framework(
        ("gradient", "bidirectional", "feature"), "noise", "synthetic", augmentation=()
    ),
    # Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021.
    "dsa": Framework(("gradient", "bidirectional", "feature"), "real", "synthetic"),
    # Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023.
    "dm": Framework(("feature", "bidirectional", "gradient"), "real", "untrained"),
    # Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022.
    "mtt": Framework(("trajectory",), "real", "experts"),
}
"""The frameworks by their names."""
