"""Pictures and pages: what a distilled set looks like, and whether it is whole."""

from __future__ import annotations

from pydream.report.inspect import inspect_set, render_inspection
from pydream.report.origins import image_origin, render_origin
from pydream.report.page import render_report, write_report
from pydream.report.pictures import contact_sheet

__all__ = [
    "contact_sheet",
    "image_origin",
    "inspect_set",
    "render_inspection",
    "render_origin",
    "render_report",
    "write_report",
]
