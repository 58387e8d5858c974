"""Checks of settings, given by name; the error names the setting that is wrong.

All checks raise `PydreamError`. None stands for an omitted setting, and passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydream.errors import PydreamError

_SEED_END = 2**63


def at_least(least: int, **values: float | None) -> None:
    """Check that numbers are finite and not below the least allowed."""
    for name, value in values.items():
        if value is not None and not least <= value < math.inf:
            raise PydreamError(f"{name} must be at least {least}, got {value}")


def above_zero(**values: float | None) -> None:
    """Check that numbers are finite and above 0."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise PydreamError(f"{name} must be above 0, got {value}")


def between(least: float, most: float, **values: float | None) -> None:
    """Check that numbers are between two others, inclusively."""
    for name, value in values.items():
        if value is not None and not least <= value <= most:
            raise PydreamError(f"{name} must be {least} to {most}, got {value}")


def share(**values: float | None) -> None:
    """Check that numbers are shares of a whole, 0 to 1."""
    between(0, 1, **values)


def seed(value: int, name: str = "seed") -> None:
    """Check that a number can be a random seed."""
    if not 0 <= value < _SEED_END:
        raise PydreamError(f"{name} must be 0 to 2**63 - 1, got {value}")


def seeds(values: Sequence[int]) -> None:
    """Check that there is at least one random seed, and that none is repeated."""
    if not values:
        raise PydreamError("seeds must hold at least one number")
    for value in values:
        seed(value, "seeds")
    different(seeds=values)


def different(**values: Sequence[object]) -> None:
    """Check that no value of a list is repeated."""
    for name, listed in values.items():
        if len({*listed}) < len(listed):
            raise PydreamError(f"{name} must differ, got {' '.join(map(str, listed))}")
