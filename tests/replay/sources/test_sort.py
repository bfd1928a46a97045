"""Sorting with bounded memory: against one big stable sort, with and without runs on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecdctr.replay.sources import sort as module
from ecdctr.replay.sources.sort import by_time


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    return pl.DataFrame({"ts": rng.integers(0, 300, 5_000)}).with_columns(
        place=pl.int_range(5_000), text=pl.int_range(5_000).cast(pl.String)
    )


@pytest.mark.parametrize("run_rows", [10_000, 5_000, 700, 100])
def test_as_one_stable_sort(frame, run_rows):
    chunks = list(frame.iter_slices(64))
    out = pl.concat(by_time(chunks, run_rows))
    assert out.equals(frame.sort("ts", maintain_order=True))


def test_runs_are_read_in_small_pieces_and_removed(frame, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "GROUP_ROWS", 16)
    monkeypatch.setattr(module, "BUFFER_ROWS", 64)
    rows = by_time(frame.iter_slices(64), 500)
    next(rows)
    assert len(list(Path(tmp_path).rglob("run-*.parquet"))) == 10
    rows.close()
    assert list(Path(tmp_path).iterdir()) == []
    assert pl.concat(by_time(frame.iter_slices(64), 500)).equals(frame.sort("ts", maintain_order=True))


def test_rows_without_a_time_come_first_and_nothing_is_nothing():
    rows = pl.DataFrame({"ts": [5, None, 3, None]}).with_columns(place=pl.int_range(4))
    for run_rows in (10, 4, 2):
        out = pl.concat(by_time([rows[:2], rows[2:]], run_rows))
        assert sorted(out["place"].to_list()) == [0, 1, 2, 3]
        assert out["ts"].drop_nulls().to_list() == [3, 5]
    assert list(by_time([])) == []
