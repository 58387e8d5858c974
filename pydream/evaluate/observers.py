"""The observers that label a set, opened together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.evaluate.config import EvaluateConfig, RelabelConfig
from pydream.models import Observer
from pydream.models.config import files_or_given
from pydream.sets.distilled import DistilledSet
from pydream.sets.opening import open_observer
from pydream.students.recipe import ResolvedRecipe

Given: TypeAlias = nn.Module | Sequence[nn.Module] | None
"""An observer that is not a file, or several."""


def open_observers(
    config: EvaluateConfig | RelabelConfig,
    distilled: DistilledSet,
    given: Given,
    precision: str,
    device: torch.device,
) -> tuple[Observer, ...]:
    """Open the observers of a command, with the set's order of classes.

    Raises
    ------
    PydreamError
        If one of them cannot be used, or others are given than are named.
    """
    return tuple(
        open_observer(
            network,
            distilled,
            config,
            arch=config.observer_arch,
            precision=precision,
            device=device,
        )
        for network in files_or_given(config.observers, given)
    )


def check_observers(recipe: ResolvedRecipe, count: int) -> None:
    """Raise PydreamError if a recipe takes more observers than there are."""
    if count < recipe.least_observers:
        raise PydreamError(
            f"recipe {recipe.name} takes the labels of {recipe.least_observers} observers "
            f"together, and {count} given: name more with --observer, or give --least-observers "
            f"{count}"
        )
