"""A study finds the runs that an older version cached: a file's name depends on the run's ``repr`` alone.

Names hold a hash of ``repr(run)``, so they change with the name of the class, the names and order of its fields, and every
setting; they do not change with the module that defines the class.
"""

from __future__ import annotations

import numpy as np
import pytest

from ecdctr.studies import evidence_runs, forgetting_study

RUNS = {
    "simulator-6222f4be5599bc27.npz": evidence_runs.studies([101], None, short=True)[0],
    "ebnerd_b-03d5a7d75750230a.npz": evidence_runs.Run(
        "ebnerd_b",
        "ebnerd:/data?mapping=B",
        ("model.seed=1", "tpm.month=7d"),
        5.0,
        (("a", ("model.arms=[]",)),),
    ),
}
WORLD = {
    "days": 44,
    "live_from": 30,
    "users": 500,
    "items": 150,
    "history_per_day": 3_000,
    "natural_per_day": 6_000,
    "ads_per_day": 400,
    "month_days": 10,
}
STUDIES = {
    "forgetting-d16359c4e5461ed7.npz": forgetting_study.StudyRun(
        101, (*forgetting_study.SETTINGS, *forgetting_study.SHORT), tuple(WORLD.items()), skip_days=4
    ),
    "forgetting-dca3c3eef539bdad.npz": forgetting_study.StudyRun(
        7, ("tpm.month=10d",), (("days", 44), ("users", 500)), skip_days=4, period_days=5
    ),
}
"""The first one is what ``ecdctr evidence forgetting --short`` runs."""


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_the_evidence_is_cached_under_the_recorded_name(name, tmp_path, monkeypatch):
    def play(run):
        return evidence_runs.Scored(run, {"ts": np.arange(3)}, rows=3, seconds=1.0)

    monkeypatch.setattr(evidence_runs, "play_run", play)
    evidence_runs.run_all([RUNS[name]], jobs=1, on_done=lambda scored: None, keep=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", STUDIES)
def test_a_run_of_the_forgetting_study_is_cached_under_the_recorded_name(name, tmp_path, monkeypatch):
    def play(run):
        return forgetting_study.Study(run, {}, {}, rows=0, seconds=0.0)

    monkeypatch.setattr(forgetting_study, "play_study", play)
    forgetting_study.run_studies([STUDIES[name]], jobs=1, on_done=lambda study: None, keep=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
