"""The run directory is written up as a report: what changed, how sure that is, and what it cost.

This room reads files and nothing else: no torch, no model, no engine. Every file may be missing or torn, because a
report of a run that failed is worth more than a report of one that did not.
"""

from aha.report.sections import COMPARE_COLUMNS, compare_table
from aha.report.write import write_report

__all__ = ["COMPARE_COLUMNS", "compare_table", "write_report"]
