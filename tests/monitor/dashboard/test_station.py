"""What the worker says, as the page gets it."""

import json

import numpy as np
import pytest

from ecdctr.monitor.dashboard.station import Station


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def station(watcher, clock):
    station = Station(watcher, now=lambda: clock[0], wall=lambda: 1e9 + clock[0], refresh_s=2.0)
    yield station
    station.close()


def test_the_recent_past_has_rates_lag_letters_and_ages(station, clock):
    for rows in (0, 400, 100):
        if rows:
            station.stepped("natural", np.full(rows, (1e9 + clock[0] - 5) * 1000), rows=rows)
        station.tick(event_clock_ms=5, lag={"ad-clicks": rows}, dead_letters={"json": rows // 100})
        clock[0] += 2
    live = station.document()["live"]
    assert live["t"] == [1e9 + 100, 1e9 + 102, 1e9 + 104]
    assert live["rows/natural"][1:] == [200.0, 50.0]
    assert live["rows/ad"] == [0, 0, 0]
    assert live["lag/ad-clicks"] == [0, 400, 100]
    assert live["dead/json"] == [0, 4, 1]
    assert live["fresh/natural p99"][0] is None
    assert live["fresh/natural p99"][1:] == pytest.approx([5, 5], rel=0.03)
    assert station.metrics.dead_letters.labels("json")._value.get() == 4  # a counter never falls


def test_samples_that_come_too_soon_lose_no_rows(station, clock):
    station.tick(event_clock_ms=5, lag={})
    for _ in range(4):
        clock[0] += 0.5
        station.stepped("ad", np.zeros(10), rows=10)
        station.tick(event_clock_ms=5, lag={})
    assert station.document()["live"]["rows/ad"] == [0, 20.0]


def test_alerts_are_handed_on_once_and_the_resolved_ones_kept(watcher, clock):
    sent: list[dict] = []
    channels = {"list": lambda key, value: sent.append(json.loads(value))}
    station = Station(watcher, channels=channels, refresh_s=0.0)
    alert = watcher.alert()
    for _ in range(3):
        station.deliver()
    watcher.resolve(alert)
    station.deliver()
    station.close()
    assert [(a["key"], a["status"]) for a in sent] == [(alert.key, "raised"), (alert.key, "resolved")]
    alerts = station.document()["alerts"]
    assert alerts["raised"] == [] and alerts["resolved"] == sent[1:]
    assert station.metrics.alert_deliveries.labels("list", "sent")._value.get() == 2


def test_the_past_of_the_transfer_figure_is_kept(station, watcher, clock):
    for hours, value in ((30, 0.05), (30, 0.05), (31, 0.05), (32, 0.04)):
        watcher.hours, watcher.gain = hours, {"value": value, "low": value - 0.01, "high": value + 0.01}
        clock[0] += 5
        station.deliver()
    past = station.document()["transfer"]["past"]
    assert past["value"] == [0.05, 0.04]
    assert np.diff(past["t"]).tolist() == [2 * 3_600_000]
    assert past["low"] == pytest.approx([0.04, 0.03])


def test_rows_of_a_step_that_was_taken_back_are_not_learned(station):
    station.stepped("ad", np.zeros(7), rows=0)
    assert station.document()["worker"]["rows"] == {"natural": 0, "ad": 0}
    assert station.metrics.skipped._value.get() == 7
