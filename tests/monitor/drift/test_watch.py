"""Drift: planted changes are found in the right place, no change is found without one; references can be saved and loaded."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS
from ecdctr.monitor.drift.daily import by_day, gather
from ecdctr.monitor.drift.reference import Reference
from ecdctr.monitor.drift.significance import adjust, compare
from ecdctr.monitor.drift.watch import DriftWatch
from ecdctr.monitor.settings import DriftSettings
from ecdctr.replay.sources import EbNerd, Simulator, SourceLog
from ecdctr.state.errors import ConfigError, DataError

DATA = Path(os.environ.get("ECDCTR_DATA", "/nonexistent")) / "ebnerd"
CHANGE = 6


class World:
    """A small simulator whose days can be changed; predictions are the true probabilities before the change."""

    def __init__(self, seed=0):
        self.sim = Simulator(
            seed, days=30, live_from=0, users=1500, items=400, natural_per_day=3000, ads_per_day=1500
        )
        specs = self.sim.feature_specs()
        self.decoder, self.schema = EventDecoder(specs), FeatureSchema(specs, 8)

    def table(self, change, days=10, **settings):
        watch = DriftWatch(
            self.schema, DriftSettings(reference_length="5d", every="6h", compare_rows=1, **settings)
        )
        moved = []
        for day in range(days):
            frame = self.sim.day(day)
            p = frame["oracle"].to_numpy().astype(np.float32)
            if day >= CHANGE:
                frame = change(frame)
            batch = self.decoder.from_frame(frame).batch
            for first in range(
                self.sim.start_ms + day * DAY_MS, self.sim.start_ms + (day + 1) * DAY_MS, 6 * 3_600_000
            ):
                inside = (batch.ts >= first) & (batch.ts < first + 6 * 3_600_000)
                for number, kind in enumerate(DOMAIN_NAMES):
                    rows = np.flatnonzero(inside & (batch.domain == number))
                    watch.add(kind, batch.take(rows), np.arange(len(rows)), p[rows])
                if watch.advance(first + 6 * 3_600_000):
                    moved += [(day, r.finding.what, r.finding.name, r.domain) for r in watch.table if r.moved]
        return watch, moved


def in_ads(frame, column, to):
    return frame.with_columns(pl.when(pl.col("domain") == 1).then(to).otherwise(pl.col(column)).alias(column))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_drift_is_reported_when_nothing_changes(seed):
    _, moved = World(seed).table(lambda f: f, days=16)
    assert moved == []


def test_a_shifted_number_is_named_in_its_domain_with_its_size():
    watch, moved = World().table(lambda f: in_ads(f, "x", pl.col("x") + 0.4))
    assert {m[1:] for m in moved} == {("feature", "x", "ad")}
    assert moved[0][0] in (CHANGE, CHANGE + 1)
    row = watch.table[0].to_json()
    assert row["name"] == "x" and row["moved"] and row["q_value"] < 0.01 and row["effect"] > 1
    begin = World().sim.start_ms + CHANGE * DAY_MS
    assert abs(row["since"] - begin) <= DAY_MS
    before, after = (float(v) for v in row["description"].removeprefix("median ").split(",")[0].split(" -> "))
    assert after - before == pytest.approx(0.4, abs=0.1)
    assert row["said"] == row["description"]  # the old name, for one version
    assert watch.to_json()["reference"]["ready"]


def test_a_change_in_both_streams_is_one_line():
    watch, moved = World().table(
        lambda f: f.with_columns(slot=pl.when(pl.col("ts") % 3 == 0).then(2).otherwise(pl.col("slot")))
    )
    assert ("feature", "slot", "both") in {m[1:] for m in moved}
    assert sum(r.moved and r.finding.name == "slot" for r in watch.table) == 1


def test_doubled_clicks_are_a_drift_of_the_label_alone():
    rng = np.random.default_rng(0)

    def twice(frame):
        y = rng.random(frame.height) < np.minimum(1, 2 * frame["oracle"].to_numpy())
        return in_ads(frame, "label", pl.Series(y.astype(np.uint8)))

    watch, moved = World().table(twice)
    assert {m[1:] for m in moved} == {("label", "label", "ad")}
    times = float(watch.table[0].to_json()["description"].split("(x ")[1].rstrip(")"))
    assert times == pytest.approx(2, abs=0.4)


def test_an_inverted_segment_is_named_before_the_click_rate_that_it_moves():
    def inverted(frame):
        here = pl.col("category") == 3
        return frame.with_columns(
            label=pl.when(here).then(1 - pl.col("label")).otherwise(pl.col("label")).cast(pl.UInt8)
        )

    watch, _ = World().table(inverted)
    first = watch.table[0].finding
    assert (first.what, first.name) == ("behaviour", "category") and watch.table[0].moved


def test_benjamini_hochberg_against_its_definition():
    p = np.random.default_rng(0).random(50) ** 3
    q = adjust(p)
    ordered = np.sort(p)
    for level in (0.01, 0.05, 0.2):
        fits = np.flatnonzero(ordered <= level * np.arange(1, 51) / 50)
        called = fits[-1] + 1 if len(fits) else 0
        assert (q <= level).sum() == called


def test_a_reference_is_loaded_as_it_was_saved(tmp_path):
    world = World()
    batches = [world.decoder.from_frame(world.sim.day(d)).batch for d in range(3)]
    settings = DriftSettings()
    made = gather(batches, world.schema, settings, "three days")
    made.save(tmp_path / "ref")
    read = Reference.load(tmp_path / "ref", world.schema)
    assert (read.name, read.from_ms, read.until_ms) == (made.name, made.from_ms, made.until_ms)
    for domain, sketch in made.sketches.items():
        again = compare(sketch, read.sketches[domain], domain)
        assert max(f.psi for f in again if f.what == "feature") == pytest.approx(0, abs=1e-9)
        assert read.sketches[domain].quantiles[0].get_quantile(0.5) == sketch.quantiles[0].get_quantile(0.5)
    days = list(by_day([batches[0]], world.schema, settings, read))
    assert len(days) == 1 and days[0].rows == {"natural": 3000, "ad": 1500}
    assert not any(r.moved for r in days[0].table)


def test_a_reference_of_other_features_or_a_damaged_one_is_refused(tmp_path):
    world = World()
    gather([world.decoder.from_frame(world.sim.day(0)).batch], world.schema, DriftSettings(), "a day").save(
        tmp_path
    )
    other = FeatureSchema(world.sim.feature_specs()[:3], 8)
    with pytest.raises(ConfigError, match="other features"):
        Reference.load(tmp_path, other)
    (tmp_path / "reference.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match="damaged"):
        Reference.load(tmp_path, world.schema)
    with pytest.raises(DataError, match="no drift reference"):
        Reference.load(tmp_path / "none", world.schema)


@pytest.mark.skipif(
    not DATA.is_dir(), reason="needs the real logs: set ECDCTR_DATA to the folder that holds ebnerd/"
)
def test_the_changes_of_ebnerd_are_found_on_the_right_days():
    source = EbNerd(DATA, "A")
    specs = source.feature_specs()
    schema, decoder = FeatureSchema(specs, 8), EventDecoder(specs)
    first = 1_684_540_800_000  # 2023-05-20: the two days before are the reference
    batches = list(SourceLog(source, decoder).batches())
    settings = DriftSettings()
    reference = gather([b.take(b.ts < first) for b in batches if (b.ts < first).any()], schema, settings, "A")
    usual = reference.sketches["ad"]
    assert usual.rows > 15_000
    base = 814 / 17_036  # clicks and rows of 18 and 19 May, counted in the files
    for day in by_day(batches, schema, settings, reference):
        ctr = day.clicks["ad"] / day.rows["ad"]
        label = next(r for r in day.table if r.finding.what == "label" and r.finding.domain == "ad")
        ratio = abs(np.log(ctr / base))
        if ratio > 0.45:  # 3.0 % and less: beyond doubt
            assert label.moved, (day, ctr)
        if ratio < 0.25:
            assert not label.moved, (day, ctr)
    assert base == pytest.approx(0.0478, abs=1e-4)
