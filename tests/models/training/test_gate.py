"""The gate of a release: the rows that it gets, and that a refusal leaves A-CTR unchanged."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.step import Step
from ecdctr.models.arms import select_arms
from ecdctr.models.settings import ScheduleSettings, TpmSettings
from ecdctr.models.training.engine import Engine
from ecdctr.models.training.gate import GateRows, Verdict
from ecdctr.models.training.trainer import Trainer
from ecdctr.replay.metrics import PairedGate
from ecdctr.state.checkpoints import CheckpointStore, merge_rows
from ecdctr.state.journals import Journal
from ecdctr.state.row_logs import AdWindow, ScoreLog
from ecdctr.state.settings import StateSettings
from tests.models.training.test_engine import HOUR, MODEL, SPECS, plan, rows_of
from tests.support.worlds import DAY_MS, START_MS

REFUSED = Verdict(False, "because", {"gauc_serving": -0.1})


class ScriptedGate:
    """A gate that returns the given answers in turn and records the rows that it gets."""

    def __init__(self, *answers: bool) -> None:
        self.answers, self.rows = list(answers), list[GateRows]()

    def __call__(self, rows: GateRows) -> Verdict:
        self.rows.append(rows)
        return Verdict(True, "fine") if self.answers.pop(0) else REFUSED


def steps(world: Any, n: int = 30, *, flip: bool = False, since: int = 0) -> list[Batch]:
    """Natural and ad rows in turn, a day of event time in ten steps; ``flip``: natural labels are inverted."""
    out = []
    for i in range(since, since + n):
        batch = world.batch(64, AD if i % 2 else NATURAL, at=START_MS + i * DAY_MS // 10, seed=i)
        out.append(replace(batch, label=1 - batch.label) if flip and not i % 2 else batch)
    return out


def run(trainer: Trainer, batches: list[Batch]) -> None:
    for batch in batches:
        assert trainer.step(Step.from_batch(batch)).skipped is None


def made(world: Any, gate: Any, **more: Any) -> Trainer:
    store = world.store()
    trainer = world.trainer(store=store, gate=gate, **more)
    trainer.clock = START_MS
    trainer.use_months(("m0", "m1"))
    return trainer  # type: ignore[no-any-return]


def everything(trainer: Trainer) -> dict[str, bytes]:
    """Every number of every arm, counters and row accumulators included."""
    out = {}
    for name, arm in trainer.arms.items():
        out |= {k: v.tobytes() for k, v in arm.dense_state().items()}
        for i, table in enumerate(arm.tables):
            out[f"{name}/{i}"] = table.weight.numpy().tobytes() + table.accumulator.numpy().tobytes()
    return out


def ads(world: Any) -> Batch:
    return world.batch(400, AD, at=START_MS + 40 * DAY_MS, seed=999)  # type: ignore[no-any-return]


@pytest.mark.parametrize("fine_tune", [True, False])
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_refused_release_leaves_no_trace(world: Any, first: bool, fine_tune: bool, reset: bool) -> None:
    schedule = {"fine_tune": fine_tune, "reset_batch_norm": reset}
    gate = ScriptedGate(*([False] if first else [True, False]))
    trainer, other = (made(world, g, schedule=schedule) for g in (gate, ScriptedGate(True)))
    for t in (trainer, other):
        run(t, steps(world))
        if not first:
            t.release(t.clock)
            run(t, steps(world, 11, since=30))
        t.use_months(("m0", "m1", "m2"))
    before = everything(trainer)
    assert before == everything(other)
    report = trainer.release(trainer.clock)
    assert (report.accepted, report.reason, report.figures) == (False, "because", REFUSED.figures)
    assert everything(trainer) == before
    assert trainer.versions == other.versions
    assert trainer.predict(ads(world), "actr").tobytes() == other.predict(ads(world), "actr").tobytes()
    # Later steps are the same, too, once both schedules agree.
    other.schedule.done(report.boundary_ms, accepted=False)
    for t in (trainer, other):
        run(t, steps(world, 10, since=45))
    assert everything(trainer) == everything(other)
    assert trainer.state_hash() == other.state_hash()


def test_the_release_after_a_refusal_equals_one_without_the_refused_attempt(world: Any) -> None:
    trainer, other = made(world, ScriptedGate(True, False, True)), made(world, ScriptedGate(True, True))
    for t in (trainer, other):
        run(t, steps(world))
        t.release(t.clock)
        run(t, steps(world, 10, since=30))
    trainer.release(trainer.clock)
    for t in (trainer, other):
        run(t, steps(world, 10, since=40))
    first, second = trainer.release(trainer.clock), other.release(other.clock)
    assert first.rows_copied == second.rows_copied
    assert first.number == second.number == 2
    assert everything(trainer) == everything(other)


def test_a_capture_after_a_refusal_holds_the_restored_rows(world: Any) -> None:
    trainer = made(world, ScriptedGate(True, False, False))
    run(trainer, steps(world))
    trainer.release(trainer.clock)
    first = trainer.capture()
    run(trainer, steps(world, 10, since=30))
    trainer.release(trainer.clock)
    second = trainer.capture()
    again = made(world, ScriptedGate(False))
    for columns in trainer.ad_window.chunks(10_000):
        again.ad_window.append(columns)
    rows = merge_rows([first.rows, second.rows])
    again.restore(type("Loaded", (), {"dense": second.dense, "rows": rows, "meta": second.meta}))
    assert everything(again) == everything(trainer)
    assert again.state_hash() == trainer.state_hash()
    for t in (trainer, again):
        run(t, steps(world, 6, since=40))
    assert trainer.release(trainer.clock).rows_copied == again.release(again.clock).rows_copied
    assert everything(again) == everything(trainer)


def test_the_gate_gets_predictions_that_each_model_made_before_learning_the_row(world: Any) -> None:
    gate = ScriptedGate(True, True)
    trainer = made(world, gate, schedule={"gate_days": 2}, ad_batch=32)
    scored: list[tuple[Batch, dict[str, Any]]] = []
    for i, batch in enumerate(steps(world, 50)):
        result = trainer.step(Step.from_batch(batch))
        if result.kind == "ad":
            scored.append((batch, result.scores))
        if i == 20:
            trainer.release(trainer.clock)
    newest = max(int(b.ts.max()) for b, _ in scored) // DAY_MS
    of_last_days = [(b, s) for b, s in scored if int(b.ts.min()) // DAY_MS > newest - 2]
    assert {int(b.ts[0]) // DAY_MS for b, _ in of_last_days} == {newest - 1, newest}
    # The candidate's predictions: a second trainer performs the steps of the release one by one.
    twin = made(world, None, ad_batch=32)
    for i, batch in enumerate(steps(world, 50)):
        twin.step(Step.from_batch(batch))
        if i == 20:
            twin.release(twin.clock)
    trainer.release(trainer.clock)
    rows = gate.rows[-1]
    np.testing.assert_array_equal(rows.user, np.concatenate([b.user for b, _ in of_last_days]))
    np.testing.assert_array_equal(rows.label, np.concatenate([b.label for b, _ in of_last_days]))
    np.testing.assert_array_equal(rows.serving, np.concatenate([s["actr"] for _, s in of_last_days]))
    np.testing.assert_array_equal(rows.control, np.concatenate([s["ads_only"] for _, s in of_last_days]))
    twin.transfer.load()
    twin.months.set_actr(twin.cpm_months, twin.clock)
    twin.transfer.estimate_batch_norm()
    twin.transfer.calibrate()
    predicted = []
    actr = twin.arms["actr"]
    for _, prepared in twin.transfer._read(32):
        predicted.append(torch.sigmoid(actr.logits(prepared)).numpy())
        actr.learn_chunks([prepared])
    np.testing.assert_array_equal(rows.candidate, np.concatenate(predicted)[-len(rows) :])


def test_without_fine_tuning_the_candidate_predicts_without_learning(world: Any) -> None:
    gate = ScriptedGate(True)
    trainer = made(world, gate, schedule={"fine_tune": False, "gate_days": 1})
    run(trainer, steps(world))
    trainer.release(trainer.clock)
    newest = [b for b in steps(world) if b.domain[0] == AD]
    newest = [b for b in newest if b.ts[0] // DAY_MS == newest[-1].ts[0] // DAY_MS]
    p = np.concatenate([trainer.predict(b, "actr") for b in newest])
    np.testing.assert_allclose(gate.rows[0].candidate, p, rtol=1e-6)


def test_rows_without_predictions_are_ignored(world: Any) -> None:
    gate = ScriptedGate(True)
    trainer = made(world, gate)
    run(trainer, steps(world, 10))
    batch = ads(world)
    names = ("ts", "user", "item", "features", "dense", "label")
    trainer.ad_window.append({name: getattr(batch, name) for name in names} | {"ts": batch.ts * 0 + START_MS})
    trainer.release(trainer.clock)
    assert len(gate.rows[0]) == 5 * 64


@pytest.mark.slow
def test_a_release_from_inverted_natural_clicks_is_refused_and_a_good_one_is_not(world: Any) -> None:
    for flip in (False, True):
        trainer = made(world, PairedGate(min_rows=200))
        run(trainer, steps(world, 60))
        assert trainer.release(trainer.clock).accepted
        run(trainer, steps(world, 300, flip=flip, since=60))
        report = trainer.release(trainer.clock)
        assert report.accepted != flip, report
        if flip:
            assert trainer.releases == 1
            assert report.figures["gauc_serving_high"] < 0
            assert "REFUSED" in str(report)
            assert "gauc_control_low" in str(report)


def test_a_single_release_is_repeated_until_one_is_accepted(world: Any) -> None:
    trainer = made(
        world,
        ScriptedGate(False, True),
        schedule={"releases": "once", "first_release_after": "1d", "release_every": "1d"},
    )
    done = []
    for batch in steps(world, 60):
        trainer.step(Step.from_batch(batch))
        if trainer.release_due(trainer.clock) is not None:
            done.append((int(batch.ts[0] - START_MS) // DAY_MS, trainer.release(trainer.clock).accepted))
    assert done == [(1, False), (2, True)]


# -- in the engine


def engine(folder: Path, flips: Any) -> Engine:
    schema = FeatureSchema(SPECS, MODEL.dim)
    window = AdWindow(folder / "ad-window", schema.n_features, schema.n_dense, 5)
    schedule = ScheduleSettings(release_every="12h", first_release_after="12h", ad_window_days=5)
    return Engine(
        Trainer(schema, MODEL, schedule, TpmSettings(), None, window, gate=flips),
        journal=Journal(folder / "journal"),
        checkpoints=CheckpointStore(folder / "checkpoints", keep=3),
        scores=ScoreLog(folder / "scores", select_arms(MODEL).scored),
        ad_window=window,
        settings=StateSettings(folder=folder, checkpoint_every_steps=7, checkpoint_every_s=1e9),
        fingerprint="test",
    )


def every_other(rows: GateRows) -> Verdict:
    """Decides from the rows alone, as every gate has to; refuses about half of the releases."""
    return REFUSED if int(np.float64(rows.candidate.sum()) * 1e4) % 2 else Verdict(True, "fine")


@pytest.mark.slow
def test_a_refusal_is_the_same_after_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    todo = plan(90)
    straight = engine(tmp_path / "straight", every_other)
    with caplog.at_level(logging.WARNING, "ecdctr.engine"):
        for step in todo:
            straight.run(Step(*step))
    refused = [r for r in straight.releases if not r.accepted]
    assert 0 < len(refused) < len(straight.releases)
    assert [r.clock_ms for r in refused] == straight.progress.refused
    assert straight.progress.releases + len(refused) == len(straight.releases)
    assert straight.trainer.releases == straight.progress.releases
    messages = [r.getMessage() for r in caplog.records if "REFUSED" in r.getMessage()]
    assert len(messages) == len(refused)
    assert "because (gauc_serving -0.1)" in messages[0]

    # Killed right after each release, and at some other steps.
    stops = sorted({r.clock_ms // HOUR + 1 for r in straight.releases} | {5, 44, 70})
    for stop in [*stops, len(todo)]:
        again = engine(tmp_path / "killed", every_other)
        for entry in again.recover():
            again.redo(entry, rows_of(todo, entry))
        for kind, batch, clock in todo[:stop]:
            part = batch.parts[0]
            if part.first >= again.positions.get((part.topic, 0), 0):
                again.run(Step(kind, batch, clock))
        again._finish_save()
        again.journal.close()
    assert again.trainer.state_hash() == straight.trainer.state_hash()
    assert again.progress.refused == straight.progress.refused
    assert again.first_difference is None

    # The journal alone gives the same state.
    redone = engine(tmp_path / "redone", every_other)
    for entry in Journal(tmp_path / "straight" / "journal", read_only=True).entries():
        redone.redo(entry, rows_of(todo, entry))
    assert redone.trainer.state_hash() == straight.trainer.state_hash()
    assert redone.releases == [
        replace(r, seconds=again.seconds) for r, again in zip(straight.releases, redone.releases, strict=True)
    ]
    straight.close()
    redone.close()
