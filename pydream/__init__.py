"""Fast, dependable dataset distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream import dream, evaluate, ops, rded
    from pydream.cluster import KMeans
    from pydream.data import open_source
    from pydream.inspection import inspect
    from pydream.refinement import refine
    from pydream.sets import open_distilled
    from pydream.versions import __version__

__all__ = [
    "KMeans",
    "__version__",
    "dream",
    "evaluate",
    "inspect",
    "open_distilled",
    "open_source",
    "ops",
    "rded",
    "refine",
]

lazy_members(
    __name__,
    {
        "KMeans": "pydream.cluster",
        "__version__": "pydream.versions",
        "dream": "pydream.dream",
        "evaluate": "pydream.evaluate",
        "inspect": "pydream.inspection",
        "open_distilled": "pydream.sets",
        "open_source": "pydream.data",
        "ops": "pydream.ops",
        "rded": "pydream.rded",
        "refine": "pydream.refinement",
    },
)
