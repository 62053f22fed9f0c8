"""Reports: what a policy keeps, what it rejects and why, as one page that opens anywhere."""

from catalog.report.data import ReportData, Stage
from catalog.report.funnel import funnel_svg, funnel_text
from catalog.report.gather import gather_report, gather_stages, write_report

__all__ = [
    "ReportData",
    "Stage",
    "funnel_svg",
    "funnel_text",
    "gather_report",
    "gather_stages",
    "write_report",
]
