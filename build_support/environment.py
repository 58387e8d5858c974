"""Settings of the build that are environment variables."""

from __future__ import annotations

import os


def choice(name: str, *choices: str) -> str:
    """Return the value of a variable, one of some words; by default the first of them."""
    value = os.environ.get(name, choices[0]).lower()
    if value not in choices:
        raise SystemExit(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value
