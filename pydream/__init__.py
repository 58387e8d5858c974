"""Fast, dependable dataset distillation."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("pydream-distill")
