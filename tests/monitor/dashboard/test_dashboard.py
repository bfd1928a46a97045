"""The document that the page receives for given reports of a worker."""

import json

import numpy as np
import pytest

from ecdctr.monitor.dashboard.dashboard import Dashboard


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def dashboard(fake_monitor, clock):
    dashboard = Dashboard(fake_monitor, now=lambda: clock[0], wall=lambda: 1e9 + clock[0], refresh_s=2.0)
    yield dashboard
    dashboard.close()


def test_recent_values_have_rates_lag_dead_letters_and_ages(dashboard, clock):
    for rows in (0, 400, 100):
        if rows:
            dashboard.stepped("natural", np.full(rows, (1e9 + clock[0] - 5) * 1000), rows=rows)
        dashboard.tick(event_clock_ms=5, lag={"ad-clicks": rows}, dead_letters={"json": rows // 100})
        clock[0] += 2
    live = dashboard.document()["live"]
    assert live["t"] == [1e9 + 100, 1e9 + 102, 1e9 + 104]
    assert live["rows/natural"][1:] == [200.0, 50.0]
    assert live["rows/ad"] == [0, 0, 0]
    assert live["lag/ad-clicks"] == [0, 400, 100]
    assert live["dead/json"] == [0, 4, 1]
    assert live["fresh/natural p99"][0] is None
    assert live["fresh/natural p99"][1:] == pytest.approx([5, 5], rel=0.03)
    assert dashboard.metrics.dead_letters.labels("json")._value.get() == 4  # a counter never falls


def test_dropped_samples_lose_no_rows(dashboard, clock):
    dashboard.tick(event_clock_ms=5, lag={})
    for _ in range(4):
        clock[0] += 0.5
        dashboard.stepped("ad", np.zeros(10), rows=10)
        dashboard.tick(event_clock_ms=5, lag={})
    assert dashboard.document()["live"]["rows/ad"] == [0, 20.0]


def test_alerts_are_delivered_once_and_resolved_ones_are_retained(fake_monitor, clock):
    sent: list[dict] = []
    channels = {"list": lambda key, value: sent.append(json.loads(value))}
    dashboard = Dashboard(fake_monitor, channels=channels, refresh_s=0.0)
    alert = fake_monitor.alert()
    for _ in range(3):
        dashboard.deliver()
    fake_monitor.resolve(alert)
    dashboard.deliver()
    dashboard.close()
    assert [(a["key"], a["status"]) for a in sent] == [(alert.key, "raised"), (alert.key, "resolved")]
    alerts = dashboard.document()["alerts"]
    assert alerts["raised"] == [] and alerts["resolved"] == sent[1:]
    assert dashboard.metrics.alert_deliveries.labels("list", "sent")._value.get() == 2


def test_the_past_of_the_transfer_figure_is_retained(dashboard, fake_monitor, clock):
    for hours, value in ((30, 0.05), (30, 0.05), (31, 0.05), (32, 0.04)):
        fake_monitor.hours, fake_monitor.gain = (
            hours,
            {"value": value, "low": value - 0.01, "high": value + 0.01},
        )
        clock[0] += 5
        dashboard.deliver()
    past = dashboard.document()["transfer"]["past"]
    assert past["value"] == [0.05, 0.04]
    assert np.diff(past["t"]).tolist() == [2 * 3_600_000]
    assert past["low"] == pytest.approx([0.04, 0.03])


def test_rows_of_a_rolled_back_step_do_not_count_as_learned(dashboard):
    dashboard.stepped("ad", np.zeros(7), rows=0)
    assert dashboard.document()["worker"]["rows"] == {"natural": 0, "ad": 0}
    assert dashboard.metrics.skipped._value.get() == 7
