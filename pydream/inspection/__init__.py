"""Inspection of a distilled set without training: its facts, realism and diversity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.inspection.config import InspectConfig
from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.inspection.facts import SetFacts, inspect_set, render_inspection
    from pydream.inspection.inspection import inspect
    from pydream.inspection.origins import ImageOrigin, image_origin, render_origin
    from pydream.inspection.realism import SetMeasures, measure_set

__all__ = [
    "ImageOrigin",
    "InspectConfig",
    "SetFacts",
    "SetMeasures",
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
        "ImageOrigin": "pydream.inspection.origins",
        "SetFacts": "pydream.inspection.facts",
        "SetMeasures": "pydream.inspection.realism",
        "image_origin": "pydream.inspection.origins",
        "inspect": "pydream.inspection.inspection",
        "inspect_set": "pydream.inspection.facts",
        "measure_set": "pydream.inspection.realism",
        "render_inspection": "pydream.inspection.facts",
        "render_origin": "pydream.inspection.origins",
    },
)
