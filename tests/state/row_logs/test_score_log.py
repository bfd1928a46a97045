"""The score log: columns in, columns out; optional columns; a reader that takes the arms from the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecdctr.events.time import DAY_MS
from ecdctr.state.errors import StateError
from ecdctr.state.row_logs import ScoreLog

ARMS = ("actr", "ads_only", "cpm")


@pytest.fixture(params=["files", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> ScoreLog:
    return ScoreLog(tmp_path / "scores" if request.param == "files" else None, ARMS)


def scored(n: int, day: int, domain: int) -> dict[str, np.ndarray]:
    i = np.arange(n)
    return {
        "ts": day * DAY_MS + i,
        "user": i.astype(np.uint64) + np.uint64(2**63),
        "item": i.astype(np.uint64),
        "domain": np.full(n, domain, np.uint8),
        "label": (i % 2).astype(np.float32),
    }


def test_columns_come_back(log: ScoreLog) -> None:
    p = np.linspace(0.1, 0.9, 5).astype(np.float32)
    oracle = np.linspace(0, 1, 5)
    log.append(
        scored(5, 1, 1)
        | {"p_actr": p, "p_ads_only": 1 - p, "oracle": oracle, "list_id": np.arange(5, dtype=np.uint64)}
    )
    log.append(scored(3, 1, 0) | {"p_cpm": p[:3], "list_id": None, "oracle": None})
    ad = log.read(domain=1)
    np.testing.assert_array_equal(ad["p_actr"], p)
    np.testing.assert_array_equal(ad["p_ads_only"], 1 - p)
    np.testing.assert_array_equal(ad["oracle"], oracle)
    assert ad["list_id"].tolist() == [0, 1, 2, 3, 4]
    assert ad["user"][0] == 2**63
    assert np.isnan(ad["p_cpm"]).all(), "an arm that did not score the rows has no prediction"
    natural = log.read(domain=0)
    assert np.isnan(natural["oracle"]).all()
    assert natural["list_id"].tolist() == [0, 0, 0]
    assert len(log.read()["ts"]) == len(log) == 8


def test_days_and_recovery(log: ScoreLog) -> None:
    for day in (1, 2, 3):
        log.append(scored(4, day, 1))
    sizes = log.sizes()
    log.append(scored(4, 3, 1))
    log.truncate(sizes)
    assert log.sizes() == {1: 4, 2: 4, 3: 4}
    assert len(log.read(first_day=2, last_day=2)["ts"]) == 4
    log.drop_before(3)
    assert log.sizes() == {3: 4}


def test_wrong_columns_are_named(log: ScoreLog) -> None:
    with pytest.raises(ValueError, match="p_mixed"):
        log.append(scored(1, 1, 1) | {"p_mixed": np.zeros(1)})
    without_user = scored(1, 1, 1)
    del without_user["user"]
    with pytest.raises(ValueError, match="'user' is missing"):
        log.append(without_user)


def test_a_reader_takes_the_arms_from_the_folder(tmp_path: Path) -> None:
    writer = ScoreLog(tmp_path, ARMS)
    reader = ScoreLog(tmp_path, read_only=True)
    assert reader.arms == ARMS
    writer.append(scored(2, 1, 1))
    writer.flush()
    assert len(reader) == 2
    with pytest.raises(StateError, match="no score log"):
        ScoreLog(tmp_path / "absent", read_only=True)
    writer.close()
