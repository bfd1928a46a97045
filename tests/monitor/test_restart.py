"""A monitor continues after its worker was killed: alerts, windows, series, reference, probe slices."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS
from ecdctr.models.training import ReleaseReport
from ecdctr.monitor.folder import MonitorFolder
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.settings import DriftSettings, ProbeSettings, RuleSpec, WatchSettings
from ecdctr.monitor.steps import ObservedStep
from ecdctr.replay.sources import Simulator
from ecdctr.state.files import read_json, read_json_of_any_version
from ecdctr.state.row_logs import ScoreLog

ARMS = {"natural": ("cpm",), "ad": ("actr", "ads_only")}
PCOC = RuleSpec(name="pcoc", metric="pcoc", window="1d", domain="ad", arm="actr", below=0.7, min_rows=500)
RULES = (
    PCOC,
    RuleSpec(name="feature-drift", metric="drift.feature", clear="1h"),
    RuleSpec(name="release-refused", metric="release", clear="0s"),
)


@pytest.fixture(scope="module")
def stream():
    """Four days of steps; predictions are the true probabilities, from the third day on half of them. All rows are scored."""
    sim = Simulator(0, days=5, live_from=0, users=400, items=200, natural_per_day=2000, ads_per_day=1500)
    decoder = EventDecoder(sim.feature_specs())
    days = []
    for day in range(5):
        frame = sim.day(day)
        batch = decoder.from_frame(frame).batch
        p = frame["oracle"].to_numpy().astype(np.float32) / (2 if day >= 2 else 1)
        steps = []
        for part in np.array_split(np.arange(len(batch)), 12):
            for number, kind in enumerate(DOMAIN_NAMES):
                rows = part[batch.domain[part] == number]
                steps.append((kind, batch.take(rows), dict.fromkeys(ARMS[kind], p[rows])))
        days.append(steps)
    return sim, FeatureSchema(sim.feature_specs(), 8), days


def started(stream, folder, scores=None, clock=0, rules=RULES):
    settings = WatchSettings(
        drift=DriftSettings(reference_length="1d", compare_rows=1),
        probes=ProbeSettings(period="1d", rows=512),
        rules=rules,
    )
    monitor = Monitor(stream[1], settings)
    monitor.restore(folder, scores, clock)
    return monitor


def feed(monitor, steps, scores=None):
    for kind, batch, p in steps:
        if scores is not None:
            columns = {name: getattr(batch, name) for name in ("ts", "user", "item", "domain")}
            columns |= {"label": batch.label.astype(np.uint8), **{f"p_{arm}": v for arm, v in p.items()}}
            scores.append(columns)
        some = np.ones(len(batch), bool)
        monitor.observe([ObservedStep(kind, batch, np.arange(len(batch)), p, {}, 0.001, some)])


def predict(batch, arm):
    return np.full(len(batch), 0.1, np.float32) + batch.label / 10


def test_an_alert_is_neither_lost_nor_raised_again(stream, tmp_path):
    _, _, days = stream
    first = started(stream, tmp_path)
    for steps in days[:4]:
        feed(first, steps)
    (raised,) = [a for a in first.take_events() if a.rule == "pcoc"]
    first.delivered()
    # Nothing is closed: the files are those that kill -9 would have left.
    again = started(stream, tmp_path)
    assert raised in again.alerts()
    feed(again, days[4])
    assert [a for a in again.take_events() if a.rule == "pcoc"] == []
    assert [a for a in again.alerts() if a.rule == "pcoc"] == [raised]


def test_an_undelivered_event_is_returned_again(stream, tmp_path):
    first = started(stream, tmp_path)
    for steps in stream[2][:4]:
        feed(first, steps)
    taken = first.take_events()
    assert taken
    again = started(stream, tmp_path)
    assert again.take_events() == taken
    again.delivered()
    assert started(stream, tmp_path).take_events() == []


def test_an_alert_of_a_removed_rule_is_resolved(stream, tmp_path):
    first = started(stream, tmp_path)
    for steps in stream[2][:4]:
        feed(first, steps)
    first.take_events()
    first.delivered()
    again = started(stream, tmp_path, rules=RULES[1:])
    (resolved,) = [a for a in again.take_events() if a.rule == "pcoc"]
    assert resolved.resolved_ms == first.clock
    assert "pcoc" not in {a.rule for a in again.alerts()}


def test_alerts_stay_while_they_cannot_be_evaluated(stream, tmp_path):
    """A refused release and a drifted feature: after a restart the table is empty and no release is known."""
    sim, _, days = stream
    first = started(stream, tmp_path)
    for steps in days[:3]:
        feed(first, steps)
    shifted = [(k, replace(b, dense=b.dense + np.float32(3)), p) for k, b, p in days[3]]
    first.release(
        ReleaseReport(2, sim.start_ms + 3 * DAY_MS, sim.start_ms, (), accepted=False, reason="worse")
    )
    feed(first, shifted)
    rules = {a.rule for a in first.alerts()}
    assert {"feature-drift", "release-refused"} <= rules
    again = started(stream, tmp_path)
    feed(again, days[4][:10])  # well over an hour, less than a day
    assert {"feature-drift", "release-refused"} <= {a.rule for a in again.alerts()}
    again.release(ReleaseReport(3, sim.start_ms + 4 * DAY_MS, sim.start_ms, (), accepted=True, reason="fine"))
    feed(again, days[4][10:])
    assert "release-refused" not in {a.rule for a in again.alerts()}


@pytest.mark.parametrize("saved_after", [3, None])
def test_windows_series_and_transfer_are_restored(stream, tmp_path, saved_after):
    """From the score log and the state saved last, here a day ago or never."""
    days = stream[2]
    scores = ScoreLog(tmp_path / "scores", ("actr", "ads_only", "cpm"))
    first = started(stream, tmp_path / "monitor")
    for number, steps in enumerate(days[:4]):
        if number == saved_after:
            first.save()
        feed(first, steps, scores)
    again = started(stream, tmp_path / "monitor", scores, first.clock)
    feed(again, days[4][:2])
    feed(first, days[4][:2])
    before, now = first.snapshot(), again.snapshot()
    for window in ("5m", "1h", "1d"):
        for domain in ("natural", "ad"):
            mine, theirs = now["windows"][window][domain], before["windows"][window][domain]
            assert (mine["rows"], mine["clicks"]) == (theirs["rows"], theirs["clicks"])
            assert mine["arms"].keys() == theirs["arms"].keys()
            for arm, figures in theirs["arms"].items():
                assert mine["arms"][arm] == pytest.approx(figures)
    assert now["transfer"]["rows"] == before["transfer"]["rows"]
    assert now["transfer"]["gauc"] == pytest.approx(before["transfer"]["gauc"])
    ads = now["series"]["1h"]["ad"]
    assert ads["rows"] == before["series"]["1h"]["ad"]["rows"]
    assert ads["ctr"] == pytest.approx(before["series"]["1h"]["ad"]["ctr"])
    if saved_after:
        assert now["windows"]["1d"]["natural"]["unseen_users"] < 0.1


def test_the_reference_and_probe_slices_continue(stream, tmp_path):
    _, _, days = stream
    first = started(stream, tmp_path)
    feed(first, days[0][:12])
    first.save()  # in the middle of the first day
    second = started(stream, tmp_path)
    feed(second, days[0][12:])
    feed(second, days[1])
    second.score_probes(predict)
    second.save()
    third = started(stream, tmp_path)
    feed(third, days[2])
    third.score_probes(predict)

    whole = started(stream, tmp_path / "whole")
    for steps in days[:2]:
        feed(whole, steps)
    whole.score_probes(predict)
    feed(whole, days[2])
    whole.score_probes(predict)
    now, expected = third.snapshot(), whole.snapshot()
    mine, theirs = now["drift"]["reference"], expected["drift"]["reference"]
    assert mine.pop("rows") == pytest.approx(
        theirs.pop("rows"), abs=8
    )  # natural rows: each fourth of a block
    assert mine == theirs and mine["ready"]
    assert now["forgetting"]["periods"] == expected["forgetting"]["periods"]
    assert now["forgetting"]["curves"] == expected["forgetting"]["curves"]
    assert now["forgetting"]["staleness"] == expected["forgetting"]["staleness"]
    assert json.dumps(now, allow_nan=False)


@pytest.mark.parametrize(
    "name", ["alerts.json", "figures.npz", "reference/reference.npz", "probes/curves.npz"]
)
def test_a_damaged_file_is_named_and_its_content_reset(stream, tmp_path, name, caplog):
    first = started(stream, tmp_path)
    for steps in stream[2][:3]:
        feed(first, steps)
    first.score_probes(predict)
    first.save()
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = started(stream, tmp_path)
    assert name.rpartition("/")[2].partition(".")[0] in caplog.text or "reference" in caplog.text
    feed(again, stream[2][3])
    again.save()
    assert again.snapshot()["windows"]["1d"]["ad"]["rows"] > 0


def test_names_in_files_are_those_that_earlier_versions_wrote(stream, tmp_path):
    """State folders of earlier versions must load, whatever the classes are called now."""
    monitor = started(stream, tmp_path)
    for steps in stream[2][:3]:
        feed(monitor, steps)
    monitor.score_probes(predict)
    monitor.save()
    with np.load(tmp_path / "figures.npz") as figures:
        names = set(figures.files)
    assert {
        "newest.ad",
        "newest.natural",
        "seen.users.words",
        "seen.users.count",
        "seen.items.words",
    } <= names
    assert {"window.1d.ad.slot", "window.1d.ad.counts", "series.1h.natural.ranks"} <= names
    about = read_json(tmp_path / "reference" / "reference.json")
    assert about.keys() == {"version", "name", "fingerprint", "from_ms", "until_ms", "domains"}
    domain = {"rows", "first_ms", "last_ms", "cells", "groups", "centre", "edges"}
    assert about["domains"]["ad"].keys() == domain
    with np.load(tmp_path / "reference" / "reference.npz") as arrays:
        assert {"ad.counts", "ad.behaviour", "ad.hours", "ad.kll0"} <= set(arrays.files)
    alerts = read_json(tmp_path / "alerts.json")
    assert alerts.pop("format") == 1
    assert alerts.keys() == {"clock", "states", "events", "marks", "detectors", "reference_ready"}
    with np.load(tmp_path / "probes" / "curves.npz") as curves:
        columns = {name.rpartition("/")[2] for name in curves.files}
    assert columns == {"users", "last", "clock", "gauc", "log_loss", "transfer"}


@pytest.mark.parametrize("name", ["alerts.json", "reference/reference.json"])
def test_a_flipped_bit_is_found_and_files_of_an_earlier_version_load(stream, tmp_path, name):
    """That version wrote JSON without a checksum."""
    first = started(stream, tmp_path)
    for steps in stream[2][:3]:
        feed(first, steps)
    first.save()
    path = tmp_path / name
    whole = path.read_bytes()
    at = whole.rindex(b"natural") + 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    folder = MonitorFolder(tmp_path)

    def read():
        return folder.alerts() if name == "alerts.json" else folder.reference(stream[1])

    assert not read()
    path.write_bytes(whole)
    content = read_json_of_any_version(path)
    content.pop("format", None)
    path.write_text(json.dumps(content))
    assert read()
