"""``join_rows``: impressions and clicks of a log become labelled rows, by the rule of ``events.join``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.join import (
    CLICK_FATES,
    IMPRESSION_FATES,
    REMARKS,
    Joined,
    Joiner,
    JoinEvents,
    JoinSettings,
    suggest_windows,
)
from ecdctr.replay.sources.decoded_rows import DecodedRows
from ecdctr.replay.sources.rejects import Rejects
from ecdctr.state.errors import ConfigError

__all__ = ["check_policy", "join_rows", "with_key"]

_KEY, _EVENT = "join:key", "join:event"
_EVENTS: dict[str | None, int] = {"impression": 0, "click": 1, None: 2}
_CLICK, _LABELLED = 1, 2
_LOG = ("log", 0)
_ROW_BITS = 32


def check_policy(settings: JoinSettings) -> None:
    """Raise a ConfigError if the rows would need sample weights."""
    if settings.late_clicks != "drop":
        raise ConfigError(
            f'join.late_clicks = "{settings.late_clicks}" needs sample weights, which training does not apply yet: use "drop"'
        )


def with_key(batch: Batch, keys: NDArray[np.uint64] | None, event: str | None) -> Batch:
    """The rows, with what :func:`join_rows` needs as notes.

    ``event``: "impression", "click", or None for rows that have a label, and no key.
    """
    n = len(batch)
    notes: dict[str, NDArray[Any]] = dict(batch.notes or {})
    notes[_KEY] = np.zeros(n, np.uint64) if keys is None else keys
    notes[_EVENT] = np.full(n, _EVENTS[event], np.uint8)
    return batch.with_notes(notes)


def join_rows(batches: Iterator[Batch], settings: JoinSettings, rejects: Rejects) -> Iterator[Batch]:
    """Join the rows of a log.

    Parameters
    ----------
    batches
        Rows in event order, with the notes of :func:`with_key`.
    settings
        Windows and allowances.
    rejects
        Receives a remark with what happened to impressions and clicks.

    Yields
    ------
    Batch
        The impressions, and the rows that have a label, by ``ts``, at equal times in the order of the log.
    """
    joiner = Joiner(settings, [_LOG])
    waiting, labelled = DecodedRows(), _Labelled()
    offset = 0
    for batch in batches:
        notes = dict(batch.notes or {})
        key, event = notes.pop(_KEY), notes.pop(_EVENT)
        shown = event != _CLICK
        number = np.full(len(batch), -1, np.int64)
        if shown.any():
            place = waiting.put(batch.with_notes(notes or None).take(shown))
            number[shown] = (place["chunk"].to_numpy() << _ROW_BITS) | place["row"].to_numpy()
        known = event == _LABELLED
        labelled.add(batch.ts[known], number[known], batch.label[known])
        joiner.add(*_LOG, _events(batch, key, event, number, offset).take(~known))
        offset += len(batch)
        labelled.add_joined(joiner.take(), waiting)
        yield from labelled.until(joiner.labelled_until, waiting)
    labelled.add_joined(joiner.finish(), waiting)
    yield from labelled.until(None, waiting)
    for remark in _remarks(joiner, settings):
        rejects.remark(remark)


def _events(
    batch: Batch, key: NDArray[Any], event: NDArray[Any], number: NDArray[np.int64], offset: int
) -> JoinEvents:
    n = len(batch)
    anonymous = np.zeros(n, np.bool_)  # the decoder rejects rows without user
    offsets = np.arange(offset, offset + n)
    return JoinEvents(key, batch.ts, event == _CLICK, number, batch.domain, anonymous, offsets)


class _Labelled:
    """Labels of impressions until all with an earlier time are known, too."""

    def __init__(self) -> None:
        self.ts, self.row = np.empty(0, np.int64), np.empty(0, np.int64)
        self.label = np.empty(0, np.float32)

    def add(self, ts: NDArray[np.int64], row: NDArray[np.int64], label: NDArray[Any]) -> None:
        """Take over labels of rows, by their numbers."""
        self.ts = np.concatenate([self.ts, ts])
        self.row = np.concatenate([self.row, row])
        self.label = np.concatenate([self.label, label.astype(np.float32)])

    def add_joined(self, joined: Joined, waiting: DecodedRows) -> None:
        """Take over labels of the join; drop the impressions that get none."""
        rows = joined.rows
        self.add(rows.ts, rows.row, rows.label)
        dropped = np.setdiff1d(joined.released, rows.row)
        if len(dropped):
            _take(waiting, dropped)

    def until(self, ts: int | None, waiting: DecodedRows) -> Iterator[Batch]:
        """The rows with an earlier time; all if ``ts`` is None."""
        ready = np.ones(len(self.ts), np.bool_) if ts is None else self.ts < ts
        if ready.any():
            order = np.flatnonzero(ready)
            order = order[np.lexsort((self.row[order], self.ts[order]))]
            batch = replace(_take(waiting, self.row[order]), label=self.label[order])
            self.ts, self.row, self.label = self.ts[~ready], self.row[~ready], self.label[~ready]
            yield batch


def _take(waiting: DecodedRows, numbers: NDArray[np.int64]) -> Batch:
    return waiting.take(
        pl.DataFrame({"chunk": numbers >> _ROW_BITS, "row": numbers & ((1 << _ROW_BITS) - 1)})
    )


def _remarks(joiner: Joiner, settings: JoinSettings) -> Iterator[str]:
    for fates in (IMPRESSION_FATES, CLICK_FATES, REMARKS):
        counted = [f"{joiner.fates[name]:,} {name}" for name in fates if joiner.fates.get(name)]
        if counted:
            yield f"join: {', '.join(counted)} (docs/join.md)"
    for domain, delays in enumerate(joiner.delays):
        if delays.total:
            share = delays.share_within(settings.windows_ms[domain])
            best = suggest_windows(delays)[1]
            further = "" if best is None else f"; {best.text} catches {best.share:.1%}"
            name = DOMAIN_NAMES[domain]
            yield f"join: {name}_window = {getattr(settings, f'{name}_window')} catches {share:.1%} of the {name} clicks with a known delay{further}"
