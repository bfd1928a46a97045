"""One clock that is wrong does not move the time of a log; gaps and disorder are no faults."""

from __future__ import annotations

import numpy as np
import pytest

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS, HOUR_MS
from ecdctr.replay.sources import EventFiles, SourceLog
from ecdctr.replay.sources.files.ahead import ahead_of_neighbours
from tests.support.logged_events import T0, event_rows, write_csv, write_json

YEAR_2099 = 4_070_908_800_000
TIMES = T0 + np.arange(2000) * 129_600


def found(ts):
    return np.flatnonzero(ahead_of_neighbours(ts, ts[:0], DAY_MS)).tolist()


@pytest.mark.parametrize(
    "rows",
    [[0], [1], [600], [1990], [1999], [0, 1, 2], [1997, 1998, 1999], [*range(100, 110)], [0, 999, 1999]],
)
@pytest.mark.parametrize("late", [YEAR_2099, T0 + 30 * DAY_MS])
def test_rows_far_ahead_are_found_wherever_they_are(rows, late):
    ts = TIMES.copy()
    ts[rows] = late
    assert found(ts) == rows


def test_gaps_disorder_and_sparse_logs_are_no_faults():
    rng = np.random.default_rng(1)
    for ts in (
        TIMES,
        np.concatenate([TIMES, TIMES[:50] + 400 * DAY_MS]),  # a year without rows
        np.concatenate([TIMES, TIMES[:3] + 3 * DAY_MS + 2 * DAY_MS]),  # a few rows after a weekend
        T0 + np.arange(200) * 9 * DAY_MS,  # a row in nine days
        T0 + np.cumsum(rng.exponential(2 * DAY_MS, 1000)).astype(np.int64),
        TIMES + rng.integers(0, 20 * HOUR_MS, 2000),
        np.concatenate([np.sort(rng.integers(0, 7 * DAY_MS, 10)) for _ in range(300)]),  # by user
        rng.permutation(TIMES * 5),
        TIMES[::-1],
        TIMES[:1],
        np.array([T0, T0 + 50 * DAY_MS]),
    ):
        assert found(np.asarray(ts)) == []


@pytest.mark.parametrize("chunk", [64, 65_536])
@pytest.mark.parametrize("row", [0, 600, 1999])
def test_case_f6_a_row_of_2099_is_rejected_and_the_last_day_is_that_of_the_others(
    tmp_path, monkeypatch, chunk, row
):
    monkeypatch.setattr("ecdctr.replay.sources.files.formats.CHUNK_ROWS", chunk)
    rows = [r | {"ts": YEAR_2099} if i == row else r for i, r in enumerate(event_rows(2000))]
    decoder = EventDecoder([FeatureSpec(name="user", field="user_id")], max_ahead_ms=DAY_MS)
    for path in (write_json(tmp_path / "e.jsonl", rows), write_csv(tmp_path / "e.csv", rows)):
        log = SourceLog(EventFiles(path), decoder)
        batch = Batch.concat([*log.batches()])
        assert (len(batch), dict(log.rejects), log.stragglers) == (1999, {"ts": 1}, 0)
        assert f"{row + 1}" in log.rejects.causes()[0]["where"]
        assert "more than events.max_ahead after the rows beside it" in log.rejects.causes()[0]["detail"]
        assert log.newest() == max(r["ts"] for r in rows if r["ts"] != YEAR_2099)
