"""``Health``: the state machine behind ``/healthz`` and ``/readyz``: which reasons hold now, and which of them is the status."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ecdctr.monitor.dashboard.reasons import Reason

__all__ = ["Change", "Finding", "Health", "Phase", "Verdict"]

Phase = Literal["starting", "recovering", "live", "stopping", "failed"]

STALLED_S = 30.0
"""Seconds without a step, while records wait, after which a worker is reported as stalled; ``watchdog_s`` if that is shorter."""

_NO_USE_TO_RESTART = (
    Reason.DEAD_LETTERS_WAIT,
    Reason.WAITING_FOR_DISK,
    Reason.DAMAGED_RECORDS,
    Reason.THROTTLED,
)
"""While one of these holds, a worker that makes no step is alive: a new one would wait for the same."""

_CALM_S = 10.0
"""Training and idle alternate every few seconds on a slow stream: they are a change only after this time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason that holds.

    Attributes
    ----------
    sentence
        The particulars, without a full stop.
    since
        When it began, seconds since the epoch.
    """

    reason: Reason
    sentence: str
    since: float

    def to_json(self) -> dict[str, Any]:
        """For ``/healthz`` and the page."""
        return {"name": self.reason.value, "sentence": self.sentence, "since": round(self.since)}


@dataclass(frozen=True, slots=True)
class Change:
    """A reason that has begun or ended; ``lasted_s`` is None at its beginning."""

    reason: Reason
    sentence: str
    lasted_s: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The health of the worker.

    Attributes
    ----------
    healthy
        Liveness. False: training has ended, or makes no progress although records are waiting and brokers answer; a supervisor may
        restart the worker. Also False if its event loop has been blocked for ``watchdog_s``.
    findings
        All reasons that hold, the most severe first; the first one is the status.
    lag
        Records that have not been learned yet; None: not known, because the ends of some partitions are not.
    idle_s
        Seconds without a step.
    """

    healthy: bool
    phase: Phase
    findings: tuple[Finding, ...]
    lag: int | None
    idle_s: float

    @property
    def ready(self) -> bool:
        """Whether it is training, or nothing waits, and nothing is wrong."""
        return self.healthy and self.findings[0].reason.is_ok

    @property
    def status(self) -> str:
        """``ok``, or the name of the most severe reason."""
        return "ok" if self.ready else self.findings[0].reason.value

    @property
    def reason(self) -> str:
        """A sentence for all that is wrong, or for what the worker does."""
        wrong = [f for f in self.findings if not f.reason.is_notice and not f.reason.is_ok]
        return "; ".join(f.sentence for f in wrong or self.findings[:1])

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "status": self.status,
            "reason": self.reason,
            "reasons": [finding.to_json() for finding in self.findings],
            "phase": self.phase,
            "lag_records": self.lag,
            "seconds_without_step": round(self.idle_s, 1),
        }


class Health:
    """The state that the worker reports, from any thread.

    1. The phase gives one reason: starting, recovering, stopping, failed; a live worker is training, idle or stalled, or, while the lag
       is not known, waits for the brokers.
    2. Every other reason holds from the call of :meth:`condition` that gives its sentence until the call that gives None.
    3. All reasons that hold are listed; the most severe one (the order of :class:`Reason`) is the status.

    Parameters
    ----------
    watchdog_s
        A live worker is unhealthy if records are waiting in partitions whose leaders answer, and no step was completed for this long.
        It must exceed the longest CPM release.
    now, wall
        Monotonic and epoch seconds.

    Examples
    --------
    >>> t = 0.0
    >>> health = Health(watchdog_s=60, now=lambda: t)
    >>> health.enter("live"); health.lag(7); t = 61.0
    >>> health.verdict().reason
    '7 records are waiting and no step was completed for 61 s (monitor.watchdog_s = 60)'
    >>> health.verdict().status
    'stalled'
    >>> health.step(); health.verdict().status
    'ok'
    >>> health.condition(Reason.NO_LEADER, "ad-clicks[1] has no leader"); health.verdict().status
    'partition_without_leader'
    >>> [finding.reason.value for finding in health.verdict().findings]
    ['partition_without_leader', 'training']
    """

    def __init__(
        self,
        watchdog_s: float,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.watchdog_s = watchdog_s
        self._now, self._wall = now, wall
        self._lock = threading.RLock()
        self._phase: Phase = "starting"
        self._detail = ""
        self._lag: int | None = None
        self._waiting = 0
        self._where = ""
        self._busy: str | None = None
        self._conditions: dict[Reason, str] = {}
        self._since: dict[Reason, float] = {}  # of the reasons that hold, monotonic
        self._told: dict[
            Reason, float
        ] = {}  # beginnings that `changes` has returned, of reasons that have not ended
        self._seen: dict[Reason, float] = {}  # when `changes` last found them
        self._step_at = self._waiting_since = self._lag_at = now()
        self._within_s = float("inf")

    # -- reports of the worker

    def enter(self, phase: Phase, detail: str = "") -> None:
        """Enter a phase; ``detail`` explains it."""
        with self._lock:
            self._phase, self._detail = phase, detail
            self._waiting_since = self._now()

    def expect_reports(self, within_s: float) -> None:
        """Require a call of :meth:`lag` within this time from now on, while the worker is live: otherwise its event loop is blocked.

        The lag is then not known, and after ``watchdog_s`` the worker is unhealthy.
        """
        with self._lock:
            self._within_s, self._lag_at = within_s, self._now()

    def step(self) -> None:
        """Report that a step was completed (or executed again, during recovery)."""
        with self._lock:
            self._step_at = self._now()

    def lag(
        self, records: int | None, *, waiting: int | None = None, where: str = "", busy: str | None = None
    ) -> None:
        """Set the number of records that have not been learned.

        The watchdog measures from the time at which ``waiting`` becomes positive.

        Parameters
        ----------
        records
            Of all partitions; None: the ends of some are not known.
        waiting
            Those in partitions whose ends are known; default: ``records``.
        where
            The partitions with most of them, for the sentence.
        busy
            What the trainer does for longer than a step takes, for example a CPM release: then it is not stalled before
            ``watchdog_s``.
        """
        with self._lock:
            self._lag_at = self._now()
            now_waiting = (records or 0) if waiting is None else waiting
            if now_waiting and not self._waiting:
                self._waiting_since = self._now()
            self._lag, self._waiting, self._where, self._busy = records, now_waiting, where, busy

    def condition(self, reason: Reason, sentence: str | None) -> None:
        """Set that a reason holds, with its particulars (a sentence without a full stop), or, with None, that it does not hold."""
        with self._lock:
            if sentence is None:
                self._conditions.pop(reason, None)
            else:
                self._conditions[reason] = sentence

    # -- results

    def verdict(self) -> Verdict:
        """The current health."""
        with self._lock:
            now = self._now()
            idle_s = now - max(self._step_at, self._waiting_since)
            late_s = now - self._lag_at
            is_late = self._phase == "live" and late_s > self._within_s
            lag = None if is_late else self._lag
            sentences = self._sentences(idle_s, lag)
            if is_late:
                text = f"the worker has not updated its health for {late_s:.0f} s: its event loop is blocked"
                sentences[Reason.REPORTS_FAIL] = "; ".join(
                    filter(None, (text, sentences.get(Reason.REPORTS_FAIL)))
                )
            for reason in [r for r in self._since if r not in sentences]:
                del self._since[reason]
            ago = self._wall() - now
            findings = tuple(
                Finding(reason, sentences[reason], ago + self._since.setdefault(reason, now))
                for reason in sorted(sentences, key=lambda r: r.rank)
            )
            stuck = self._phase == "live" and self._waiting > 0 and idle_s > self.watchdog_s
            excused = any(reason in self._conditions for reason in _NO_USE_TO_RESTART)
            blocked = is_late and late_s > self.watchdog_s
            healthy = self._phase != "failed" and not blocked and (excused or not stuck)
            return Verdict(healthy, self._phase, findings, lag, idle_s)

    def holds(self, reason: Reason) -> bool:
        """Whether a reason holds now."""
        return any(finding.reason is reason for finding in self.verdict().findings)

    def changes(self) -> list[Change]:
        """The reasons that have begun or ended since the last call, the most severe first; called about once per second."""
        with self._lock:
            found = {f.reason: f.sentence for f in self.verdict().findings}
            now = self._now()  # after the verdict, which dates the reasons that it finds first
            self._seen.update(dict.fromkeys(found, now))
            out = []
            for reason in [r for r in self._told if r not in found and now - self._seen[r] >= _calm_s(r)]:
                out.append(Change(reason, reason.sentence, self._seen[reason] - self._told.pop(reason)))
            for reason, sentence in found.items():
                if reason not in self._told and now - self._since[reason] >= _calm_s(reason):
                    self._told[reason] = self._since[reason]
                    out.append(Change(reason, sentence, None))
            return sorted(out, key=lambda change: change.reason.rank)

    def _sentences(self, idle_s: float, lag: int | None) -> dict[Reason, str]:
        """The reasons that hold, but for reports that are late."""
        found = dict(self._conditions)
        if self._phase != "live":
            reason = Reason(self._phase)
            found[reason] = self._detail or reason.sentence
            return found
        stalled_s = self.watchdog_s if self._busy else min(STALLED_S, self.watchdog_s)
        if self._waiting and idle_s > stalled_s:
            where = f" ({self._where})" if self._where else ""
            text = (
                f"{self._waiting:,} records are waiting{where} and no step was completed for {idle_s:.0f} s "
                f"(monitor.watchdog_s = {self.watchdog_s:g})"
            )
            found[Reason.STALLED] = "; ".join(filter(None, (text, found.get(Reason.STALLED))))
        elif lag is None and not any(not r.is_notice for r in found):
            found[Reason.STARTING] = Reason.STARTING.sentence
        elif lag == 0 and not self._waiting:
            found[Reason.IDLE] = self._detail or Reason.IDLE.sentence
        elif lag is not None or self._waiting:
            found[Reason.TRAINING] = self._busy or self._detail or Reason.TRAINING.sentence
        return found


def _calm_s(reason: Reason) -> float:
    return _CALM_S if reason.is_ok else 0.0
