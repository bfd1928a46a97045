"""``Joiner``: impressions and clicks of many partitions become labelled rows, in an order that their arrival does not change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ecdctr.events.join.columns import JoinedRows, JoinEvents
from ecdctr.events.join.delays import DelayHistogram
from ecdctr.events.join.lanes import BEGINNING, END, IdleDecision, Lanes
from ecdctr.events.join.rule import Emitted, Rule
from ecdctr.events.join.settings import JoinSettings
from ecdctr.events.join.state import CLOSED, EARLY, PENDING, JoinState, MemoryState, Records
from ecdctr.events.time import duration_ms
from ecdctr.state.errors import DataError

__all__ = ["Joined", "Joiner"]

_FORMAT = 1
_SINGLE_ROUNDS = 4


class Joined(NamedTuple):
    """Labelled rows in the order of their emission, and the row numbers of impressions that will not be emitted again, rising."""

    rows: JoinedRows
    released: NDArray[np.int64]


class _Waiting(NamedTuple):
    """Events that the watermark has not passed: the events, the time at which each counts, and the number of its partition."""

    events: JoinEvents
    at: NDArray[np.int64]
    lane: NDArray[np.int64]

    def take(self, rows: Any) -> _Waiting:
        return _Waiting(self.events.take(rows), self.at[rows], self.lane[rows])


class Joiner:
    """Joins impressions and clicks by key in event time.

    1. Every event counts at a time that its own partition determines (:class:`Lanes`). It waits until the watermark has passed the next
       multiple of ``tick`` after that time.
    2. The events of each key are applied by time, impressions before clicks, then partition and offset, and in between what was due
       (:class:`Rule`).
    3. Rows are emitted by the time at which their label is known, at equal times those of events before those of ended windows, then by key.
    4. At the end of every tick with events the bounds are applied: beyond ``max_pending`` the impressions whose window ends first become negatives now, beyond
       ``max_early`` the oldest clicks stop waiting, beyond ``max_closed`` the oldest ids are forgotten.

    None of this depends on when and in which parts events arrive: the rows and their order are a function of the partitions' events and
    of the idle decisions. No row is emitted as a positive and as a negative, except as a correction (``late_clicks``).

    Parameters
    ----------
    settings
        Windows, allowances, bounds.
    partitions
        ``(topic, partition)`` of impressions and of clicks.
    state
        An empty state; by default in memory.

    Attributes
    ----------
    fates
        Events by fate (``FATES``), and the counts of ``REMARKS``.
    delays
        Delays of clicks by domain number.

    Examples
    --------
    >>> joiner = Joiner(JoinSettings(lateness="0s", tick="1s"), [("views", 0), ("clicks", 0)])
    >>> def events(keys, ts, is_click):
    ...     n = len(keys)
    ...     return JoinEvents(
    ...         np.array(keys, np.uint64), np.array(ts), np.full(n, is_click), np.arange(n), np.zeros(n, np.uint8),
    ...         np.zeros(n, bool), np.arange(n),
    ...     )
    >>> joiner.add("views", 0, events([1, 2], [0, 1_000], False))
    >>> joiner.add("clicks", 0, events([2], [5_000], True))
    >>> rows = joiner.finish().rows
    >>> rows.row.tolist(), rows.label.tolist(), rows.time.tolist()
    ([1, 0], [1, 0], [5000, 600000])
    >>> sorted(joiner.fates.items())
    [('click', 1), ('closed_at_end', 1), ('negative', 1), ('positive', 1)]
    """

    def __init__(
        self, settings: JoinSettings, partitions: Iterable[tuple[str, int]], state: JoinState | None = None
    ) -> None:
        self.settings = settings
        self.tick = duration_ms(settings.tick)
        self.lanes = Lanes(
            partitions, duration_ms(settings.lateness), duration_ms(settings.idle_after), self.tick
        )
        self.rule = Rule(settings)
        self.state: JoinState = MemoryState() if state is None else state
        self._waiting: list[_Waiting] = []
        self._done = BEGINNING

    @property
    def fates(self) -> dict[str, int]:
        return self.rule.fates

    @property
    def delays(self) -> tuple[DelayHistogram, DelayHistogram]:
        return self.rule.delays

    @property
    def waiting(self) -> int:
        """Events that the watermark has not passed; a caller that reads partitions at different speeds bounds it by pausing the fast ones."""
        return sum(len(part.at) for part in self._waiting)

    @property
    def labelled_until(self) -> int:
        """Every impression with an earlier ``ts`` has been labelled, unless it is delivered late. Not with ``late_clicks = early``."""
        return self._done - int(self.rule.windows.max())

    def add(self, topic: str, partition: int, events: JoinEvents, now: int | None = None) -> None:
        """Take the next events of a partition. ``now``: the clock (ms) of :meth:`decide_idle`.

        Raises
        ------
        DataError
            The partition is unknown, or offsets do not rise.
        """
        at = self.lanes.counts_at((topic, partition), events.ts, events.offset, now)
        if len(at):
            late = int((at > events.ts).sum())
            if late:
                self.rule.fates["delivered_late"] += late
            self._waiting.append(_Waiting(events, at, np.full(len(at), self.lanes.number[topic, partition])))

    def decide_idle(self, now: int, behind: Iterable[tuple[str, int]] = ()) -> list[IdleDecision]:
        """Go on without partitions that have been silent for ``idle_after``; the decisions must be recorded for a replay.

        ``behind``: partitions whose log is known to hold more, so that they are not silent.
        """
        return self.lanes.decide(now, behind)

    def apply_idle(self, decision: IdleDecision) -> None:
        """Repeat a recorded decision, when the events before its offset, and no later ones, were added."""
        self.lanes.apply(decision)

    def take(self) -> Joined:
        """The rows whose labels are known by now."""
        watermark = self.lanes.watermark()
        return self._advance(END if watermark >= END else watermark - watermark % self.tick)

    def finish(self) -> Joined:
        """All remaining rows: nothing follows in any partition. Impressions whose window has not passed become negatives."""
        before = self.lanes.watermark()
        self.lanes.finish()
        joined = self._advance(END)
        ended = int(((joined.rows.label == 0) & (joined.rows.time >= before)).sum())
        if ended and self.rule.policy != "early":
            self.rule.fates["closed_at_end"] += ended
        return joined

    def export(self) -> bytes:
        """Everything that the next rows depend on; equal bytes for equal states, whatever way they were reached."""
        waiting = self._merged()
        if waiting is not None:
            waiting = waiting.take(np.lexsort((waiting.events.offset, waiting.lane)))
        arrays: dict[str, NDArray[Any]] = {f"state.{n}": c for n, c in self.state.export().columns().items()}
        if waiting is not None:
            arrays |= {f"waiting.{n}": c for n, c in waiting.events.columns().items()}
            arrays |= {"at": waiting.at, "lane": waiting.lane}
        arrays |= {f"delays.{d}": h.counts for d, h in enumerate(self.delays)}
        meta = {
            "format": _FORMAT,
            "lanes": self.lanes.export(),
            "done": self._done,
            "fates": dict(sorted(self.rule.fates.items())),
        }
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})

    @classmethod
    def restore(
        cls,
        settings: JoinSettings,
        partitions: Iterable[tuple[str, int]],
        saved: bytes,
        make_state: Callable[[Records], JoinState] = MemoryState.restore,
    ) -> Joiner:
        """A joiner that continues from an export.

        Raises
        ------
        DataError
            The bytes are no export of a join, or of other partitions.
        """
        try:
            arrays = load(saved)
            meta = json.loads(arrays["meta"].tobytes())
            if meta["format"] != _FORMAT:
                raise DataError(f"the saved join has format {meta['format']}, expected {_FORMAT}")
            state = make_state(Records(**_part(arrays, "state.")))
            joiner = cls(settings, partitions, state)
            joiner.lanes.restore(meta["lanes"])
            joiner._done = meta["done"]
            joiner.rule.fates.update(meta["fates"])
            joiner.rule.delays = (DelayHistogram(arrays["delays.0"]), DelayHistogram(arrays["delays.1"]))
            if "at" in arrays:
                events = JoinEvents(**_part(arrays, "waiting."))
                joiner._waiting = [_Waiting(events, arrays["at"], arrays["lane"])]
        except DataError:
            raise
        except Exception as error:  # the loader of safetensors has no error type of its own
            raise DataError(f"the saved join cannot be read: {error}") from error
        return joiner

    def _merged(self) -> _Waiting | None:
        if len(self._waiting) > 1:
            events = JoinEvents.concat([part.events for part in self._waiting])
            at = np.concatenate([part.at for part in self._waiting])
            self._waiting = [_Waiting(events, at, np.concatenate([part.lane for part in self._waiting]))]
        return self._waiting[0] if self._waiting else None

    def _advance(self, until: int) -> Joined:
        out = Emitted()
        if until > self._done:
            ready = self._ready(until)
            if ready is not None and self._may_exceed(len(ready.at)):
                self._by_tick(ready, until, out)
            elif ready is not None:
                self._apply(ready, out)
            self._pass_time(until, out)
            self._done = until
        return Joined(*out.sorted())

    def _ready(self, until: int) -> _Waiting | None:
        """Remove and return the events that count before ``until``."""
        merged = self._merged()
        if merged is None:
            return None
        ready = merged.at < until
        self._waiting = [] if ready.all() else [merged.take(~ready)]
        return merged.take(ready) if ready.any() else None

    def _may_exceed(self, new: int) -> bool:
        """Whether a bound may be exceeded while so many events are applied."""
        pending, early, closed = (self.state.count(*kinds) for kinds in ((PENDING,), (EARLY,), CLOSED))
        bounds = self.settings
        return (
            pending + new > bounds.max_pending
            or early + new > bounds.max_early
            or closed + pending + new > bounds.max_closed
        )

    def _by_tick(self, ready: _Waiting, until: int, out: Emitted) -> None:
        """Apply the events of each tick, and the bounds at its end.

        Without events no kind of record can come to exceed its bound for good, so the ticks in between do not matter, and the result does not
        depend on how many ticks are applied at once.
        """
        tick = ready.at // self.tick
        order = np.argsort(tick, kind="stable")
        ticks, starts = np.unique(tick[order], return_index=True)
        for number, rows in zip(ticks.tolist(), np.split(order, starts[1:]), strict=True):
            self._apply(ready.take(rows), out)
            end = min((number + 1) * self.tick, until)
            self._pass_time(end, out)
            self._bound(end, out)

    def _pass_time(self, until: int, out: Emitted) -> None:
        due = self.state.due(until)
        self.rule.pass_time(due, np.full(len(due), until), out)
        self.state.write(due)

    def _apply(self, ready: _Waiting, out: Emitted) -> None:
        """Apply the events of each key in their order: the first of every key, then the second, and so on.

        From the fifth on, events that change nothing are applied together, so that one key that is repeated a thousand times does not take a
        thousand rounds.
        """
        events, at, lane = ready
        order = np.lexsort(
            (lane, events.is_click, at, events.key)
        )  # stable: a partition's events stay in its order
        events, at = events.take(order), at[order]
        first = np.concatenate([[True], events.key[1:] != events.key[:-1]])
        group = np.cumsum(first) - 1
        records = self.state.find(events.key[first])
        left = np.arange(len(group))
        rounds = 0
        while len(left):
            rounds += 1
            if rounds > _SINGLE_ROUNDS:
                left = self._apply_without_effect(records, events, at, group, left, out)
            next_ = np.concatenate([[True], group[left][1:] != group[left][:-1]])[: len(left)]
            rows = left[next_]
            chosen = records.take(group[rows])
            self.rule.apply(chosen, events.take(rows), at[rows], out)
            records.put(group[rows], chosen)
            left = left[~next_]
        self.state.write(records)

    def _apply_without_effect(
        self,
        records: Records,
        events: JoinEvents,
        at: NDArray[np.int64],
        group: NDArray[np.int64],
        left: NDArray[np.int64],
        out: Emitted,
    ) -> NDArray[np.int64]:
        """Apply the next events of each key up to the first that changes its record; return the others."""
        before, after = records.take(group[left]), records.take(group[left])
        Rule(self.settings).apply(after, events.take(left), at[left], Emitted())
        changed = np.zeros(len(left), np.bool_)
        for name, column in before.columns().items():
            changed |= column != getattr(after, name)
        seen = np.cumsum(changed)
        starts = np.concatenate([[True], group[left][1:] != group[left][:-1]])
        place = np.cumsum(starts) - 1
        without: NDArray[np.bool_] = seen == (seen - changed)[starts][place]
        rows = left[without]
        self.rule.apply(records.take(group[rows]), events.take(rows), at[rows], out)
        return left[~without]

    def _bound(self, end: int, out: Emitted) -> None:
        fates, bounds = self.rule.fates, self.settings
        over = self.state.count(PENDING) - bounds.max_pending
        if over > 0:
            oldest = self.state.oldest((PENDING,), over)
            self.rule.close(oldest, np.ones(over, np.bool_), np.full(over, end - 1), out)
            self.state.write(oldest)
            fates["closed_by_bound"] += over
        for kinds, most, name in (
            ((EARLY,), bounds.max_early, "early_by_bound"),
            (CLOSED, bounds.max_closed, "forgotten_by_bound"),
        ):
            over = self.state.count(*kinds) - most
            if over > 0:
                oldest = self.state.oldest(kinds, over)
                self.rule.forget(oldest, out)
                self.state.write(oldest)
                fates[name] += over


def _part(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): a.copy() for name, a in arrays.items() if name.startswith(prefix)}
