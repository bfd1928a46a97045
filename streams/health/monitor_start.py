"""``MonitorStart``: when a monitor that has failed is started again, and from which rows of the score log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.training import Engine
from ecdctr.monitor.monitor import Monitor
from ecdctr.state.row_logs import ScoreLog

__all__ = ["Cut", "MonitorStart", "ScoreLogUntil"]

DELAYS_S = (5.0, 30.0, 300.0)
"""Until the monitor is started again, after its first, second and each further failure in a row."""
SOUND_S = 600.0
"""A monitor that has worked for this long begins again with the first delay."""


class ScoreLogUntil:
    """The rows that the score log had at some time, while further rows are appended to it.

    Parameters
    ----------
    scores
        The score log.
    sizes
        Rows of each event day at that time.
    """

    def __init__(self, scores: ScoreLog, sizes: dict[int, int]) -> None:
        self._scores, self._sizes = scores, sizes

    def sizes(self) -> dict[int, int]:
        """Rows of each event day."""
        return self._sizes

    def read(self, *, first_day: int, last_day: int) -> dict[str, NDArray[Any]]:
        """The rows of one event day, in the order in which they were appended; ``first_day`` and ``last_day`` are the same."""
        if first_day != last_day:
            raise ValueError(f"one day at a time, not {first_day} to {last_day}")
        rows = self._scores.read(first_day=first_day, last_day=last_day)
        return {name: np.asarray(column)[: self._sizes.get(first_day, 0)] for name, column in rows.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A place in the queue of completed steps: the score log, as of then, has the rows of all steps before it and of none after."""

    scores: ScoreLogUntil | None
    clock_ms: int

    @classmethod
    def of(cls, engine: Engine) -> Cut:
        """Now; called in the thread that owns the engine, between two steps."""
        scores = engine.scores
        until = None if scores is None else ScoreLogUntil(scores, dict(scores.sizes()))
        return cls(until, engine.clock)


class MonitorStart:
    """The state of a monitor that may fail: working, failed, or to be started again.

    1. After a failure it waits for :data:`DELAYS_S`.
    2. Then the trainer's thread is asked for a :class:`Cut` (:meth:`wants_cut`), since only it knows a time between two steps.
    3. The monitor's thread restores a new monitor from the rows before the cut, and gives it the steps after it.

    Parameters
    ----------
    now
        Monotonic seconds.

    Attributes
    ----------
    failed
        The error with which it failed; None: it works.
    waiting
        Calls that are made when it works: releases and months, which the score log does not have.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.failed: Exception | None = None
        self.waiting: list[Callable[[Monitor], None]] = []
        self._failures = 0
        self._due = float("inf")
        self._failed_at = -float("inf")

    def fail(self, error: Exception) -> None:
        """Report a failure."""
        now = self._now()
        self._failures = 0 if now - self._failed_at > SOUND_S + DELAYS_S[-1] else self._failures
        self._due = now + DELAYS_S[min(self._failures, len(DELAYS_S) - 1)]
        self._failures += 1
        self._failed_at = now
        self.failed = error

    def wants_cut(self) -> bool:
        """Whether a cut is needed now; the next one is needed only after another failure."""
        if self.failed is None or self._now() < self._due:
            return False
        self._due = float("inf")
        return True

    def done(self) -> None:
        """Report that a new monitor works."""
        self.failed = None

    def take_waiting(self) -> list[Callable[[Monitor], None]]:
        """Return the waiting calls and forget them."""
        taken, self.waiting = self.waiting, []
        return taken

    def sentence(self) -> str | None:
        """The sentence of the reason; None while the monitor works."""
        error = self.failed
        if error is None:
            return None
        return (
            f"the monitor has failed ({type(error).__name__}: {error}): windows, drift and alerts are not updated; training continues, "
            "and the monitor is started again"
        )
