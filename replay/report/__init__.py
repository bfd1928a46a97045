"""Reports of a replay: HTML, JSON, tables, and the comparison of two replays."""

from ecdctr.replay.report.html import write_report
from ecdctr.replay.report.pair import Pair, read_report, scores_of
from ecdctr.replay.report.style import style_sheet
from ecdctr.replay.report.tables import day_table, slice_table, write_tables

__all__ = [
    "Pair",
    "day_table",
    "read_report",
    "scores_of",
    "slice_table",
    "style_sheet",
    "write_report",
    "write_tables",
]
