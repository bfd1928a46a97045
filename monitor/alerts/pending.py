"""Alerts that were raised or resolved and have not been delivered yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ecdctr.monitor.alerts.rules import Alert

__all__ = ["PendingAlerts"]

CAPACITY = 1000
"""Number of alerts retained until they are taken; the oldest are dropped first."""


class PendingAlerts:
    """Alerts in order. Those that were taken remain pending until :meth:`confirm`, so that they are delivered again after a restart.

    Examples
    --------
    >>> alert = Alert("low:ad", "low", "warning", "CTR is low", 0, 0, 0.1, 0.5, "")
    >>> pending = PendingAlerts()
    >>> pending.add([alert]); len(pending.take()), len(pending.take()), len(pending.unconfirmed())
    (1, 0, 1)
    >>> pending.confirm(), pending.unconfirmed()
    (True, [])
    """

    def __init__(self) -> None:
        self._new: list[Alert] = []
        self._in_flight: list[Alert] = []

    def add(self, events: Iterable[Alert]) -> None:
        """Append alerts."""
        self._new = [*self._new, *events][-CAPACITY:]

    def take(self) -> list[Alert]:
        """Return the alerts added since the last call."""
        events, self._new = self._new, []
        self._in_flight = (self._in_flight + events)[-CAPACITY:]
        return events

    def confirm(self) -> bool:
        """Mark all alerts that were taken as delivered; returns whether there were any."""
        confirmed = bool(self._in_flight)
        self._in_flight = []
        return confirmed

    def unconfirmed(self) -> Sequence[Alert]:
        """All alerts that have not been confirmed, oldest first."""
        return self._in_flight + self._new
