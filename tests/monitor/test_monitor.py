"""The whole monitor: steps in, plain data out."""

import json
import threading

import numpy as np
import pytest

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS
from ecdctr.models.training import ReleaseReport
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.settings import DriftSettings, ProbeSettings, RuleSpec, WatchSettings
from ecdctr.monitor.steps import ObservedStep
from ecdctr.replay.metrics import gauc, pcoc
from ecdctr.replay.sources import Simulator

HOUR = 3_600_000
ARMS = {"natural": ("cpm",), "ad": ("actr", "ads_only")}


@pytest.fixture(scope="module")
def stream():
    """Six days of steps; predictions are the true probabilities, on the last two days a third of them."""
    sim = Simulator(0, days=6, live_from=0, users=800, items=300, natural_per_day=3000, ads_per_day=1500)
    decoder = EventDecoder(sim.feature_specs())
    steps = []
    for day in range(6):
        frame = sim.day(day)
        batch = decoder.from_frame(frame).batch
        p = frame["oracle"].to_numpy().astype(np.float32) / (3 if day >= 4 else 1)
        for part in np.array_split(np.arange(len(batch)), 16):
            for number, kind in enumerate(DOMAIN_NAMES):
                rows = part[batch.domain[part] == number]
                steps.append((kind, batch.take(rows), dict.fromkeys(ARMS[kind], p[rows])))
    return sim, FeatureSchema(sim.feature_specs(), 8), steps


def watched(stream, steps=None, **options):
    _, schema, all_steps = stream
    settings = WatchSettings(
        drift=DriftSettings(reference_length="2d", compare_rows=1),
        probes=ProbeSettings(period="1d", rows=512),
        **options,
    )
    monitor = Monitor(schema, settings)
    monitor.observe(
        [
            ObservedStep(
                kind,
                batch,
                np.arange(len(batch)),
                scores,
                dict.fromkeys(scores, 0.3),
                0.001,
                np.ones(len(batch), bool),
            )
            for kind, batch, scores in (all_steps if steps is None else steps)
        ]
    )
    return monitor


def test_the_snapshot_is_json_with_the_right_figures(stream):
    sim, _, steps = stream
    monitor = watched(stream)
    monitor.release(ReleaseReport(1, sim.start_ms + DAY_MS, sim.start_ms + DAY_MS, ("2026-01",)))
    monitor.month(("2026-01",), sim.start_ms)
    monitor.score_probes(lambda b, arm: np.full(len(b), 0.1, np.float32))
    now = json.loads(json.dumps(monitor.snapshot(), allow_nan=False))
    ads = [s for s in steps if s[0] == "ad"]
    assert now["rows"] == {"natural": 18_000, "ad": 9_000}
    assert now["clock"] == max(int(b.ts.max()) for _, b, _ in steps)

    begin = (now["clock"] // HOUR - 23) * HOUR
    columns = [(b.ts, b.label, s["actr"], b.user) for _, b, s in ads]
    ts, y, p, user = (np.concatenate(c) for c in zip(*columns, strict=True))
    last = ts >= begin
    day = now["windows"]["1d"]["ad"]
    assert day["rows"] == int(last.sum()) and day["tpm_share"] == 1.0
    assert day["arms"]["actr"]["pcoc"] == pytest.approx(pcoc(y[last], p[last]), rel=1e-4)
    inside = ts > now["clock"] - DAY_MS
    exact = gauc(y[inside], p[inside], user[inside]).value
    assert day["arms"]["actr"]["gauc"] == pytest.approx(exact, abs=1e-9)

    daily = now["series"]["1d"]
    assert len(daily["t"]) == 6 and daily["ad"]["rows"] == [1500] * 6
    full = daily["ad"]["arms"]["actr"]
    second = (ts >= sim.start_ms + DAY_MS) & (ts < sim.start_ms + 2 * DAY_MS)
    assert full["gauc"][1] == pytest.approx(gauc(y[second], p[second], user[second]).value, abs=1e-9)
    assert all(len(v) == 6 for v in full.values())
    assert {m["kind"] for m in now["marks"]} == {"release", "month", "reference"}
    assert now["drift"]["reference"]["ready"] and now["drift"]["table"] and now["drift"]["detectors"]
    assert now["forgetting"]["curves"] and now["transfer"]["rows"] == 9_000
    assert now["training"]["rows_per_s"] > 0


def test_a_wrong_prior_is_one_alert_that_resolves(stream):
    rule = RuleSpec(
        name="low", metric="pcoc", window="1d", domain="ad", arm="actr", below=0.6, clear="1h", min_rows=100
    )
    _, _, steps = stream
    monitor = watched(stream, steps=[], rules=(rule,))
    events = []
    for kind, batch, scores in steps:
        monitor.observe([ObservedStep(kind, batch, np.arange(len(batch)), scores, {}, 0.0)])
        events += monitor.take_events()
    assert [e.rule for e in events] == ["low"]
    assert monitor.alerts() == events
    assert "pcoc of actr on ads" in events[0].what and "clicked" in events[0].cause


def test_large_and_small_blocks_give_the_same_figures(stream):
    _, _, steps = stream
    one = watched(stream).snapshot()
    monitor = watched(stream, steps=[])
    for kind, batch, scores in steps:
        monitor.observe(
            [ObservedStep(kind, batch, np.arange(len(batch)), scores, {}, 0.0, np.ones(len(batch), bool))]
        )
    many = monitor.snapshot()
    assert_same_day(many, one)
    assert many["series"]["1h"]["ad"]["rows"] == one["series"]["1h"]["ad"]["rows"]


def assert_same_day(a, b):
    for domain in ("natural", "ad"):
        x, y = a["windows"]["1d"][domain], b["windows"]["1d"][domain]
        for key in ("rows", "clicks", "late"):
            assert x[key] == y[key]
        for arm in x["arms"]:
            assert x["arms"][arm] == pytest.approx(y["arms"][arm], rel=1e-6)


def test_late_rows_and_unknown_scores(stream):
    _, schema, steps = stream
    monitor = Monitor(schema)
    kind, batch, scores = steps[-1]
    _, older, _ = steps[1]
    monitor.observe(
        [
            ObservedStep(kind, batch, np.arange(len(batch)), scores),
            ObservedStep(kind, older, np.empty(0, np.intp), {}),
        ]
    )
    now = monitor.snapshot()
    assert now["rows"]["ad"] == len(batch) + len(older)
    assert sum(now["series"]["1h"]["ad"]["late"]) == len(older)


def test_readers_and_the_writer_do_not_interfere(stream):
    _, _, steps = stream
    monitor = watched(stream, steps=[])
    wrong = []

    def read():
        try:
            for _ in range(20):
                json.dumps(monitor.snapshot(), allow_nan=False)
        except Exception as error:
            wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for kind, batch, scores in steps:
        monitor.observe([ObservedStep(kind, batch, np.arange(len(batch)), scores, {}, 0.0)])
    reader.join()
    assert wrong == [] and monitor.snapshot()["rows"]["ad"] == 9_000
