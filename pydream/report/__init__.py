"""Pictures and pages: what a distilled set looks like, and whether it is whole."""

from __future__ import annotations

from pydream.report.inspect import inspect_set, render_inspection
from pydream.report.page import render_report, write_report
from pydream.report.pictures import contact_sheet

__all__ = [
    "contact_sheet",
    "inspect_set",
    "render_inspection",
    "render_report",
    "write_report",
]
