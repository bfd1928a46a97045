"""Progress bars: rows, rows a second, current event time, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ecdctr.replay.play import ProgressCallback

__all__ = ["event_day", "progress_bar"]


def event_day(clock_ms: int) -> str:
    """Event time as a short UTC date and hour.

    >>> event_day(1_767_225_600_000)
    '2026-01-01 00h'
    """
    return datetime.fromtimestamp(clock_ms / 1000, UTC).strftime("%Y-%m-%d %Hh")


@contextmanager
def progress_bar(console: Console, what: str, total: int | None) -> Iterator[ProgressCallback]:
    """A progress bar, updated by calls with ``(rows done, event clock in ms)``; hidden if the output is not a terminal."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>9,.0f} rows/s  {task.fields[day]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=total, rate=0.0, day="")
        began = last = time.monotonic()

        def update(rows: int, clock: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < 0.1 and rows != total:
                return
            last = now
            bar.update(task, completed=rows, rate=rows / max(now - began, 1e-9), day=event_day(clock))

        yield update
