"""A look at a distilled set without training: what it says of itself, realism and diversity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.inspection.config import InspectConfig
from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.inspection.facts import inspect_set, render_inspection
    from pydream.inspection.inspection import inspect
    from pydream.inspection.origins import image_origin, render_origin
    from pydream.inspection.realism import measure_set

__all__ = [
    "InspectConfig",
    "image_origin",
    "inspect",
    "inspect_set",
    "measure_set",
    "render_inspection",
    "render_origin",
]

lazy_members(
    __name__,
    {
        "image_origin": "pydream.inspection.origins",
        "inspect": "pydream.inspection.inspection",
        "inspect_set": "pydream.inspection.facts",
        "measure_set": "pydream.inspection.realism",
        "render_inspection": "pydream.inspection.facts",
        "render_origin": "pydream.inspection.origins",
    },
)
