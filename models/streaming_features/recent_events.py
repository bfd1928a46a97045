"""``Events``: impressions and clicks by the time at which they become known; ``RecentEvents``: those not yet in the tables."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Events", "RecentEvents"]


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """``n`` impressions or clicks.

    Attributes
    ----------
    ts
        Time at which the event becomes known, ms, int64 ``(n,)``.
    keys
        Its key in each table, uint64 ``(n, T)``.
    column
        ``2 * domain + kind`` (0 impression, 1 click), int64 ``(n,)``.
    """

    ts: NDArray[np.int64]
    keys: NDArray[np.uint64]
    column: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Events:
        """Events by index, mask or slice."""
        return Events(self.ts[rows], self.keys[rows], self.column[rows])

    @staticmethod
    def none(tables: int) -> Events:
        """No events."""
        return Events(np.empty(0, np.int64), np.empty((0, tables), np.uint64), np.empty(0, np.int64))

    @staticmethod
    def merge(parts: list[Events]) -> Events:
        """Events of all parts in the order of their times."""
        ts = np.concatenate([part.ts for part in parts])
        order = np.argsort(ts, kind="stable")
        keys = np.concatenate([part.keys for part in parts])
        column = np.concatenate([part.column for part in parts])
        return Events(ts[order], keys[order], column[order])


class RecentEvents:
    """Events of the last steps, ordered by time, and clicks that become known later.

    Events of equal time are interchangeable: they add the same values to the counts of their keys.

    Parameters
    ----------
    tables
        Number of keys of an event.
    """

    def __init__(self, tables: int) -> None:
        self._tables = tables
        self._recent = Events.none(tables)
        # A heap of (earliest time, number, events). The number only prevents that events are compared.
        self._later: list[tuple[int, int, Events]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._recent)

    @property
    def waiting(self) -> int:
        """Number of clicks that are not known yet."""
        return sum(len(events) for _, _, events in self._later)

    def add(self, events: Events, later: Events) -> None:
        """Add the events of a step, and those that become known later."""
        self._recent = Events.merge([self._recent, events])
        self._wait(later)

    def _wait(self, events: Events) -> None:
        if len(events):
            heapq.heappush(self._later, (int(events.ts.min()), self._number, events))
            self._number += 1

    def before(self, ts: int, own: Events | None = None) -> Events:
        """All events known before ``ts`` and those of ``own``, in order; nothing changes."""
        parts = [self._recent]
        if self._later and self._later[0][0] < ts:
            parts += [events for first, _, events in self._later if first < ts]
        if own is not None:
            parts.append(own)
        events = self._recent if len(parts) == 1 else Events.merge(parts)
        return events.take(slice(0, int(np.searchsorted(events.ts, ts))))

    def advance(self, ts: int) -> None:
        """Move the clicks that are known before ``ts`` to the other events."""
        known = []
        while self._later and self._later[0][0] < ts:
            _, _, events = heapq.heappop(self._later)
            known.append(events.take(events.ts < ts))
            self._wait(events.take(events.ts >= ts))
        if known:
            self._recent = Events.merge([self._recent, *known])

    def take_before(self, ts: int) -> Events:
        """Remove and return the events before ``ts``, in order."""
        n = int(np.searchsorted(self._recent.ts, ts))
        out, self._recent = self._recent.take(slice(0, n)), self._recent.take(slice(n, None))
        return out

    def bound(self, n: int) -> int | None:
        """A time such that at most ``n`` events are not before it; None if there are no more than ``n`` events."""
        return None if len(self) <= n else int(self._recent.ts[len(self) - n - 1]) + 1

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """The state as arrays, in an order that depends only on the events."""
        later = Events.merge([Events.none(self._tables), *(events for _, _, events in self._later)])
        out: dict[str, NDArray[np.generic]] = {}
        for name, events in (("recent", self._recent), ("later", later)):
            ordered = events.take(np.lexsort((events.column, *events.keys.T, events.ts)))
            out |= {f"{name}_ts": ordered.ts, f"{name}_keys": ordered.keys, f"{name}_column": ordered.column}
        return out

    def load(self, tensors: dict[str, NDArray[np.generic]]) -> None:
        """Inverse of :meth:`tensors`."""
        recent, later = (
            Events(
                tensors[f"{name}_ts"].astype(np.int64),
                tensors[f"{name}_keys"].astype(np.uint64).reshape(-1, self._tables),
                tensors[f"{name}_column"].astype(np.int64),
            )
            for name in ("recent", "later")
        )
        self._recent, self._later, self._number = recent, [], 0
        self._wait(later)
