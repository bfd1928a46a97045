"""The transfer figure of a monitor, computed no more often than it can change noticeably."""

from __future__ import annotations

from ecdctr.events.time import DAY_MS
from ecdctr.monitor.quality.negative_transfer import TransferWatch
from ecdctr.monitor.quality.results import TransferFigures

__all__ = ["TransferFigure"]


class TransferFigure:
    """Caches :meth:`TransferWatch.to_json`.

    The figure covers days, and its bootstrap is the most expensive part of a snapshot. It is computed again when a day has passed, or
    when the ad rows since the last time exceed a twentieth of its rows.

    Parameters
    ----------
    watch
        The comparison of A-CTR with the control.
    """

    def __init__(self, watch: TransferWatch) -> None:
        self._watch = watch
        self._figures: TransferFigures | None = None
        self._rows = 0
        self._day = -1

    def advance(self, clock_ms: int) -> None:
        """Event time has reached ``clock_ms``."""
        if clock_ms // DAY_MS != self._day:
            self._day, self._figures = clock_ms // DAY_MS, None

    def figures(self, ad_rows: int) -> TransferFigures:
        """The figure; ``ad_rows``: ad rows observed since the start."""
        if self._figures is None or 20 * (ad_rows - self._rows) > self._figures["rows"]:
            self._figures, self._rows = self._watch.to_json(), ad_rows
        return self._figures
