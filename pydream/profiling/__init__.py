"""Time of a run by stage, compared with the limits of the machine."""

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
