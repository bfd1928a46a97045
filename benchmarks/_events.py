"""The clicks of ``_clicks.py`` as event frames, for the processes in which this package is installed."""

from __future__ import annotations

import numpy as np
import polars as pl

from benchmarks._clicks import START_MS, names


def frame(x: np.ndarray, y: np.ndarray) -> pl.DataFrame:
    """One event per row, a millisecond apart."""
    columns = {name: x[:, f] for f, name in enumerate(names())}
    ts = START_MS + np.arange(len(x), dtype=np.int64)
    return pl.DataFrame(
        {"event_id": np.arange(len(x)), "ts": ts, **columns, "label": y.astype(np.int64)}
    ).with_columns(domain=pl.lit("natural"))
