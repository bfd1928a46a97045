"""``ReleaseWatch``: whether CPM releases still come at the times of their schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ecdctr.models.training import ReleaseSchedule

__all__ = ["ReleaseWatch"]

PATIENCE_S = 600.0
"""How long the next release has to be out of reach before that is reported: rows of a late partition are older for a while."""


class ReleaseWatch:
    """Compares the event time of the next release with that of the rows that arrive.

    Examples
    --------
    >>> from ecdctr.models.settings import ScheduleSettings
    >>> day = 86_400_000
    >>> schedule = ReleaseSchedule(ScheduleSettings(release_every="1d", first_release_after="1d"))
    >>> schedule.observe(0, day); schedule.done(day)
    >>> watch = ReleaseWatch()
    >>> watch.sentence(0.0, schedule, 2 * day), watch.sentence(900.0, schedule, 2 * day)
    (None, None)
    >>> watch.sentence(900.0, schedule, 5 * day); watch.sentence(1800.0, schedule, 5 * day)
    'the CPM release of 1970-01-03 00:00 (event time) has not been made, and the rows that arrive are 3 days newer: the ad window may have too few rows'
    >>> schedule.observe(9000 * day, 9000 * day); schedule.done(9000 * day)
    >>> watch.sentence(1800.0, schedule, 5 * day); watch.sentence(2700.0, schedule, 5 * day)
    'the next CPM release is due at 1994-08-24 00:00 (event time), 8996 days after the rows that arrive: rows with a wrong time have moved the event clock'
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._sign = 0

    def sentence(self, now: float, schedule: ReleaseSchedule | None, arriving_ms: int | None) -> str | None:
        """The sentence of the reason; None while releases come, or none is scheduled. Called about once per second.

        Parameters
        ----------
        now
            Monotonic seconds.
        schedule
            The schedule of the trainer; None: it makes no releases.
        arriving_ms
            Event time of natural rows that arrive now, ms; None before the first.
        """
        boundary = None if schedule is None else schedule.next_boundary()
        if schedule is None or boundary is None or arriving_ms is None:
            self._since = None
            return None
        ahead = boundary - arriving_ms
        sign = (ahead > 2 * schedule.interval_ms) - (ahead < -2 * schedule.interval_ms)
        if sign != self._sign or not sign:
            self._sign, self._since = sign, now
        if not sign or self._since is None or now - self._since < PATIENCE_S:
            return None
        due = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=boundary)
        days = f"{abs(ahead) / 86_400_000:.0f} days"
        if sign > 0:
            return (
                f"the next CPM release is due at {due:%Y-%m-%d %H:%M} (event time), {days} after the rows that arrive: rows with a wrong "
                "time have moved the event clock"
            )
        return (
            f"the CPM release of {due:%Y-%m-%d %H:%M} (event time) has not been made, and the rows that arrive are {days} newer: the ad "
            "window may have too few rows"
        )
