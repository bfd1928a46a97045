"""Writes the progress of a worker to its log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ecdctr.models.training import Engine
from ecdctr.streams.aligned_intake import AlignedIntake

__all__ = ["log_progress", "rows_by_kind"]

log = logging.getLogger("ecdctr.worker")

EVERY_S = 10.0
"""Seconds between two lines."""


async def log_progress(
    engine: Engine, intake: AlignedIntake, topics: Iterable[str], dead_letters: Callable[[], int]
) -> None:
    """Write a line every :data:`EVERY_S` seconds in which rows were learned; never returns.

    Parameters
    ----------
    engine, intake
        Of the running worker.
    topics
        The click topics.
    dead_letters
        Returns the number of events sent to dead-letter topics.
    """
    topics = list(topics)
    logged = sum(engine.progress.rows.values())
    while True:
        await asyncio.sleep(EVERY_S)
        rows = sum(engine.progress.rows.values())
        if rows == logged:
            continue
        log.info(
            "step %d: %s rows (%s/s), event time %s, %s records behind, %s dead letters",
            engine.step, f"{rows:,}", f"{(rows - logged) / EVERY_S:,.0f}",
            datetime.fromtimestamp(engine.clock / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            f"{sum(intake.lag(t, engine.positions) for t in topics):,}", f"{dead_letters():,}",
        )  # fmt: skip
        logged = rows


def rows_by_kind(engine: Engine) -> str:
    """Rows learned so far, for a message: ``3,000 natural rows, 1,000 ad rows``."""
    return ", ".join(f"{n:,} {kind} rows" for kind, n in engine.progress.rows.items())
