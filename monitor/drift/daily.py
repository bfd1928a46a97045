"""Drift on old logs: a reference from one log, and the comparison of each day of another log with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS
from ecdctr.monitor.drift.reference import Reference
from ecdctr.monitor.drift.watch import DriftTableRow, DriftWatch
from ecdctr.monitor.settings import DriftSettings
from ecdctr.state.errors import DataError

__all__ = ["Day", "by_day", "gather"]


@dataclass(frozen=True, slots=True)
class Day:
    """The comparison of a UTC day with the reference.

    Attributes
    ----------
    start_ms
        Midnight at its start, ms.
    rows, clicks
        Numbers of rows and of clicks by domain.
    table
        As :attr:`ecdctr.monitor.drift.watch.DriftWatch.table`, largest effect first.
    """

    start_ms: int
    rows: dict[str, int]
    clicks: dict[str, int]
    table: list[DriftTableRow]


def gather(batches: Iterable[Batch], schema: FeatureSchema, settings: DriftSettings, name: str) -> Reference:
    """Make a reference from all rows of a log.

    Raises
    ------
    DataError
        There are no rows.
    """
    watch = DriftWatch(schema, settings.model_copy(update={"reference": "", "reference_length": "36500d"}))
    last = 0
    for batch in batches:
        for kind, part in _by_domain(batch):
            watch.add(kind, part)
        last = max(last, int(batch.ts.max()))
        watch.advance(last)
    if watch.reference is None:
        raise DataError(f"{name} has no rows for a drift reference")
    watch.reference.name, watch.reference.until_ms = name, last + 1
    return watch.reference


def by_day(
    batches: Iterable[Batch], schema: FeatureSchema, settings: DriftSettings, reference: Reference
) -> Iterator[Day]:
    """Compare each UTC day of a log (in event order) with the reference; yields when the day has ended."""
    daily = settings.model_copy(update={"every": "1d", "compare_rows": 1, "reference": ""})
    watch = DriftWatch(schema, daily, reference)
    now = -1
    rows, clicks = dict.fromkeys(DOMAIN_NAMES, 0), dict.fromkeys(DOMAIN_NAMES, 0)

    def close() -> Day:
        watch.advance((now + 1) * DAY_MS)
        table = watch.table if watch.evaluated_at == (now + 1) * DAY_MS else []
        return Day(now * DAY_MS, dict(rows), dict(clicks), table)

    for batch in batches:
        days = batch.ts // DAY_MS
        for day in np.unique(days).tolist():
            if day > now:
                if now >= 0:
                    yield close()
                now = day
                watch.advance(now * DAY_MS)
                rows, clicks = dict.fromkeys(DOMAIN_NAMES, 0), dict.fromkeys(DOMAIN_NAMES, 0)
            for kind, part in _by_domain(batch.take(days == day)):
                watch.add(kind, part)
                rows[kind] += len(part)
                clicks[kind] += int(part.label.sum())
    if now >= 0:
        yield close()


def _by_domain(batch: Batch) -> Iterator[tuple[str, Batch]]:
    for number, kind in enumerate(DOMAIN_NAMES):
        rows = batch.domain == number
        if rows.any():
            yield kind, batch.take(rows)
