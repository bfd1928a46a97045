"""The forgetting study: absence against an independent count, held-out rows, intervals, the page."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from ecdctr import factory
from ecdctr.events.batch import AD
from ecdctr.events.time import DAY_MS
from ecdctr.replay.metrics import gauc_contrast, gauc_difference
from ecdctr.replay.sources import Simulator
from ecdctr.studies.forgetting_figures import CLAIMS, PAIRS, forgetting_figures
from ecdctr.studies.forgetting_page import verdict, write_forgetting
from ecdctr.studies.forgetting_study import ARMS, SETTINGS, Study, StudyRun, play_study, run_studies

WORLD = {
    "days": 18,
    "live_from": 12,
    "users": 80,
    "items": 30,
    "history_per_day": 150,
    "natural_per_day": 400,
    "ads_per_day": 100,
    "month_days": 6,
}
SMALL = (
    *SETTINGS,
    "model.dim=4",
    "model.hidden=[8]",
    "tpm.dim=4",
    "tpm.month=6d",
    "schedule.release_every=2d",
)
RUN = StudyRun(5, SMALL, tuple(WORLD.items()), skip_days=2, period_days=3)


@pytest.fixture(scope="module")
def study() -> Study:
    return play_study(RUN)


def test_absence_counts_days_without_rows_in_either_stream(study):
    sim = Simulator(5, **WORLD)
    rows = pl.concat([*sim.history(), *sim.frames()]).with_columns(
        day=(pl.col("ts") - sim.start_ms) // DAY_MS
    )
    judged = rows.filter((pl.col("domain") == AD) & (pl.col("day") >= 14))
    assert len(study.ads["label"]) == judged.height == 4 * 100
    np.testing.assert_array_equal(study.ads["label"], judged["label"])
    for who in ("user", "item"):
        days: dict[int, set[int]] = {}
        for key, day in rows.select(f"{who}_id", "day").iter_rows():
            days.setdefault(key, set()).add(day)
        expected = []
        for key, day in judged.select(f"{who}_id", "day").iter_rows():
            before = [d for d in days[key] if d < day]
            expected.append(day - max(before) if before else -1)
        np.testing.assert_array_equal(study.ads[f"{who}_away"], expected)
        if who == "user":
            day = judged["day"].to_numpy()
            away = np.array(expected)
            np.testing.assert_array_equal(study.ads["before_live"], (away > 0) & (day - away < 12))
    assert (study.ads["user_away"] > 1).any()


def test_held_out_rows_are_asked_at_the_end_of_their_period_and_of_each_later_one(study):
    assert set(study.probes) == {
        *(f"natural month {m}" for m in range(3)),
        *(f"{domain} live {k}" for domain in ("natural", "ad") for k in range(2)),
    }
    played = Simulator(5, **WORLD)
    other = Simulator(5, **WORLD | {"draw": 1, "natural_per_day": 2_000, "history_per_day": 1_000})
    decoder = factory.decoder(
        factory.use_features(factory.Settings(), played.feature_specs(), configured=False)
    )
    expected = decoder.from_frame(pl.concat([other.day(d) for d in (12, 13, 14)])).batch
    for domain, name in enumerate(("natural", "ad")):
        columns = study.probes[f"{name} live 0"]
        np.testing.assert_array_equal(columns["user"], expected.user[expected.domain == domain])
        for arm in ARMS:
            then, now = columns[f"p_{arm}_0"], columns[f"p_{arm}_1"]
            assert ((then > 0) & (then < 1)).all() and (then != now).any()
    months = study.probes["natural month 0"]
    assert {c for c in months if c.startswith("p_")} == {
        f"p_{a}_{k}" for a in ("all", "all_tpm") for k in range(3)
    }
    # The tiny model is read where it is said to be, and older clicks reach only the CPM that sees everything.
    ads = study.ads
    assert (ads["p_month"] != ads["p_month_tpm"]).any() and (ads["p_month"] != ads["p_all"]).any()


def test_a_run_that_is_kept_is_the_same_and_not_run_again(study, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr("ecdctr.studies.forgetting_study.play_study", lambda run: runs.append(run) or study)
    for _ in range(2):
        (got,) = run_studies([RUN], jobs=1, on_done=lambda study: None, keep=tmp_path)
    assert len(runs) == 1 and got.rows == study.rows
    for name, values in study.ads.items():
        np.testing.assert_array_equal(got.ads[name], values)
    for key, columns in study.probes.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(got.probes[key][name], values)


def test_a_contrast_is_the_difference_of_differences():
    rng = np.random.default_rng(1)
    n = 3_000
    y, user = rng.random(n) < 0.3, rng.integers(0, 60, n)
    a, b, c, d = (rng.random(n) + 0.2 * k * y for k in range(4))
    whole = gauc_contrast(y, [(1, d), (-1, c), (-1, b), (1, a)], user, samples=300)
    parts = gauc_difference(y, d, c, user).value - gauc_difference(y, b, a, user).value
    assert whole.value == pytest.approx(parts, abs=1e-12)
    assert whole.low < whole.value < whole.high


def test_figures_and_page(study, tmp_path):
    found = forgetting_figures([study, study], samples=50)
    (everyone,) = (part for part in found["slices"] if part["who"] == "all")
    ads = study.ads
    once = gauc_difference(ads["label"], ads["p_all"], ads["p_month"], ads["user"].astype(np.int64)).value
    assert everyone["pairs"]["CPM of everything, no TPM"]["gauc"]["value"] == pytest.approx(once)
    assert everyone["rows"] == 2 * len(ads["label"])
    transfer = found["transfer"]["ad live"]
    first = transfer["periods"][0]
    for arm in ARMS:
        gained = first["curves"][arm][-1] - first["curves"][arm][0]
        assert first["transfer"][arm]["value"] == pytest.approx(gained, abs=1e-12)
        assert transfer["together"]["transfer"][arm]["value"] == pytest.approx(gained, abs=1e-12)
    write_forgetting(tmp_path / "docs" / "forgetting.md", found, [RUN], "the command")
    text = (tmp_path / "docs" / "forgetting.md").read_text()
    assert "the command" in text and CLAIMS[0] in text and all(name in text for name in PAIRS)
    assert (tmp_path / "docs" / "forgetting.png").stat().st_size > 10_000


def test_a_verdict_needs_an_interval_that_leaves_0_out():
    assert verdict({"value": -0.1, "low": -0.2, "high": -0.01}) == "denied"
    assert verdict({"value": 0.1, "low": 0.0, "high": 0.2}) == "unproven"
    assert verdict(None) == "no rows"


def test_what_is_told_of_a_run(tmp_path, study, monkeypatch):
    from ecdctr.studies.forgetting_page import run_forgetting

    monkeypatch.setattr("ecdctr.studies.forgetting_study.play_study", lambda run: study)
    out = Console(file=io.StringIO(), width=100)
    page = Path(tmp_path / "forgetting.md")
    found = run_forgetting(out, page, short=True, seeds="7,8")
    assert found["rows"] == 2 * len(study.ads["label"])
    assert "rows in" in out.file.getvalue() and "--short --seeds 7,8" in page.read_text()
