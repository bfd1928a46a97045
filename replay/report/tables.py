"""The figures of a replay as tables: one row a day and arm, one row a slice value and arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ecdctr.replay.figures import ReplayResult
from ecdctr.state.errors import DataError

__all__ = ["day_table", "slice_table", "write_tables"]

_FORMULA = r"^[=+\-@\t\r]"


def day_table(result: ReplayResult) -> pl.DataFrame:
    """``day, domain, arm``, the figures of the arm, and ``difference, low, high`` to the base of its domain, a row a day and arm."""
    rows = []
    for domain, days in result["days"].items():
        for day in days:
            for arm, figures in day["arms"].items():
                gain = day["differences"].get(arm)
                compared = {
                    "difference": gain and gain["value"],
                    "low": gain and gain["low"],
                    "high": gain and gain["high"],
                }
                rows.append({"day": day["day"], "domain": domain, "arm": arm, **figures, **compared})
    return _table(rows, ("day", "domain", "arm"))


def slice_table(result: ReplayResult) -> pl.DataFrame:
    """``slice, value, domain, arm``, the figures of the arm on those rows, and ``difference, low, high`` to the base."""
    return _table(result["slices"], ("slice", "value", "domain", "arm"))


def write_tables(folder: Path, result: ReplayResult, *, csv: bool = False) -> list[Path]:
    """``days`` and ``slices`` as Parquet, and as CSV if ``csv``; returns the files written.

    In CSV files, a text that begins with ``=``, ``+``, ``-`` or ``@`` has an apostrophe before it.
    """
    written = []
    for name, table in (("days", day_table(result)), ("slices", slice_table(result))):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written.append(folder / f"{name}.parquet")
            table.write_parquet(written[-1])
            if csv:
                written.append(folder / f"{name}.csv")
                _as_text(table).write_csv(written[-1])
        except OSError as error:
            raise DataError(f"{written[-1]} cannot be written: {error}") from error
    return written


def _as_text(table: pl.DataFrame) -> pl.DataFrame:
    """The table with an apostrophe before texts that a spreadsheet would run as a formula: names come from the data."""
    texts = pl.selectors.string()
    return table.with_columns(
        pl.when(texts.str.contains(_FORMULA)).then(pl.lit("'") + texts).otherwise(texts).name.keep()
    )


def _table(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> pl.DataFrame:
    if not rows:
        return pl.DataFrame(schema=dict.fromkeys(keys, pl.String))
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.with_columns(pl.selectors.float().fill_nan(None))
