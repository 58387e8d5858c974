"""Refinement: the cells of a set moved so that an observer sees in them what it sees in photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.lazy import lazy_members
from pydream.refinement.config import RefineConfig

if TYPE_CHECKING:
    from pydream.refinement.run import refine

__all__ = ["RefineConfig", "refine"]

lazy_members(__name__, {"refine": "pydream.refinement.run"})
