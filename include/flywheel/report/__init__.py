"""What a run found out: report.json, the table, the learning curve and the HTML report."""

from flywheel.report.files import print_report, read_report
from flywheel.report.model import Report
from flywheel.report.table import render_markdown, render_table

__all__ = ["Report", "print_report", "read_report", "render_markdown", "render_table"]
