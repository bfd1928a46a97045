"""``Rule``: what an impression, a click, or the passing of time does to the record of one key."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.join.columns import (
    CLICKED,
    CORRECTION,
    EARLY_NEGATIVE,
    NOT_CLICKED,
    JoinedRows,
    JoinEvents,
)
from ecdctr.events.join.delays import DelayHistogram
from ecdctr.events.join.settings import JoinSettings
from ecdctr.events.join.state import ABSENT, ANONYMOUS, EARLY, LATE, NEGATIVE, PENDING, POSITIVE, Records
from ecdctr.events.time import duration_ms

__all__ = ["Emitted", "Rule"]

Mask = NDArray[np.bool_]
_ON_EVENT, _ON_TIME = 0, 1


@dataclass(slots=True)
class Emitted:
    """Rows and released row numbers, in the order in which they were made."""

    rows: list[JoinedRows] = field(default_factory=list)
    stages: list[NDArray[np.uint8]] = field(default_factory=list)
    released: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, time: NDArray[np.int64], r: Records, rows: Mask, role: int, stage: int) -> None:
        """Emit the impressions of the records ``r[rows]``."""
        n = int(rows.sum())
        if n:
            label = np.full(n, role in (CLICKED, CORRECTION), np.uint8)
            made = JoinedRows(
                time[rows],
                r.key[rows],
                r.row[rows],
                r.ts[rows],
                r.domain[rows],
                label,
                np.full(n, role, np.uint8),
            )
            self.rows.append(made)
            self.stages.append(np.full(n, stage, np.uint8))

    def release(self, numbers: NDArray[np.int64]) -> None:
        """No row with these numbers will be emitted again."""
        if len(numbers):
            self.released.append(numbers)

    def sorted(self) -> tuple[JoinedRows, NDArray[np.int64]]:
        """The rows by time, events before ends of windows, key, and the order in which they were made."""
        released = np.sort(np.concatenate([np.empty(0, np.int64), *self.released]))
        if not self.rows:
            return _no_rows(), released
        rows = JoinedRows.concat(self.rows)
        return rows.take(np.lexsort((rows.key, np.concatenate(self.stages), rows.time))), released


def _no_rows() -> JoinedRows:
    whole, small = np.empty(0, np.int64), np.empty(0, np.uint8)
    return JoinedRows(whole, np.empty(0, np.uint64), whole, whole, small, small, small)


class Rule:
    """The transitions of records, for many keys at once. Each call has at most one event of a key.

    ==========  =========================================  ================================================================
    record      impression                                 click
    ==========  =========================================  ================================================================
    none        waits until its window ends                waits for its impression until ``early_hold`` ends
    EARLY       positive if the delay fits                 duplicate
    PENDING     duplicate                                  positive if the delay fits; else late, or too early
    NEGATIVE    duplicate                                  late (overdue within the window): dropped, or a correction
    POSITIVE    duplicate                                  duplicate
    LATE        duplicate                                  duplicate
    ANONYMOUS   duplicate                                  click without user
    ==========  =========================================  ================================================================

    A delay fits from ``-skew`` to the window of the domain, both included. With ``late_clicks = early`` an impression is a negative when it
    comes, and each click of it a correction.
    """

    def __init__(self, settings: JoinSettings) -> None:
        self.windows = np.array(settings.windows_ms, np.int64)
        self.skew = duration_ms(settings.skew)
        self.hold = duration_ms(settings.early_hold)
        self.remember = duration_ms(settings.remember)
        self.policy: Literal["drop", "correct", "early"] = settings.late_clicks
        self.fates: Counter[str] = Counter()
        self.delays = (DelayHistogram(), DelayHistogram())

    def apply(self, r: Records, e: JoinEvents, at: NDArray[np.int64], out: Emitted) -> None:
        """One event for each record; ``at``: the time at which it counts."""
        self.pass_time(r, at, out)
        self._impressions(r, e, at, out)
        self._clicks(r, e, at, out)

    def pass_time(self, r: Records, before: NDArray[np.int64], out: Emitted) -> None:
        """Time passes to ``before``; what is due at that very time is not due yet."""
        ended = (r.kind == PENDING) & (r.due < before)
        self.close(r, ended, r.due.copy(), out)
        self._forget(r, (r.kind != ABSENT) & (r.kind != PENDING) & (r.due < before), out)

    def forget(self, r: Records, out: Emitted) -> None:
        """Clicks stop waiting, and labelled impressions are no longer remembered."""
        self._forget(r, np.ones(len(r), np.bool_), out)

    def close(self, r: Records, rows: Mask, time: NDArray[np.int64], out: Emitted) -> None:
        """Waiting impressions become negatives at ``time``."""
        self._count("negative", rows)
        out.add(time, r, rows, NOT_CLICKED, _ON_TIME)
        if self.policy == "drop":
            out.release(r.row[rows])
        self._become(r, rows, NEGATIVE, time + self.remember)

    def _forget(self, r: Records, rows: Mask, out: Emitted) -> None:
        self._count("click_without_impression", rows & (r.kind == EARLY))
        if self.policy != "drop":
            out.release(r.row[rows & (r.kind == NEGATIVE)])
        r.kind[rows] = ABSENT

    def _impressions(self, r: Records, e: JoinEvents, at: NDArray[np.int64], out: Emitted) -> None:
        shown = ~e.is_click
        known = shown & (r.kind != ABSENT) & (r.kind != EARLY)
        self._count("duplicate_impression", known)
        anonymous = shown & ~known & e.anonymous
        self._count("impression_without_user", anonymous)
        self._count("click_without_user", anonymous & (r.kind == EARLY))
        out.release(e.row[known | anonymous])
        self._become(r, anonymous, ANONYMOUS, at + self.remember)
        new = shown & ~known & ~anonymous
        early = new & (r.kind == EARLY)
        delay = r.ts - e.ts
        for name in ("ts", "row", "domain"):
            getattr(r, name)[new] = getattr(e, name)[new]
        window = self.windows[r.domain]
        if self.policy == "early":
            self._count("negative", new)
            out.add(at, r, new, EARLY_NEGATIVE, _ON_EVENT)
            self._become(r, new, NEGATIVE, at + self.remember)
        else:
            self._become(r, new, PENDING, np.maximum(r.ts + window, at))
        self._join(r, early, delay, at, out)

    def _clicks(self, r: Records, e: JoinEvents, at: NDArray[np.int64], out: Emitted) -> None:
        click = e.is_click
        self._count("duplicate_click", click & np.isin(r.kind, (EARLY, POSITIVE, LATE)))
        self._count("click_without_user", click & (r.kind == ANONYMOUS))
        first = click & (r.kind == ABSENT)
        r.ts[first], r.row[first] = e.ts[first], -1
        self._become(r, first, EARLY, at + self.hold)
        self._join(r, click & np.isin(r.kind, (PENDING, NEGATIVE)), e.ts - r.ts, at, out)

    def _join(
        self, r: Records, rows: Mask, delay: NDArray[np.int64], at: NDArray[np.int64], out: Emitted
    ) -> None:
        """Clicks meet their impressions, which wait or are negatives."""
        too_early = rows & (delay < -self.skew)
        self._count("early_click", too_early)
        met = rows & ~too_early
        within = delay <= self.windows[r.domain]
        for domain, delays in enumerate(self.delays):
            delays.add(delay[met & (r.domain == domain)])
        waits = met & (r.kind == PENDING)
        labelled = met & (r.kind == NEGATIVE)
        in_time = within & (waits | (labelled & (self.policy == "early")))
        self._count("click", met & in_time)
        self._count("late_click", met & ~within)
        self._count("overdue_click", met & within & ~in_time)
        positive = waits if self.policy == "correct" else waits & within
        self._count("positive", positive)
        out.add(at, r, positive, CLICKED, _ON_EVENT)
        out.release(r.row[positive])
        self._become(r, positive, POSITIVE, at + self.remember)
        if self.policy != "drop":
            self._count("correction", labelled)
            out.add(at, r, labelled, CORRECTION, _ON_EVENT)
            out.release(r.row[labelled])
        r.kind[labelled] = LATE

    def _count(self, fate: str, rows: Mask) -> None:
        n = int(rows.sum())
        if n:
            self.fates[fate] += n

    @staticmethod
    def _become(r: Records, rows: Mask, kind: int, due: NDArray[np.int64]) -> None:
        r.kind[rows] = kind
        r.due[rows] = due[rows]
