"""Rows in any order, sorted by time with bounded memory: sorted runs on disk, then merged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import polars as pl

from ecdctr.replay.sources.merge import EventOrder, Stream

__all__ = ["by_time", "runs"]

RUN_ROWS = 2_000_000
GROUP_ROWS = 8_192
BUFFER_ROWS = 1 << 19
_NEVER_LATE = 0


def by_time(chunks: Iterable[pl.DataFrame], run_rows: int = RUN_ROWS) -> Iterator[pl.DataFrame]:
    """Yield all rows by ``ts``; rows with equal ``ts`` keep their input order.

    Up to ``run_rows`` rows are sorted in memory. More rows are written as sorted runs to a temporary folder (in
    ``$TMPDIR``), which is removed after the last row or when the reader stops.

    Parameters
    ----------
    chunks
        Frames with the same columns; rows without a ``ts`` come first.
    run_rows
        Rows sorted in memory at a time.

    Examples
    --------
    >>> frames = [pl.DataFrame({"ts": [3, 1]}), pl.DataFrame({"ts": [2, 1]})]
    >>> pl.concat(by_time(frames, run_rows=2))["ts"].to_list()
    [1, 1, 2, 3]
    """
    with tempfile.TemporaryDirectory(prefix="ecdctr-sort-") as folder:
        yield from EventOrder(_NEVER_LATE).merge(runs(chunks, Path(folder), run_rows))


def runs(chunks: Iterable[pl.DataFrame], folder: Path, run_rows: int = RUN_ROWS) -> list[Stream]:
    """Sorted runs of the rows, as streams for :class:`EventOrder`; a single run stays in memory, several are written to ``folder``."""
    files: list[tuple[Path, int, int]] = []
    pending: list[pl.DataFrame] = []
    rows = 0
    for chunk in chunks:
        pending.append(chunk)
        rows += chunk.height
        if rows >= run_rows:
            files.append(_write(_sorted(pending), folder / f"run-{len(files):05d}.parquet"))
            pending, rows = [], 0
    if not files:
        rest = _sorted(pending)
        return [Stream(_first(rest), lambda: rest.iter_slices(EventOrder(0).frame_rows))]
    if rows:
        files.append(_write(_sorted(pending), folder / f"run-{len(files):05d}.parquet"))
    step = max(1, BUFFER_ROWS // len(files) // GROUP_ROWS) * GROUP_ROWS
    return [Stream(first, partial(_read, path, rows, step)) for path, first, rows in files]


def _sorted(chunks: list[pl.DataFrame]) -> pl.DataFrame:
    rows = pl.concat(chunks) if chunks else pl.DataFrame(schema={"ts": pl.Int64})
    return rows.sort("ts", maintain_order=True, nulls_last=False)


def _write(rows: pl.DataFrame, path: Path) -> tuple[Path, int, int]:
    rows.write_parquet(path, compression="lz4", row_group_size=GROUP_ROWS, statistics=False)
    return path, _first(rows), rows.height


def _first(rows: pl.DataFrame) -> int:
    first = rows["ts"].min()
    return -(2**62) if first is None or rows["ts"].has_nulls() else int(first)  # type: ignore[arg-type]


def _read(path: Path, rows: int, step: int) -> Iterator[pl.DataFrame]:
    frame = pl.scan_parquet(path)
    for first in range(0, rows, step):
        yield frame.slice(first, step).collect()
