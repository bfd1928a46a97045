"""``TransferFigure``: a cache of the transfer metrics, which are computed again only after they may have changed noticeably."""

from __future__ import annotations

from ecdctr.events.time import DAY_MS
from ecdctr.monitor.quality.negative_transfer import TransferWatch
from ecdctr.monitor.quality.results import TransferFigures

__all__ = ["TransferFigure"]


class TransferFigure:
    """Caches :meth:`TransferWatch.to_json`.

    The metrics cover several days, and their bootstrap is the most expensive part of ``Monitor.snapshot``. They are computed again when
    a new day has begun, or when the ad rows since the last time exceed a twentieth of their rows.

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
        """Advance event time to ``clock_ms``; a new day invalidates the cached metrics."""
        if clock_ms // DAY_MS != self._day:
            self._day, self._figures = clock_ms // DAY_MS, None

    def figures(self, ad_rows: int) -> TransferFigures:
        """Return the metrics; ``ad_rows``: ad rows observed since the start."""
        if self._figures is None or 20 * (ad_rows - self._rows) > self._figures["rows"]:
            self._figures, self._rows = self._watch.to_json(), ad_rows
        return self._figures
