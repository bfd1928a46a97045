"""Is the worker well: a watchdog on progress, answered as ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Health", "Phase", "Verdict"]

Phase = Literal["starting", "recovering", "live", "stopping", "failed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer and its reason.

    Attributes
    ----------
    healthy
        False: it makes no progress although it could; a supervisor may restart it.
    ready
        Healthy, and past recovery.
    reason
        In a sentence.
    """

    healthy: bool
    ready: bool
    phase: Phase
    reason: str
    lag: int
    idle_s: float

    def to_json(self, *, ok: bool) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "status": "ok" if ok else "unavailable",
            "reason": self.reason,
            "phase": self.phase,
            "lag_records": self.lag,
            "seconds_without_step": round(self.idle_s, 1),
        }


class Health:
    """What the worker says about itself, from any thread.

    Parameters
    ----------
    watchdog_s
        Live, records wait in the log, and no step for so long: unhealthy. Longer than the longest CPM release.
    now
        Monotonic seconds.

    Examples
    --------
    >>> t = 0.0
    >>> health = Health(watchdog_s=60, now=lambda: t)
    >>> health.enter("live"); health.lag(7); t = 61.0
    >>> health.verdict().reason
    '7 records wait in the log and no step was done for 61 s (monitor.watchdog_s = 60)'
    >>> health.step(); health.verdict().healthy
    True
    """

    def __init__(self, watchdog_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.watchdog_s = watchdog_s
        self._now = now
        self._lock = threading.Lock()
        self._phase: Phase = "starting"
        self._said = ""
        self._trouble: str | None = None
        self._lag = 0
        self._step_at = self._since = now()

    def enter(self, phase: Phase, said: str = "") -> None:
        """Another phase of the worker's life; ``said`` explains it."""
        with self._lock:
            self._phase, self._said = phase, said
            self._since = self._now()

    def step(self) -> None:
        """A step was done (while recovering: done again)."""
        with self._lock:
            self._step_at = self._now()

    def lag(self, records: int) -> None:
        """Records of the log not yet learned. The watchdog counts from the moment that there are any."""
        with self._lock:
            if records and not self._lag:
                self._since = self._now()
            self._lag = records

    def trouble(self, text: str | None) -> None:
        """What the worker waits for (room on the disk, the broker); it is added to the reason. None: nothing."""
        with self._lock:
            self._trouble = text

    def verdict(self) -> Verdict:
        """How it is now."""
        with self._lock:
            phase, said, trouble, lag = self._phase, self._said, self._trouble, self._lag
            idle = self._now() - max(self._step_at, self._since)
        behind = f"; {trouble}" if trouble else ""
        if phase == "failed":
            return Verdict(False, False, phase, said or "training has ended with an error", lag, idle)
        if phase == "live" and lag and idle > self.watchdog_s:
            reason = f"{lag:,} records wait in the log and no step was done for {idle:.0f} s (monitor.watchdog_s = {self.watchdog_s:g})"
            return Verdict(False, False, phase, reason + behind, lag, idle)
        reason = said or ("training" if phase == "live" else phase)
        return Verdict(True, phase == "live", phase, reason + behind, lag, idle)
