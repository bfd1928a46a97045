"""Streaming features in training: predictions, rolled-back steps, checkpoints, crashes between a checkpoint and the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.step import Step, StepKind
from ecdctr.models.settings import ModelSettings, ScheduleSettings, StreamingFeatureSettings, TpmSettings
from ecdctr.models.streaming_features import StreamingFeatures, extended_specs
from ecdctr.models.training import Engine, Trainer
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.journals import Journal
from ecdctr.state.positions import Part
from ecdctr.state.row_logs import AdWindow, ScoreLog
from ecdctr.state.settings import StateSettings
from tests.models.streaming_features.streams import SCHEMA, aligned_stream
from tests.support.worlds import loaded, play

HOUR = 3_600_000
MODEL = ModelSettings(
    dim=4, hidden=(8,), cross_layers=1, natural_batch=32, ad_batch=16, threads=1, history="none"
)
SCHEDULE = ScheduleSettings(release_every="6h", first_release_after="4h", ad_window_days=5)
# From noon on, so that keys are removed at midnight.
STREAM = [replace(batch, ts=batch.ts + 12 * HOUR) for batch in aligned_stream(21, 18)]


def parts(settings: StreamingFeatureSettings) -> tuple[FeatureSchema, StreamingFeatures]:
    return FeatureSchema(extended_specs(SCHEMA.specs, settings), MODEL.dim), StreamingFeatures(
        SCHEMA, settings
    )


def trainer(window: AdWindow | None = None, **changes: Any) -> Trainer:
    schema, streaming = parts(StreamingFeatureSettings(mode="auto", **changes))
    if window is None:
        window = AdWindow(None, schema.n_features, schema.n_dense, 5)
    return Trainer(schema, MODEL, SCHEDULE, TpmSettings(), None, window, device="cpu", streaming=streaming)


def last(domain: int) -> tuple[list[Batch], Batch]:
    """The stream up to a step of the domain, and that step."""
    at = max(i for i, batch in enumerate(STREAM) if batch.domain[0] == domain)
    return STREAM[:at], STREAM[at]


@pytest.mark.parametrize("form", ["numbers", "buckets", "both"])
def test_predictions_are_those_of_the_step_and_change_nothing(form):
    subject = trainer(form=form)
    before, batch = last(AD)
    play(subject, before)
    batch = replace(batch, ts=np.full(len(batch), int(batch.ts.max())))  # one time: no row sees another
    state = subject.state_hash()
    served, learned = (subject.streaming.extend(batch, learned=flag) for flag in (False, True))
    assert served.dense.tobytes() == learned.dense.tobytes()
    assert served.features.tobytes() == learned.features.tobytes()
    at, scores = subject.score(Step.from_batch(batch))
    predicted = subject.predict(batch, "actr")
    unlabelled = subject.predict(replace(batch, label=np.zeros(len(batch), np.float32)), "actr")
    assert subject.state_hash() == state
    result = subject.step(Step.from_batch(batch))
    assert at.tobytes() == result.scored.tobytes()
    assert {k: v.tobytes() for k, v in scores.items()} == {k: v.tobytes() for k, v in result.scores.items()}
    # A step computes its rows in chunks, a prediction in larger ones: equal up to rounding.
    np.testing.assert_allclose(predicted, result.scores["actr"], rtol=1e-5)
    np.testing.assert_array_equal(predicted, unlabelled)


def test_the_features_are_inputs_of_the_networks_and_of_bayes_fm():
    subject = trainer()
    before, batch = last(AD)
    play(subject, before)
    again = replace(batch, ts=batch.ts + 20 * HOUR)  # the same rows later: only the streaming features differ
    for arm in ("ads_only", "cpm", "bayes_fm"):
        assert (subject.predict(batch, arm) != subject.predict(again, arm)).any(), arm


def test_the_ad_window_holds_the_values_that_the_rows_had_when_they_were_learned():
    subject = trainer(refresh=3)
    rows: list[np.ndarray] = []
    for batch in STREAM:
        if batch.domain[0] == AD:
            rows.append(subject.streaming.extend(batch, learned=True).dense)
        play(subject, [batch])
    window = np.concatenate([chunk["dense"] for chunk in subject.ad_window.chunks(1000)])
    assert window.tobytes() == np.concatenate(rows).tobytes()
    assert subject.releases


@pytest.mark.parametrize("domain", [NATURAL, AD])
def test_the_events_of_a_step_that_was_rolled_back_are_counted(domain):
    subject, good = trainer(), trainer()
    before, batch = last(domain)
    for each in (subject, good):
        play(each, before)
    bad = replace(batch, dense=batch.dense.copy())
    bad.dense[0, 0] = np.nan
    assert subject.step(Step.from_batch(bad)).skipped is not None
    assert good.step(Step.from_batch(batch)).skipped is None
    later = replace(batch, ts=batch.ts + HOUR)
    values = [each.streaming.values(later, learned=False).tobytes() for each in (subject, good)]
    assert values[0] == values[1]


def test_a_restored_trainer_continues_with_the_same_bits():
    straight, first = trainer(visible_after="30m"), trainer(visible_after="30m")
    wanted = play(straight, STREAM)
    captures = []
    for i in range(0, 24, 8):
        play(first, STREAM[i : i + 8])
        captures.append(first.capture())
    second = trainer(first.ad_window, visible_after="30m")
    second.restore(loaded(captures))
    assert second.state_hash() == first.state_hash()
    found = play(second, STREAM[24:])
    for one, two in zip(found, wanted[24:], strict=True):
        assert {k: v.tobytes() for k, v in one.scores.items()} == {
            k: v.tobytes() for k, v in two.scores.items()
        }
    assert second.state_hash() == straight.state_hash()


# -- crashes


def plan() -> list[tuple[Batch, Part]]:
    ends = {"natural-clicks": 0, "ad-clicks": 0}
    out = []
    for batch in STREAM:
        topic = "ad-clicks" if batch.domain[0] == AD else "natural-clicks"
        part = Part(topic, 0, ends[topic], ends[topic] + len(batch))
        ends[topic] += len(batch)
        out.append((batch.with_parts([part]), part))
    return out


def make_engine(folder: Path) -> Engine:
    schema, _ = parts(StreamingFeatureSettings(mode="auto"))
    window = AdWindow(folder / "ad-window", schema.n_features, schema.n_dense, 5)
    subject = trainer(window, visible_after="20m", expire_after="1h")
    return Engine(
        subject,
        journal=Journal(folder / "journal"),
        checkpoints=CheckpointStore(folder / "checkpoints", keep=3),
        scores=ScoreLog(folder / "scores", ("actr", "ads_only", "cpm", "reload", "bayes_fm")),
        ad_window=window,
        settings=StateSettings(folder=folder, checkpoint_every_steps=7, checkpoint_every_s=1e9),
        fingerprint="test",
    )


def run_from(engine: Engine, stop: int | None = None) -> None:
    """Recover with the rows of the log, then run the steps that the positions do not cover yet."""
    steps = plan()
    rows = {(part,): batch for batch, part in steps}
    for entry in engine.recover():
        engine.redo(entry, rows[entry.parts] if entry.parts else None)
    for batch, part in steps[:stop]:
        if part.first >= engine.positions.get((part.topic, 0), 0):
            engine.run(Step(StepKind.from_domain(int(batch.domain[0])), batch, int(batch.ts.max())))


def bits(engine: Engine) -> list[bytes]:
    """Model and features, the scores, and the values of the features in the ad window."""
    scores = engine.scores.read()
    window = [chunk["dense"].tobytes() for chunk in engine.ad_window.chunks(10**6)]
    return [engine.trainer.state_hash().encode(), *(scores[c].tobytes() for c in sorted(scores)), *window]


@pytest.mark.parametrize("crashes", [(9,), (8, 20, 21, 33)])
def test_a_crash_between_a_checkpoint_and_the_end_changes_no_bit_of_features_and_models(tmp_path, crashes):
    straight = make_engine(tmp_path / "straight")
    run_from(straight)
    for stop in crashes:
        engine = make_engine(tmp_path / "crashed")
        run_from(engine, stop)
        engine._finish_save()  # as after a kill: no close(), no last checkpoint
        engine.journal.close()
    engine = make_engine(tmp_path / "crashed")
    run_from(engine)
    assert bits(engine) == bits(straight)
    assert engine.first_difference is None
    streaming = engine.trainer.streaming
    assert streaming is not None and sum(streaming.counters()["evicted"])
    engine.close()
    straight.close()
    # The last checkpoint restores it as well.
    engine = make_engine(tmp_path / "crashed")
    run_from(engine)
    assert bits(engine) == bits(straight)
    engine.close()


def test_a_feature_with_the_name_of_a_streaming_feature_is_refused():
    clash = FeatureSpec(name="streaming:user:age", kind="numeric")
    with pytest.raises(Exception, match='two features are named "streaming:user:age"'):
        FeatureSchema(extended_specs((clash,), StreamingFeatureSettings(mode="auto")), 4)
