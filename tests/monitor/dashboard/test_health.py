"""The state machine of health with a clock that the test moves, and that every reason is documented, counted and told."""

import re
from pathlib import Path

import pytest

from ecdctr.monitor.dashboard import Dashboard, Health, Reason

OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
WATCHDOG_S = 300.0
PARTICULAR = [r for r in Reason if r.rank < Reason.STOPPING.rank and r is not Reason.FAILED]
"""Reasons that are reported as conditions and are not a phase."""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return Health(WATCHDOG_S, now=clock, wall=lambda: 1e9 + clock.now)


def live(health, lag=0, **more):
    health.enter("live")
    health.lag(lag, **more)
    return health


def names(health) -> list[str]:
    return [finding.reason.value for finding in health.verdict().findings]


def test_every_reason_has_a_sentence_a_row_in_the_documentation_and_a_series():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", OPERATIONS.read_text(encoding="utf-8"), re.M))
    dashboard = Dashboard()
    for reason in Reason:
        assert len(reason.sentence) >= 8 and not reason.sentence.endswith("."), reason
        meaning, _, action = rows[reason.value].partition(" | ")
        assert meaning and action, f"{reason}: what it means, what to do"
        value = dashboard.metrics.registry.get_sample_value("ecdctr_health", {"reason": reason.value})
        assert value == (reason is Reason.STARTING), reason
    assert set(rows) == {reason.value for reason in Reason}
    dashboard.close()


@pytest.mark.parametrize("phase", ["starting", "recovering", "stopping", "failed"])
def test_a_phase_is_the_status_and_only_a_failed_worker_is_to_be_restarted(health, phase):
    health.enter(phase, "a detail")
    verdict = health.verdict()
    assert (verdict.status, verdict.reason, verdict.phase) == (phase, "a detail", phase)
    assert verdict.healthy == (phase != "failed") and not verdict.ready
    assert verdict.to_json()["lag_records"] is None, "not known is not 0"


def test_a_live_worker_is_idle_training_or_stalled(health, clock):
    verdict = live(health, lag=0).verdict()
    assert (verdict.status, names(health), verdict.lag) == ("ok", ["idle"], 0)
    clock.now += 10_000  # nothing to do, nothing done
    assert health.verdict().ready
    health.lag(5)
    assert (health.verdict().status, names(health)) == ("ok", ["training"])
    clock.now += 29
    assert health.verdict().ready
    clock.now += 2
    assert (health.verdict().status, health.verdict().healthy, health.verdict().ready) == (
        "stalled",
        True,
        False,
    )
    clock.now += WATCHDOG_S - 31
    assert health.verdict().healthy
    clock.now += 1
    assert not health.verdict().healthy
    health.step()
    assert (health.verdict().status, health.verdict().healthy) == ("ok", True)


def test_a_release_is_not_a_stall_before_the_watchdog(health, clock):
    live(health, lag=5, busy="training: a CPM release is being made")
    clock.now += WATCHDOG_S - 1
    assert health.verdict().ready and "CPM release" in health.verdict().reason
    clock.now += 2
    assert (health.verdict().status, health.verdict().healthy) == ("stalled", False)


def test_an_unknown_lag_is_neither_idle_nor_training(health, clock):
    live(health, lag=None)
    assert (health.verdict().status, names(health)) == ("starting", ["starting"])
    health.condition(Reason.WAITING_FOR_BROKER, "no broker has answered for 5 s")
    assert (health.verdict().status, names(health)) == ("waiting_for_broker", ["waiting_for_broker"])
    clock.now += 10_000
    verdict = health.verdict()
    assert verdict.healthy and not verdict.ready, "a restart does not bring the broker back"
    assert verdict.to_json()["lag_records"] is None


def test_a_partition_without_an_answer_does_not_excuse_that_the_others_are_not_learned(health, clock):
    live(health, lag=None, waiting=37_000, where="natural-clicks[1]: 37,000")
    health.condition(Reason.WAITING_FOR_BROKER, "kafka-2 does not answer")
    assert names(health) == ["waiting_for_broker", "training"]
    clock.now += WATCHDOG_S + 1
    verdict = health.verdict()
    assert names(health) == ["waiting_for_broker", "stalled"] and not verdict.healthy
    assert (
        "37,000 records are waiting (natural-clicks[1]: 37,000) and no step was completed for 301 s"
        in verdict.reason
    )


@pytest.mark.parametrize("reason", [Reason.DEAD_LETTERS_WAIT, Reason.WAITING_FOR_DISK, Reason.THROTTLED])
def test_a_worker_that_waits_for_what_a_new_one_would_wait_for_is_alive(health, clock, reason):
    live(health, lag=5).condition(reason, "not yet")
    clock.now += WATCHDOG_S + 1
    assert (health.verdict().status, health.verdict().healthy) == (reason.value, True)
    health.condition(reason, None)
    assert (health.verdict().status, health.verdict().healthy) == ("stalled", False)


def test_a_worker_whose_event_loop_is_blocked_knows_no_lag_and_is_to_be_restarted_after_the_watchdog(
    health, clock
):
    live(health, lag=0).expect_reports(15.0)
    clock.now += 14
    assert health.verdict().ready
    clock.now += 2
    verdict = health.verdict()
    assert (verdict.status, verdict.lag, verdict.healthy) == ("reports_fail", None, True)
    assert "has not updated its health for 16 s" in verdict.reason
    clock.now += WATCHDOG_S
    assert not health.verdict().healthy
    health.lag(0)
    assert health.verdict().ready


@pytest.mark.parametrize("reason", [Reason.DEAD_LETTERS_WAIT, Reason.WAITING_FOR_DISK])
def test_a_worker_whose_records_wait_for_something_else_is_alive(health, clock, reason):
    live(health, lag=9)
    health.condition(reason, "the particulars")
    clock.now += WATCHDOG_S + 1
    verdict = health.verdict()
    assert verdict.healthy and not verdict.ready and verdict.status == reason.value


@pytest.mark.parametrize("reason", PARTICULAR)
def test_a_condition_holds_from_its_sentence_until_it_is_withdrawn(health, clock, reason):
    live(health, lag=0)
    health.condition(reason, "the particulars")
    began = 1e9 + clock.now
    health.verdict()
    clock.now += 7
    verdict = health.verdict()
    assert (verdict.status, verdict.healthy, verdict.ready) == (reason.value, True, False)
    assert verdict.reason == "the particulars"
    assert verdict.to_json()["reasons"][0] == {
        "name": reason.value,
        "sentence": "the particulars",
        "since": round(began),
    }
    health.condition(reason, None)
    assert health.verdict().status == "ok"


def test_the_most_severe_reason_is_the_status_and_all_are_listed(health):
    live(health, lag=4)
    for reason in sorted(PARTICULAR, key=str):
        health.condition(reason, reason.sentence)
    assert names(health) == [*(r.value for r in PARTICULAR), "training"]
    verdict = health.verdict()
    assert verdict.status == "certificate_refused"
    assert all(reason.sentence in verdict.reason for reason in PARTICULAR)
    health.enter("failed", "training has ended: out of memory")
    assert health.verdict().status == "failed"


def test_another_member_is_a_notice_only(health):
    live(health, lag=0)
    health.condition(Reason.OTHER_MEMBER, "console-1 is a member")
    verdict = health.verdict()
    assert (verdict.status, verdict.ready, names(health)) == ("ok", True, ["idle", "other_member"])


def test_each_reason_is_told_once_when_it_begins_and_once_when_it_ends(health, clock):
    live(health, lag=4)
    health.condition(Reason.NO_LEADER, "ad-clicks[1] has no leader")
    told = []
    for second in range(30):
        clock.now += 1
        health.step()
        if second == 20:
            health.condition(Reason.NO_LEADER, None)
        told += [(c.reason.value, c.sentence, c.lasted_s) for c in health.changes()]
    assert told == [
        ("partition_without_leader", "ad-clicks[1] has no leader", None),
        ("training", "training", None),
        ("partition_without_leader", Reason.NO_LEADER.sentence, pytest.approx(19)),
    ]


def test_a_stream_that_pauses_every_few_seconds_is_not_told_again_and_again(health, clock):
    live(health, lag=4)
    told = []
    for second in range(200):
        clock.now += 1
        health.step()
        health.lag(4 if second % 5 else 0)
        told += [c.reason for c in health.changes() if c.lasted_s is None]
    assert told in ([], [Reason.TRAINING])
