"""``Reporter``: a thread counts the steps, a failure is reported, and the end waits for the queue."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.kafka import LogProblem, LogProblemKind
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import KafkaSettings, default_features
from ecdctr.events.step import Step, StepKind
from ecdctr.models.training import ReleaseReport, StepResult
from ecdctr.state.row_logs import ScoreLog
from ecdctr.streams import progress_log, reporting
from ecdctr.streams.broker_watch import WatchState
from ecdctr.streams.health.monitor_start import DELAYS_S
from ecdctr.streams.known_users import KnownUsers
from ecdctr.streams.progress_log import log_progress
from ecdctr.streams.reporting import Reporter
from ecdctr.streams.settings import MonitorSettings, TopicSettings
from tests.support.waiting import until

HOUR = 3_600_000
ROWS = 16


def engine() -> SimpleNamespace:
    """The attributes of an engine that a reporter reads."""
    progress = SimpleNamespace(
        checkpoints=0,
        checkpoint_failures=0,
        releases=0,
        stall_s_max=0.0,
        last_error=None,
        busy=None,
        rows={"natural": 0, "ad": 0},
    )
    trainer = SimpleNamespace(
        cpm_months=(), store=None, transfer=None, predict=lambda b, arm: np.full(len(b), 0.1, np.float32)
    )
    return SimpleNamespace(
        releases=[], progress=progress, trainer=trainer, clock=HOUR, positions={}, scores=None
    )


def a_step(number: int) -> tuple[Step, StepResult]:
    ids = np.arange(ROWS, dtype=np.uint64)
    ts = np.full(ROWS, HOUR + 1000 * number, np.int64)
    label = (ids % 4 == 0).astype(np.float32)
    features, dense = np.ones((ROWS, 3), np.int32), np.empty((ROWS, 0), np.float32)
    batch = Batch(ts, np.full(ROWS, AD, np.uint8), ids, ids, features, dense, label)
    p = np.full(ROWS, 0.25, np.float32)
    return Step(StepKind.AD, batch, int(ts[0])), StepResult(
        StepKind.AD, ROWS, {"actr": 0.5}, np.arange(ROWS), {"actr": p, "ads_only": p}
    )


@pytest.fixture
def make():
    made: list[Reporter] = []

    def make(folder=None) -> Reporter:
        schema = FeatureSchema(default_features(), 4)
        settings = MonitorSettings(alerts_topic="", port=0)
        made.append(Reporter(schema, KafkaSettings(), TopicSettings(), settings, folder=folder))
        return made[-1]

    yield make
    for report in made:
        report.close()


def feed(report: Reporter, of: SimpleNamespace, steps: int, first: int = 0) -> None:
    for number in range(first, first + steps):
        report.stepped(of, *a_step(number), 0.001)


def rows_trained(report: Reporter) -> float:
    return (
        report.dashboard.metrics.registry.get_sample_value("ecdctr_rows_trained_total", {"domain": "ad"}) or 0
    )


def test_steps_are_queued_until_they_are_drained(make):
    report, of = make(), engine()
    feed(report, of, 5)  # the thread does not run before begin()
    assert report.monitor.rows["ad"] == 0
    report.drain()
    assert report.monitor.rows["ad"] == rows_trained(report) == 5 * ROWS


def test_the_thread_drains_the_queue(make):
    report, of = make(), engine()
    report.begin(of)
    done, drain = threading.Event(), report.drain

    def drain_and_check() -> None:
        drain()
        if rows_trained(report) == 5 * ROWS:
            done.set()

    report.drain = drain_and_check
    feed(report, of, 5)
    assert done.wait(30)


def test_memory_is_bounded_where_the_thread_does_not_keep_up(make):
    report, of = make(), engine()
    feed(report, of, reporting.QUEUE_STEPS + 1)
    assert rows_trained(report) == reporting.QUEUE_STEPS * ROWS


def test_closing_counts_the_queued_steps(make, tmp_path):
    report, of = make(tmp_path / "monitor"), engine()
    report.begin(of)
    of.releases.append(ReleaseReport(1, HOUR, HOUR, (), accepted=False, reason="worse"))
    feed(report, of, 3)
    report.close()
    assert report.monitor.rows["ad"] == 3 * ROWS
    again = make(tmp_path / "monitor")
    again.begin(of)
    now = again.monitor.snapshot()
    assert sum(now["series"]["1h"]["ad"]["rows"]) == 3 * ROWS
    assert [m["kind"] for m in now["marks"]] == ["release"]
    assert [a["rule"] for a in now["alerts"]] == ["release-refused"]


def test_a_failure_of_the_monitor_is_reported_and_training_continues(make, monkeypatch, caplog):
    report, of = make(), engine()

    def fail(*_: object) -> None:
        raise RuntimeError("no such window")

    monkeypatch.setattr(report.monitor, "observe", fail)
    feed(report, of, 3)
    report.drain()
    feed(report, of, 3, first=3)
    report.drain()
    assert caplog.text.count("the monitor has failed: training continues without it") == 1
    assert "no such window" in caplog.text
    intake = SimpleNamespace(waiting_rows=0, aligner=SimpleNamespace(late_rows=0), lag=lambda topic, at: 0)
    report.tick(of, intake, {})
    verdict = report.health.verdict()
    assert "the monitor has failed" in (verdict.reason or "")


def scored(of: SimpleNamespace, number: int) -> tuple[Step, StepResult]:
    """A step whose rows are in the score log, as the engine writes them before it reports the step."""
    step, result = a_step(number)
    columns = {
        "ts": step.batch.ts,
        "user": step.batch.user,
        "item": step.batch.item,
        "domain": step.batch.domain,
    }
    scores = {f"p_{arm}": p for arm, p in result.scores.items()}
    of.scores.append({**columns, "label": step.batch.label.astype(np.uint8), **scores})
    of.clock = int(step.batch.ts[0])
    return step, result


def learned_ads(report: Reporter) -> int:
    return report.monitor.snapshot()["windows"]["1d"]["ad"]["arms"]["actr"]["rows"]


def test_case_k2_a_monitor_that_has_failed_is_started_again_and_counts_each_row_once(
    make, monkeypatch, tmp_path
):
    report, of, now = make(tmp_path / "monitor"), engine(), [100.0]
    report._now = report._start._now = lambda: now[0]
    of.scores = ScoreLog(None, ("actr", "ads_only"))
    report.begin(of)
    report._ended = True  # this test drains the queue itself
    report._wake.set()
    report._thread.join()

    def feed(first: int, steps: int) -> None:
        for number in range(first, first + steps):
            report.stepped(of, *scored(of, number), 0.001)

    def fail(*_: object) -> None:
        raise RuntimeError("no such window")

    feed(0, 3)
    report.drain()
    assert learned_ads(report) == 3 * ROWS
    failed = report.monitor
    monkeypatch.setattr(failed, "observe", fail)
    feed(3, 2)
    report.drain()
    of.releases.append(ReleaseReport(1, HOUR, HOUR, ()))
    feed(5, 2)
    report.drain()
    assert rows_trained(report) == 7 * ROWS, "the metrics of the worker do not depend on the monitor"
    assert report._start.sentence() is not None and report.monitor is failed
    now[0] += 6
    feed(7, 1)
    feed(8, 2)
    report.drain()
    assert report._start.sentence() is None and report.monitor is not failed
    assert learned_ads(report) == 10 * ROWS
    assert [m["kind"] for m in report.monitor.snapshot()["marks"]] == ["release"]
    assert report.dashboard.snapshot(fresh=True)["windows"]["1d"]["ad"]["arms"]["actr"]["rows"] == 10 * ROWS


def test_a_monitor_that_fails_again_is_started_again_later_and_also_while_no_step_comes(make, monkeypatch):
    report, of, now = make(), engine(), [100.0]
    report._now = report._start._now = lambda: now[0]

    def fail(*_: object) -> None:
        raise RuntimeError("again")

    for delay in (*DELAYS_S, DELAYS_S[-1]):
        monkeypatch.setattr(report.monitor, "observe", fail)
        feed(report, of, 1)
        report.drain()
        now[0] += delay - 0.5
        report.between_steps(of)
        report.drain()
        assert report._start.failed is not None
        now[0] += 1
        report.between_steps(of)
        report.between_steps(of)
        report.drain()
        assert report._start.failed is None


def test_case_k2_steps_without_rows_are_counted_and_end_nothing(make):
    report, of = make(), engine()
    step, result = a_step(0)
    nothing = np.empty(0, np.float32)
    empty = replace(step, batch=step.batch.take(slice(0, 0)))
    for _ in range(3):
        report.stepped(
            of,
            empty,
            replace(result, n=0, scored=np.empty(0, int), scores=dict.fromkeys(result.scores, nothing)),
            0.001,
        )
    report.drain()
    feed(report, of, 2)
    report.drain()
    assert report._start.failed is None and not report._failing
    assert report.monitor.rows["ad"] == rows_trained(report) == 2 * ROWS
    steps = report.dashboard.metrics.registry.get_sample_value("ecdctr_steps_total", {"domain": "ad"})
    assert steps == 5


class Intake:
    """What a reporter reads of an intake: all that was learned has been fetched, and there is room for more."""

    waiting_rows = 0

    def __init__(self, of: SimpleNamespace) -> None:
        self.aligner = SimpleNamespace(
            late_rows=0, position=lambda topic, p: of.positions.get((topic, p), 900)
        )

    def wants(self, topic: str, partition: int) -> bool:
        return True


def test_the_lag_is_that_of_the_ends_that_the_brokers_report_and_unknown_while_they_are(make, caplog):
    caplog.set_level(logging.INFO, "ecdctr.worker")
    report, of, now = make(), engine(), [100.0]
    report._now = report._report._now = lambda: now[0]
    topics = TopicSettings()
    natural, ad = (topics.natural, 0), (topics.ad, 0)
    state = WatchState(
        {natural: 1_000, ad: 950}, {natural: 100.0, ad: 100.0}, frozenset({natural, ad}), (), 100.0
    )
    watch = SimpleNamespace(state=state)
    report.begin(of, watch, {natural: 900, ad: 950})

    def ask():
        report.tick(of, Intake(of), {})
        value = report.dashboard.metrics.registry.get_sample_value
        return report.health.verdict(), [value("ecdctr_lag_records", {"topic": t}) for t in topics.domains]

    verdict, lag = ask()
    assert (verdict.status, verdict.lag, lag) == ("ok", 100, [100, 0]), (
        "what retention removed does not count"
    )
    of.positions[natural] = 1_000
    verdict, lag = ask()
    assert (verdict.findings[0].reason.value, verdict.lag, report.lag) == ("idle", 0, 0)
    now[0] += 6
    verdict, lag = ask()
    assert (verdict.status, verdict.lag, report.lag) == ("waiting_for_broker", None, None)
    assert all(np.isnan(lag))
    right = LogProblem(LogProblemKind.RIGHT, "kafka-1 does not show topic")
    watch.state = replace(state, problems=(right,))
    assert ask()[0].status == "right_missing"
    watch.state = replace(state, reported_at=dict.fromkeys(state.ends, now[0]))
    assert ask()[0].status == "ok"
    told = [text for text in caplog.messages if text.endswith("]")]
    assert [text.rpartition("[")[2] for text in told] == [
        "waiting_for_broker]",
        "right_missing]",
        "waiting_for_broker]",
        "right_missing]",
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("checkpoint: No space left on device", "checkpoints_fail"),
        ("journal: step 7: No space left on device", "waiting_for_disk"),
    ],
)
def test_a_full_disk_is_told_by_what_it_stops(make, error, status):
    report, of = make(), engine()
    report.begin(of)
    intake = SimpleNamespace(waiting_rows=0, aligner=SimpleNamespace(late_rows=0), lag=lambda topic, at: 7)
    of.progress.last_error = error
    report.tick(of, intake, {})
    verdict = report.health.verdict()
    assert (verdict.status, verdict.reason, verdict.healthy) == (status, error, True)
    of.progress.last_error = None
    report.tick(of, intake, {})
    assert report.health.verdict().status == "ok"


def test_an_unknown_lag_is_not_written_as_0(caplog, monkeypatch):
    monkeypatch.setattr(progress_log, "EVERY_S", 0.01)
    of = engine()
    of.step = 7

    async def main() -> None:
        lines = asyncio.create_task(log_progress(of, lambda: None, lambda: 0))
        await asyncio.sleep(0)
        of.progress.rows["ad"] = 16

        async def written() -> bool:
            return "step 7" in caplog.text

        await until(written)
        lines.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert "records behind: not known" in caplog.text and " 0 records behind" not in caplog.text


def test_a_failure_of_the_dashboard_is_reported_and_tried_again(make, monkeypatch, caplog):
    report, of = make(), engine()
    intake = SimpleNamespace(waiting_rows=0, aligner=SimpleNamespace(late_rows=0), lag=lambda topic, at: 7)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such gauge")

    with monkeypatch.context() as broken:
        broken.setattr(report.dashboard, "tick", fail)
        broken.setattr(report.dashboard, "deliver", fail)
        for _ in range(3):
            report.tick(of, intake, {})
            report.deliver()
        report.tick(of, intake, {})
        assert caplog.text.count("updating the metrics failed") == 1
        assert caplog.text.count("delivering alerts failed") == 1
        assert "no such gauge" in caplog.text
        reason = report.health.verdict().reason
        assert "updating the metrics fails" in reason and "delivering alerts fails" in reason
    report.deliver()
    report.tick(of, intake, {})
    assert "fails" not in report.health.verdict().reason
    assert report.health.verdict().lag == 14


def test_every_nth_natural_step_is_compared_with_the_snapshots_whatever_ad_steps_are_between(
    make, monkeypatch
):
    report, of = make(), engine()
    of.trainer.cpm_months = ("2026-01",)
    of.trainer.store = SimpleNamespace(
        lookup=lambda kind, users, months: (None, np.ones((len(users), 1), bool))
    )
    report.begin(of)
    seen = []
    monkeypatch.setattr(report.monitor, "observe", seen.extend)
    for number in range(2 * reporting.HISTORY_EVERY):
        step, result = a_step(number)
        rows = replace(step.batch, domain=np.full(ROWS, NATURAL, np.uint8))
        natural = Step(StepKind.NATURAL, rows, step.clock)
        report.stepped(of, natural, replace(result, kind=StepKind.NATURAL, scores={}), 0.001)
        report.stepped(of, step, result, 0.001)
    report.drain()
    natural = [s.has_history is not None for s in seen if s.kind == StepKind.NATURAL]
    assert natural == 2 * [*[False] * (reporting.HISTORY_EVERY - 1), True]
    assert all(s.has_history is not None for s in seen if s.kind == StepKind.AD)


def test_months_and_releases_become_marks_in_order(make):
    report, of = make(), engine()
    report.begin(of)
    of.trainer.cpm_months = ("2026-01",)
    of.releases.append(ReleaseReport(1, HOUR, HOUR, ("2026-01",)))
    feed(report, of, 1)
    report.drain()
    assert {m["kind"] for m in report.monitor.snapshot()["marks"]} == {"month", "release"}


def test_probe_slices_are_scored_at_a_checkpoint_and_take_a_share_of_the_time(make, monkeypatch):
    report, of = make(), engine()
    now = [100.0]
    report._now = lambda: now[0]
    scored = []

    def score(predict) -> None:
        scored.append(now[0])
        now[0] += 2.0

    monkeypatch.setattr(report.monitor, "score_probes", score)
    report.begin(of)
    for at in (101.0, 110.0, 102.0 + 2.0 / reporting.PROBE_SHARE + 2):
        now[0] = at
        of.progress.checkpoints += 1
        feed(report, of, 1)
    assert scored == [101.0, 102.0 + 2.0 / reporting.PROBE_SHARE + 2]


def test_known_users_are_looked_up_once_and_are_correct_when_users_share_a_slot():
    asked = []

    def ask(users):
        asked.extend(users.tolist())
        return users % 3 == 0

    known = KnownUsers(ask, slots=8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        users = rng.integers(0, 30, 50).astype(np.uint64)
        np.testing.assert_array_equal(known(users), users % 3 == 0)
    asked.clear()
    known(np.array([7], np.uint64))
    asked.clear()
    known(np.array([7, 7], np.uint64))
    assert asked == []
