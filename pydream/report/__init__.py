"""Pictures and pages of a distilled set."""

from __future__ import annotations

from pydream.report.page import render_report, write_report
from pydream.report.pictures import contact_sheet

__all__ = ["contact_sheet", "render_report", "write_report"]
