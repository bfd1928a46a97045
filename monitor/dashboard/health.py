"""Health of the worker: a watchdog on progress, for ``/healthz`` and ``/readyz``."""

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
    """The health of the worker and its reason.

    Attributes
    ----------
    healthy
        False: the worker makes no progress although records are waiting; a supervisor may restart it.
    ready
        Healthy, and recovery has finished.
    reason
        A sentence.
    lag
        Records that have not been learned yet.
    idle_s
        Seconds without a step.
    """

    healthy: bool
    ready: bool
    phase: Phase
    reason: str
    lag: int
    idle_s: float

    def to_json(self, *, ok: bool) -> dict[str, Any]:
        """The body of the response."""
        return {
            "status": "ok" if ok else "unavailable",
            "reason": self.reason,
            "phase": self.phase,
            "lag_records": self.lag,
            "seconds_without_step": round(self.idle_s, 1),
        }


class Health:
    """The state that the worker reports, from any thread.

    Parameters
    ----------
    watchdog_s
        A live worker is unhealthy if records are waiting and no step was completed for this long. It must exceed the longest CPM release.
    now
        Monotonic seconds.

    Examples
    --------
    >>> t = 0.0
    >>> health = Health(watchdog_s=60, now=lambda: t)
    >>> health.enter("live"); health.lag(7); t = 61.0
    >>> health.verdict().reason
    '7 records are waiting and no step was completed for 61 s (monitor.watchdog_s = 60)'
    >>> health.step(); health.verdict().healthy
    True
    """

    def __init__(self, watchdog_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.watchdog_s = watchdog_s
        self._now = now
        self._lock = threading.Lock()
        self._phase: Phase = "starting"
        self._detail = ""
        self._problem: str | None = None
        self._lag = 0
        self._step_at = self._since = now()

    def enter(self, phase: Phase, detail: str = "") -> None:
        """Enter a phase; ``detail`` explains it."""
        with self._lock:
            self._phase, self._detail = phase, detail
            self._since = self._now()

    def step(self) -> None:
        """Report that a step was completed (or executed again, during recovery)."""
        with self._lock:
            self._step_at = self._now()

    def lag(self, records: int) -> None:
        """Set the number of records that have not been learned. The watchdog measures from the time at which it becomes positive."""
        with self._lock:
            if records and not self._lag:
                self._since = self._now()
            self._lag = records

    def problem(self, text: str | None) -> None:
        """Set what the worker waits for (disk space, the broker), which is appended to the reason; None: nothing."""
        with self._lock:
            self._problem = text

    def verdict(self) -> Verdict:
        """The current health."""
        with self._lock:
            phase, detail, problem, lag = self._phase, self._detail, self._problem, self._lag
            idle = self._now() - max(self._step_at, self._since)
        suffix = f"; {problem}" if problem else ""
        if phase == "failed":
            return Verdict(False, False, phase, detail or "training has ended with an error", lag, idle)
        if phase == "live" and lag and idle > self.watchdog_s:
            reason = f"{lag:,} records are waiting and no step was completed for {idle:.0f} s (monitor.watchdog_s = {self.watchdog_s:g})"
            return Verdict(False, False, phase, reason + suffix, lag, idle)
        reason = detail or ("training" if phase == "live" else phase)
        return Verdict(True, phase == "live", phase, reason + suffix, lag, idle)
