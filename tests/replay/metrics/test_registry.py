"""Every metric in the registry, and one that is added to it."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from ecdctr.events.time import DAY_MS
from ecdctr.replay.figures import evaluate
from ecdctr.replay.metrics import ROW_METRICS, summary
from ecdctr.replay.metrics.row_metric import RowMetric
from ecdctr.replay.report import write_report, write_tables

BRIER = RowMetric(
    "brier", "Brier", lambda y, p: (p - y) ** 2, lambda total, n, clicks: total / n if n else math.nan
)


def rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return rng.random(n) < p, p


@pytest.fixture(params=[*ROW_METRICS, BRIER], ids=lambda metric: metric.name)
def metric(request) -> RowMetric:
    return request.param


def test_names_and_titles_are_unique():
    for values in ([m.name for m in ROW_METRICS], [m.title for m in ROW_METRICS]):
        assert len(values) == len(set(values))


def test_sums_of_parts_give_the_metric_of_all_rows(metric):
    y, p = rows(1_000)
    total = sum(float(metric.rows(y[part], p[part]).sum()) for part in np.array_split(np.arange(1_000), 7))
    assert metric.value(total, len(y), int(y.sum())) == pytest.approx(metric(y, p), rel=1e-12)


def test_order_of_rows_does_not_matter(metric):
    y, p = rows(500)
    order = np.random.default_rng(1).permutation(500)
    assert metric(y[order], p[order]) == pytest.approx(metric(y, p), rel=1e-12)


def test_no_rows_give_nan_and_a_summary_holds_every_metric(metric):
    none = np.empty(0)
    assert math.isnan(metric(none, none))
    y, p = rows(200)
    got = summary(y, p, np.arange(200) % 9)
    assert {m.name: got[m.name] for m in ROW_METRICS} == {m.name: m(y, p) for m in ROW_METRICS}


def test_what_is_no_probability_is_refused(metric):
    with pytest.raises(ValueError, match=r"prediction 1\.5 in row 1 is no probability"):
        metric([1, 0], [0.5, 1.5])


def test_a_metric_that_is_added_is_in_every_report(tmp_path):
    ROW_METRICS.append(BRIER)
    try:
        n = 2_000
        y, p = rows(n, seed=2)
        columns = {
            "ts": np.sort(np.random.default_rng(3).integers(10 * DAY_MS, 12 * DAY_MS, n)),
            "domain": np.ones(n, np.uint8),
            "user": np.arange(n, dtype=np.uint64) % 50 << np.uint64(58),
            "label": y.astype(np.uint8),
            "list_id": np.zeros(n, np.uint64),
            "oracle": np.full(n, np.nan),
            "p_actr": p,
            "p_ads_only": np.full(n, 0.5),
        }
        result = evaluate(columns, ("actr", "ads_only"), samples=100, day_samples=100)
        assert result["totals"]["ad"]["actr"]["brier"] == pytest.approx(brier_score_loss(y, p))
        page = write_report(tmp_path, "t", result).read_text(encoding="utf-8")
        write_tables(tmp_path, result, csv=True)
    finally:
        ROW_METRICS.remove(BRIER)
    assert ">Brier<" in page
    for name in ("days", "slices"):
        with (tmp_path / f"{name}.csv").open(encoding="utf-8") as file:
            assert "brier" in next(csv.reader(file))
