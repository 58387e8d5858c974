"""Marks in the annotations of settings, for the command line: tyro's, resolved on demand.

Until then annotations are text, so the API, the tests and the benchmarks run without tyro.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tyro.conf import Positional, arg

__all__ = ["Positional", "arg"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("tyro.conf"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
