"""``StreamingFeatures``: computes the columns of rows from the events before them, and learns from these rows' events."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS, HOUR_MS, duration_ms
from ecdctr.models.settings import StreamingFeatureSettings
from ecdctr.models.streaming_features.columns import Kind, StreamingColumns
from ecdctr.models.streaming_features.decayed_counts import DecayedCounts
from ecdctr.models.streaming_features.key_table import MISSING, KeyTable
from ecdctr.models.streaming_features.recent_events import Events, RecentEvents
from ecdctr.state.checkpoints import Capture, Loaded
from ecdctr.state.errors import ConfigError
from ecdctr.state.hashing import mix64

__all__ = ["StreamingFeatures", "extended_specs"]

_PREFIX = "streaming"
_DOMAINS = np.uint64(1)
"""Key under which the events of all rows are counted, by domain."""
_SALT = np.uint64(0x8F1BBCDCA62C1D6B)
_BEGINNING = -(2**62)
AD_DELAY_MS = HOUR_MS
"""Longest time by which natural rows may be learned after ad rows of the same event time, without becoming late."""
MAX_RECENT = 32_768
"""Maximum number of events that are kept with their times. Beyond it, the oldest are added to the tables."""


class _Groups(NamedTuple):
    """Rows of a batch by event time, in groups that see the same events.

    Attributes
    ----------
    order
        Indices of the rows by event time, without late rows.
    starts
        Position in ``order`` of the first row of each group.
    events
        Events by time.
    begins
        For each group the number of events before its first row.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    events: Events
    begins: NDArray[np.intp]


def extended_specs(
    specs: Sequence[FeatureSpec], settings: StreamingFeatureSettings
) -> tuple[FeatureSpec, ...]:
    """The features of the models: the configured ones, and the streaming features if they are on."""
    return (*specs, *(StreamingColumns(settings).specs() if settings.mode != "off" else ()))


class StreamingFeatures:
    """Counts, click rates and recency of keys, as they were known before each row.

    What a row sees:

    1. Only events with a time strictly before its own ``ts``. An impression has the time of its row, a click this time plus
       ``visible_after``. Rows of one event time (such as an impression list) never see each other.
    2. Only events of the rows of earlier steps, and of earlier rows of its own step: the rows of a step are divided by event time
       into ``refresh`` groups, and each group sees all events before its first row. (With ``refresh = 1``, all rows of a step
       see the state before the step.) Rows that are only predicted see no events of each other.
    3. A row that is older than :attr:`floor` sees nothing: it has the values of keys without events, and is counted in
       :attr:`late_rows`. Events before ``floor`` are in the tables, which keep counts and not single events, so that
       what was known at the row's time can no longer be determined.

    The events of a step are added after it was learned (:meth:`observe`), also if it was rolled back: the impressions took place.
    They stay a while with their times, because natural rows of the same time may follow ad rows. Events before ``floor``
    are moved to the tables. ``floor`` is the earliest event time of the last natural step, at least that of the last ad
    step minus :data:`AD_DELAY_MS`; it never decreases.

    All values are functions of the rows, their order and their division into steps. Nothing depends on arrival, the wall clock or the
    layout of a hash table: replays, repeated steps and predictions give the same bits.

    Once per event day, keys without an event for ``expire_after`` are removed.

    Parameters
    ----------
    schema
        The configured features, without the streaming features.
    settings
        The settings.

    Attributes
    ----------
    columns
        The columns.
    tables
        The tables of the kinds of keys, and that of the domains.
    floor
        Event time (ms) before which all events are in the tables.
    late_rows
        Number of rows of learned steps that were older than ``floor``.

    Raises
    ------
    ConfigError
        A key is neither ``user`` nor ``item`` nor the name of a categorical feature.
    """

    def __init__(self, schema: FeatureSchema, settings: StreamingFeatureSettings) -> None:
        self.columns = StreamingColumns(settings)
        self._schema, self._refresh = schema, settings.refresh
        self._visible_after_ms = duration_ms(settings.visible_after)
        self._expire_ms = duration_ms(settings.expire_after)
        for kind in self.columns.kinds:
            for part in kind.parts:
                _check(part, kind, schema)
        kinds = self.columns.kinds
        self.tables = [
            KeyTable(f"{_PREFIX}/{kind.name}", self.columns.counts(kind), settings.max_keys) for kind in kinds
        ]
        self.tables.append(KeyTable(f"{_PREFIX}/domains", self.columns.of_domains, 1))
        # Tables of the same layout are read together.
        layouts = dict.fromkeys(table.counts for table in self.tables)
        self._layouts = [
            (counts, [i for i, table in enumerate(self.tables) if table.counts is counts])
            for counts in layouts
        ]
        self.reset()

    def reset(self) -> None:
        """Return to the initial state."""
        for table in self.tables:
            table.reset()
        self._recent = RecentEvents(len(self.tables))
        self.floor = self._day = _BEGINNING
        self.late_rows = 0

    # -- read

    def extend(self, batch: Batch, *, learned: bool) -> Batch:
        """The rows with the further columns; the state does not change.

        Parameters
        ----------
        batch
            Rows with the configured features.
        learned
            Whether the rows are those of a step that is learned, so that later groups of rows see the events of earlier ones.
        """
        values = self.values(batch, learned=learned)
        return replace(
            batch,
            features=np.concatenate([batch.features, self.columns.features(values)], axis=1),
            dense=np.concatenate([batch.dense, self.columns.numbers(values)], axis=1),
        )

    def values(self, batch: Batch, *, learned: bool) -> NDArray[np.float32]:
        """Values of all columns, ``(n, C)``."""
        keys = self._keys(batch)
        order = np.argsort(batch.ts, kind="stable")
        order = order[int(np.searchsorted(batch.ts[order], self.floor)) :]
        ts = batch.ts[order]
        starts = self._groups(ts)
        own = self._events(batch, keys) if learned and len(starts) > 1 else None
        events = (
            self._recent.before(int(ts[starts[-1]]), own) if len(starts) else Events.none(len(self.tables))
        )
        begins = np.searchsorted(events.ts, ts[starts])
        states = [table.counts.new(len(batch)) for table in self.tables]
        if len(starts):
            for counts, which in self._layouts:
                groups = _Groups(order, starts, events, begins)
                for i, values in zip(which, self._read(counts, which, keys, groups), strict=True):
                    states[i][order] = values
        return self.columns.values(states[:-1], states[-1], batch.ts)

    def _groups(self, ts: NDArray[np.int64]) -> NDArray[np.intp]:
        """Position of the first row of each group in rows sorted by time; rows of one time are in one group."""
        if not len(ts):
            return np.empty(0, np.intp)
        wanted = ts[np.arange(self._refresh) * len(ts) // self._refresh]
        return np.unique(np.searchsorted(ts, wanted))

    def _read(
        self, counts: DecayedCounts, which: list[int], keys: NDArray[np.uint64], groups: _Groups
    ) -> NDArray[np.float64]:
        """State of each row's keys in the tables ``which``, ``(T, n, width)``: the tables', with the events before the row's group."""
        states, rows, found, events = [], [], [], []
        n = 0
        for i in which:
            unique, inverse = np.unique(keys[groups.order, i], return_inverse=True)
            theirs = groups.events.keys[:, i]
            at = np.minimum(np.searchsorted(unique, theirs), len(unique) - 1)
            ours = np.flatnonzero((unique[at] == theirs) & (theirs != MISSING))
            states.append(self.tables[i].read(unique))
            rows.append(inverse + n)
            found.append(at[ours] + n)
            events.append(ours)
            n += len(unique)
        state, row = np.concatenate(states), np.stack(rows)
        event, at = np.concatenate(events), np.concatenate(found)
        by_time = np.argsort(event, kind="stable")
        event, at = event[by_time], at[by_time]
        ts, column = groups.events.ts[event], groups.events.column[event]
        if len(event):
            counts.enter(state, int(ts[0]))
        weights = counts.weights(ts)
        out = np.empty((len(which), len(groups.order), counts.width))
        ends = [*groups.starts[1:].tolist(), len(groups.order)]
        done = 0
        for start, end, stop in zip(
            groups.starts.tolist(), ends, np.searchsorted(event, groups.begins).tolist(), strict=True
        ):
            new = slice(done, stop)
            counts.add(state, at[new], ts[new], column[new], [(e[new], w[new]) for e, w in weights])
            done = stop
            out[:, start:end] = state[row[:, start:end]]
        return out

    def _keys(self, batch: Batch) -> NDArray[np.uint64]:
        """Key of each row in each table, ``(n, T)``."""
        out = np.empty((len(batch), len(self.tables)), np.uint64)
        for i, kind in enumerate(self.columns.kinds):
            parts = [self._ids(batch, part) for part in kind.parts]
            key = parts[0]
            if kind.is_pair:
                key = mix64(mix64(parts[0] ^ _SALT) + parts[1])
                key[(parts[0] == MISSING) | (parts[1] == MISSING)] = MISSING
            out[:, i] = key
        out[:, -1] = _DOMAINS
        return out

    def _ids(self, batch: Batch, name: str) -> NDArray[np.uint64]:
        if name in ("user", "item"):
            ids: NDArray[np.uint64] = getattr(batch, name)
            return ids
        return batch.features[:, self._schema.group(name).first_col].astype(np.uint64)

    def _events(self, batch: Batch, keys: NDArray[np.uint64]) -> Events:
        """Impressions and clicks of rows."""
        column = 2 * (batch.domain == AD).astype(np.int64)
        clicked = np.flatnonzero(batch.label > 0)
        return Events(
            np.concatenate([batch.ts, batch.ts[clicked] + self._visible_after_ms]),
            np.concatenate([keys, keys[clicked]]),
            np.concatenate([column, column[clicked] + 1]),
        )

    # -- learn

    def observe(self, batch: Batch) -> None:
        """Add the events of a step, after its rows were predicted and learned, or rolled back."""
        if not len(batch):
            return
        self.late_rows += int((batch.ts < self.floor).sum())
        events = self._events(batch, self._keys(batch))
        at_once = np.arange(len(events)) < (len(batch) if self._visible_after_ms else len(events))
        self._recent.add(events.take(at_once), events.take(~at_once))
        in_time = batch.ts[batch.ts >= self.floor]
        if len(in_time):
            first = int(in_time.min())
            self._advance(first if batch.domain[0] != AD else first - AD_DELAY_MS)

    def _advance(self, floor: int) -> None:
        floor = max(floor, self.floor)
        self._recent.advance(floor)
        floor = max(floor, self._recent.bound(MAX_RECENT) or _BEGINNING)
        self.floor = floor
        events = self._recent.take_before(floor)
        for i, table in enumerate(self.tables):
            table.add(events.keys[:, i], events.ts, events.column)
        if floor // DAY_MS > self._day:
            self._day = floor // DAY_MS
            for table in self.tables:
                table.evict_before(floor - self._expire_ms)

    # -- state

    def counters(self) -> dict[str, Any]:
        """Numbers of keys, evicted keys, late rows and recent events, for display and checkpoints."""
        return {
            "keys": [len(table) for table in self.tables],
            "evicted": [table.evicted for table in self.tables],
            "floor": self.floor,
            "day": self._day,
            "late_rows": self.late_rows,
        }

    def capture_into(self, capture: Capture) -> None:
        """Add the state to a checkpoint, with the keys that changed since the previous capture."""
        capture.dense.update({f"{_PREFIX}/{name}": v for name, v in self._recent.tensors().items()})
        for table in self.tables:
            capture.rows.update(table.capture())
        capture.meta[_PREFIX] = self.counters()

    def restore(self, loaded: Loaded) -> None:
        """Restore what :meth:`capture_into` saved."""
        self.reset()
        meta = loaded.meta[_PREFIX]
        begin = f"{_PREFIX}/"
        tensors = {name.removeprefix(begin): v for name, v in loaded.dense.items() if name.startswith(begin)}
        self._recent.load(tensors)
        for table, n, evicted in zip(self.tables, meta["keys"], meta["evicted"], strict=True):
            table.load(loaded.rows, int(n), int(evicted))
        self.floor, self._day = int(meta["floor"]), int(meta["day"])
        self.late_rows = int(meta["late_rows"])

    def digest(self, into: hashlib.blake2b) -> None:
        """Add every bit of the state to a hash."""
        into.update(repr(self.counters()).encode())
        for value in self._recent.tensors().values():
            into.update(np.ascontiguousarray(value).tobytes())
        for table in self.tables:
            table.digest(into)


def _check(part: str, kind: Kind, schema: FeatureSchema) -> None:
    names = [g.name for g in schema.categorical if not g.is_bag]
    if len(kind.parts) > 2 or part not in ("user", "item", *names):
        raise ConfigError(
            f'streaming_features: "{kind.name}" is not a key: name user, item or one of the categorical features '
            f"{', '.join(names)}, and in pairs two of them as in user*item"
        )
