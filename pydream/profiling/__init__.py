"""Time of a run, stage by stage, compared with what the machine can do."""

from __future__ import annotations

from pydream.profiling.limits import Limits, measure_limits
from pydream.profiling.profile import profile
from pydream.profiling.results import Profile, Stage, read_profile
from pydream.profiling.table import comparison_table, profile_table

__all__ = [
    "Limits",
    "Profile",
    "Stage",
    "comparison_table",
    "measure_limits",
    "profile",
    "profile_table",
    "read_profile",
]
