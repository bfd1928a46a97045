"""Logs of rows by event day: the score log and the ad window, on disk or in memory."""

from ecdctr.state.row_logs.ad_window import AdWindow
from ecdctr.state.row_logs.disk import RowLog
from ecdctr.state.row_logs.memory import MemoryRowLog
from ecdctr.state.row_logs.protocol import RowLogLike
from ecdctr.state.row_logs.score_log import ROW_COLUMNS, ScoreLog

__all__ = ["ROW_COLUMNS", "AdWindow", "MemoryRowLog", "RowLog", "RowLogLike", "ScoreLog"]
