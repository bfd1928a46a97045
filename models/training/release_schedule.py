"""When a CPM release is due, in event time."""

from __future__ import annotations

from typing import Any

from ecdctr.events.time import duration_ms
from ecdctr.models.settings import ScheduleSettings

__all__ = ["ReleaseSchedule"]


class ReleaseSchedule:
    """The boundaries, that is the event times at which CPM releases are scheduled.

    The first is ``first_release_after`` after the first natural row; the others follow at intervals of ``release_every``.
    A boundary is reached by natural rows only, because a release transfers what was learned from them. If several
    boundaries are reached at once (after a gap in the stream), one release is made, at the last of them.

    Examples
    --------
    >>> schedule = ReleaseSchedule(ScheduleSettings(release_every="2d", first_release_after="1d"))
    >>> day = 86_400_000
    >>> schedule.observe(0, 0); schedule.due(day - 1)
    >>> schedule.observe(0, day); schedule.due(day) == day
    True
    >>> schedule.done(day); schedule.due(2 * day)
    >>> schedule.observe(day, 8 * day); schedule.due(8 * day) == 7 * day
    True
    """

    def __init__(self, settings: ScheduleSettings) -> None:
        self._mode = settings.releases
        self._every = duration_ms(settings.release_every)
        self._after = duration_ms(settings.first_release_after)
        self._first: int | None = None
        self._clock: int | None = None
        self._last: int | None = None
        self._served = False

    def observe(self, first_ts: int, last_ts: int) -> None:
        """Record that natural rows of this range of event times were learned."""
        if self._first is None or self._clock is None:
            self._first, self._clock = first_ts, last_ts
        self._clock = max(self._clock, last_ts)

    def warm(self) -> bool:
        """Whether the warm-up has ended: natural rows span ``first_release_after`` of event time."""
        if self._first is None or self._clock is None:
            return False
        return self._clock >= self._first + self._after

    def due(self, clock_ms: int) -> int | None:
        """The latest boundary (ms) that was reached and has had no release yet; None if no release is due."""
        boundary = self.next_boundary()
        if boundary is None or self._clock is None:
            return None
        reached = min(self._clock, clock_ms)
        if reached < boundary:
            return None
        return boundary + (reached - boundary) // self._every * self._every

    def next_boundary(self) -> int | None:
        """The earliest boundary (ms) that has had no release yet; None if none is scheduled, or no natural row was learned."""
        if self._mode == "never" or (self._mode == "once" and self._served) or self._first is None:
            return None
        return self._first + self._after if self._last is None else self._last + self._every

    @property
    def interval_ms(self) -> int:
        """Event time between two boundaries, and until the first, whichever is longer, ms."""
        return max(self._every, self._after)

    def done(self, boundary_ms: int, *, accepted: bool = True) -> None:
        """Record the release of a boundary.

        A refused release is followed by one at the next boundary, even if only one release is configured (``once``).
        """
        self._last = boundary_ms
        self._served |= accepted

    def to_json(self) -> dict[str, Any]:
        return {"first": self._first, "clock": self._clock, "last": self._last, "served": self._served}

    def load(self, data: dict[str, Any]) -> None:
        """Inverse of :meth:`to_json`."""
        self._first, self._clock, self._last = data["first"], data["clock"], data["last"]
        self._served = data.get("served", self._last is not None)
