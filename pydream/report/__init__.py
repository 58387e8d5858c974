"""Pictures and pages of a distilled set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.report.page import render_report, write_report
    from pydream.report.pictures import contact_sheet

__all__ = ["contact_sheet", "render_report", "write_report"]

# Matplotlib and Jinja take seconds to import, and only the end of a run needs them.
lazy_members(
    __name__,
    {
        "contact_sheet": "pydream.report.pictures",
        "render_report": "pydream.report.page",
        "write_report": "pydream.report.page",
    },
)
