"""Alerts that were raised or resolved and have not been delivered yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ecdctr.monitor.alerts.rules import Alert

__all__ = ["PendingAlerts"]

CAPACITY = 1000
"""Events retained while nothing takes them; the oldest are dropped first."""


class PendingAlerts:
    """Events in order. Those taken count as pending until :meth:`confirm`, so that a restart in between delivers them again.

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
        """Append events."""
        self._new = [*self._new, *events][-CAPACITY:]

    def take(self) -> list[Alert]:
        """Events since the last call, each once."""
        events, self._new = self._new, []
        self._in_flight = (self._in_flight + events)[-CAPACITY:]
        return events

    def confirm(self) -> bool:
        """All events that were taken have been delivered; False: there were none."""
        confirmed = bool(self._in_flight)
        self._in_flight = []
        return confirmed

    def unconfirmed(self) -> Sequence[Alert]:
        """All events that are not known to be delivered, oldest first."""
        return self._in_flight + self._new
