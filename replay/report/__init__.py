"""Reports of a replay: HTML, JSON, tables, and the comparison of two replays."""

from ecdctr.replay.report.html import REPORT_FILES, write_report
from ecdctr.replay.report.meta import FrozenMeta, Report, ReportMeta
from ecdctr.replay.report.page import PAGE_END, page_start
from ecdctr.replay.report.pair import Pair, is_report, read_report, scores_of
from ecdctr.replay.report.tables import day_table, slice_table, write_tables

__all__ = [
    "PAGE_END",
    "REPORT_FILES",
    "FrozenMeta",
    "Pair",
    "Report",
    "ReportMeta",
    "day_table",
    "is_report",
    "page_start",
    "read_report",
    "scores_of",
    "slice_table",
    "write_report",
    "write_tables",
]
