"""Fast, dependable dataset distillation."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydream.cluster import KMeans

__all__ = ["KMeans", "__version__"]

__version__ = version("pydream-distill")


def __getattr__(name: str) -> object:
    """Bring the estimator when it is asked for: scikit-learn takes a second to import."""
    if name == "KMeans":
        from pydream.cluster import KMeans

        return KMeans
    raise AttributeError(f"module 'pydream' has no attribute {name!r}")
