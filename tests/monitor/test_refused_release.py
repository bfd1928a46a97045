"""A release that the gate refused becomes an alert, and the next accepted one resolves it."""

from __future__ import annotations

import numpy as np

from ecdctr.events.batch import AD, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import default_features
from ecdctr.models.training import ReleaseReport
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.steps import ObservedStep

HOUR = 3_600_000
FIGURES = {"gauc_serving": -0.031, "gauc_serving_low": -0.045, "gauc_serving_high": -0.012}


def step(monitor: Monitor, hour: int) -> None:
    n = 10
    ids = np.arange(n, dtype=np.uint64)
    features, dense = np.ones((n, 3), np.int32), np.empty((n, 0), np.float32)
    ts = np.full(n, hour * HOUR, np.int64)
    batch = Batch(ts, np.full(n, AD, np.uint8), ids, ids, features, dense, (ids % 2).astype(np.float32))
    p = np.full(n, 0.5, np.float32)
    monitor.observe([ObservedStep("ad", batch, np.arange(n), {"actr": p, "ads_only": p}, {}, 0.01)])


def report(number: int, hour: int, *, accepted: bool) -> ReleaseReport:
    reason = "fine" if accepted else "worse than the current A-CTR on GAUC"
    figures = {} if accepted else FIGURES
    return ReleaseReport(
        number, hour * HOUR, hour * HOUR, (), accepted=accepted, reason=reason, figures=figures
    )


def test_raised_once_with_its_figures_and_resolved_by_the_next_accepted_one() -> None:
    monitor = Monitor(FeatureSchema(default_features(), 4))
    step(monitor, 1)
    monitor.release(report(1, 1, accepted=True))
    step(monitor, 2)
    assert not monitor.take_events()
    monitor.release(report(2, 2, accepted=False))
    for hour in (3, 4):
        step(monitor, hour)
    (raised,) = monitor.take_events()
    assert (raised.rule, raised.since_ms, raised.resolved_ms) == ("release-refused", 2 * HOUR, None)
    assert "CPM release 2 was refused by the gate: worse than the current A-CTR on GAUC" in raised.what
    assert "gauc_serving -0.031, gauc_serving_low -0.045, gauc_serving_high -0.012" in raised.what
    assert [a.rule for a in monitor.alerts()] == ["release-refused"]
    assert monitor.snapshot()["marks"][-1]["text"] == "CPM release 2, refused by the gate"
    monitor.release(report(2, 5, accepted=False))  # refused again: no second alert
    step(monitor, 6)
    assert not monitor.take_events()
    monitor.release(report(2, 7, accepted=True))
    step(monitor, 8)
    (resolved,) = monitor.take_events()
    assert (resolved.key, resolved.resolved_ms) == (raised.key, 8 * HOUR)
    assert not monitor.alerts()
