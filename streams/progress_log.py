"""Writes the progress of a worker to its log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from ecdctr.models.training import Engine

__all__ = ["log_progress", "rows_by_kind"]

log = logging.getLogger("ecdctr.worker")

EVERY_S = 10.0
"""Seconds between two lines."""


async def log_progress(
    engine: Engine, lag: Callable[[], int | None], dead_letters: Callable[[], int]
) -> None:
    """Write a line every :data:`EVERY_S` seconds in which rows were learned; never returns.

    Parameters
    ----------
    engine
        Of the running worker.
    lag
        Returns the number of records that have not been learned; None if it is not known.
    dead_letters
        Returns the number of events sent to dead-letter topics.
    """
    logged = sum(engine.progress.rows.values())
    while True:
        await asyncio.sleep(EVERY_S)
        rows = sum(engine.progress.rows.values())
        if rows == logged:
            continue
        log.info(
            "step %d: %s rows (%s/s), event time %s, %s, %s dead letters",
            engine.step, f"{rows:,}", f"{(rows - logged) / EVERY_S:,.0f}",
            datetime.fromtimestamp(engine.clock / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            _behind(lag()), f"{dead_letters():,}",
        )  # fmt: skip
        logged = rows


def _behind(lag: int | None) -> str:
    return "records behind: not known" if lag is None else f"{lag:,} records behind"


def rows_by_kind(engine: Engine) -> str:
    """Rows learned so far, for a message: ``3,000 natural rows, 1,000 ad rows``."""
    return ", ".join(f"{n:,} {kind} rows" for kind, n in engine.progress.rows.items())
