"""Which reasons the health report finds, by a state of the watch, an intake and counts that the test sets."""

from collections.abc import Mapping

import pytest

from ecdctr.events.kafka import GroupMember, LogProblem, LogProblemKind
from ecdctr.monitor.dashboard import Health, Reason
from ecdctr.streams.broker_watch import STALE_S, WatchState
from ecdctr.streams.health import Counts, HealthReport

NATURAL, AD, AD_1 = ("natural", 0), ("ad", 0), ("ad", 1)
KEYS = frozenset({NATURAL, AD, AD_1})


class World:
    """A health report whose inputs the test sets; at first all is learned."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.health = Health(300.0, now=lambda: self.now)
        self.health.enter("live")
        self.report = HealthReport(self.health, ["natural", "ad"], now=lambda: self.now)
        self.ends = dict.fromkeys(KEYS, 100)
        self.silent: dict[tuple[str, int], float] = {}  # when these were last reported
        self.problems: list[LogProblem] = []
        self.members: tuple[GroupMember, ...] = ()
        self.learned = dict.fromkeys(KEYS, 100)
        self.stalled: str | None = None
        self.counts = Counts()
        self.consumer: str | None = None
        self.answers = True
        self.held: dict[tuple[str, int], int] = {}
        self.damaged: dict[tuple[str, int], str] = {}

    def tick(self, seconds: float = 1.0):
        self.now += seconds
        reported: Mapping = {key: self.silent.get(key, self.now) for key in self.ends}
        state = WatchState(
            self.ends,
            reported,
            frozenset(self.ends),
            tuple(self.problems),
            self.now if self.answers else 1_000.0,
            self.held,
            self.members,
        )
        lag = self.report.update(state, self.learned, self.counts, self.consumer, self.damaged, self.stalled)
        self.health.lag(lag.total, waiting=lag.waiting, where=lag.where)
        return lag

    def names(self) -> list[str]:
        return [finding.reason.value for finding in self.health.verdict().findings]


@pytest.fixture
def world():
    return World()


def test_nothing_waits(world):
    assert world.tick().total == 0
    assert world.names() == ["idle"]


def test_a_damaged_batch_is_a_reason_of_its_own_and_no_reason_to_restart(world):
    world.ends[AD] = 160
    world.damaged = {AD: "ad[0] cannot be read at offset 100: its leader returns records that are damaged"}
    for _ in range(400):  # longer than the watchdog allows
        world.tick()
    verdict = world.health.verdict()
    assert world.names()[0] == "damaged_records" and verdict.healthy and not verdict.ready
    assert (
        "ad[0] cannot be read at offset 100" in verdict.reason and "delivered nothing" not in verdict.reason
    )
    world.damaged, world.learned[AD] = {}, 160
    world.tick()
    assert "damaged_records" not in world.names()


def test_the_lag_is_that_of_the_ends_and_not_of_what_was_fetched(world):
    world.ends[AD] = 160
    lag = world.tick()
    assert (lag.by_topic, lag.waiting, lag.where) == ({"natural": 0, "ad": 60}, 60, "ad[0]: 60")
    assert world.names() == ["training"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (LogProblemKind.NO_BROKER, Reason.WAITING_FOR_BROKER),
        (LogProblemKind.RIGHT, Reason.RIGHT_MISSING),
        (LogProblemKind.PASSWORD, Reason.PASSWORD_REFUSED),
        (LogProblemKind.CERTIFICATE, Reason.CERTIFICATE_REFUSED),
        (LogProblemKind.NO_LEADER, Reason.NO_LEADER),
        (LogProblemKind.TOPIC_MISSING, Reason.TOPIC_MISSING),
    ],
)
def test_every_problem_of_the_log_is_a_reason_until_it_ends(world, kind, reason):
    world.problems = [LogProblem(kind, "what is wrong")]
    world.tick()
    verdict = world.health.verdict()
    assert (verdict.status, verdict.healthy, verdict.ready) == (reason.value, True, False)
    assert "what is wrong" in verdict.reason
    world.problems = []
    world.tick()
    assert world.names() == ["idle"]


def test_every_kind_of_problem_has_a_reason(world):
    world.problems = [LogProblem(kind, f"text of {kind}") for kind in LogProblemKind]
    world.tick()
    assert all(f"text of {kind}" in world.health.verdict().reason for kind in LogProblemKind)


def test_case_a2_a_hung_leader_makes_the_lag_unknown_within_five_seconds_and_never_zero(world):
    world.tick()
    assert STALE_S < 5
    world.silent[AD_1] = world.now
    for _ in range(6):
        lag = world.tick()
    assert lag.total is None and lag.by_topic == {"natural": 0, "ad": None}
    verdict = world.health.verdict()
    assert (verdict.status, verdict.lag, verdict.healthy) == ("waiting_for_broker", None, True)
    assert "where ad[1] ends has not been reported for 6 s" in verdict.reason
    world.ends[NATURAL] = 150
    world.tick()
    assert world.names() == ["waiting_for_broker", "training"], "the others are learned"


def test_no_answer_at_all_after_the_start(world):
    world.ends, world.answers = {}, False
    world.tick()
    assert world.names() == ["starting"]
    world.tick(6)
    assert world.names() == ["waiting_for_broker"]
    assert world.health.verdict().reason == "no broker has answered for 7 s"


def test_a_partition_of_which_nothing_comes_is_named_while_others_are_learned(world):
    world.ends[NATURAL] = 37_000
    world.stalled = "natural[0] has delivered nothing for 31 s"
    for _ in range(60):
        world.tick()
        world.health.step()
    verdict = world.health.verdict()
    assert world.names() == ["stalled", "training"] and verdict.healthy
    assert verdict.reason == world.stalled
    world.stalled = None
    world.tick()
    assert world.names() == ["training"]


def test_case_k6_another_member_of_the_group_is_a_notice(world):
    world.members = (GroupMember("console-1", "console", "/10.0.0.7"),)
    world.tick()
    verdict = world.health.verdict()
    assert verdict.ready and world.names() == ["idle", "other_member"]
    assert 'console-1 (client id "console") on 10.0.0.7' in verdict.findings[1].sentence


def test_of_many_members_of_the_group_the_first_are_named_and_all_are_counted(world):
    world.members = tuple(GroupMember(f"console-{i:02}", "console", "/10.0.0.7") for i in range(50))
    world.tick()
    [sentence] = [f.sentence for f in world.health.verdict().findings if f.reason is Reason.OTHER_MEMBER]
    assert "50 other members" in sentence and "console-00 " in sentence and "and 47 more" in sentence
    assert len(sentence) < 400


def test_case_k8_only_dead_letters_are_told_with_rate_reason_field_and_example(world):
    example = {"ts": "natural[0] at offset 7: ts is 1700000000, before 2000-01-01"}
    for second in range(20):
        world.counts = Counts(0, {"ts": 100 * second}, example)
        world.tick()
    verdict = world.health.verdict()
    assert verdict.status == "only_dead_letters" and verdict.healthy
    assert "100% of the last 1,500 events were rejected (6,000 per minute): ts (1,500)" in verdict.reason
    assert example["ts"] in verdict.reason
    for second in range(20):
        world.counts = Counts(1_000 * second, {"ts": 1_900})
        world.tick()
    assert world.names() == ["idle", "wrong_times"]


def test_case_k4_many_implausible_times_are_a_notice_and_few_are_not(world):
    example = {"ts": "natural[0] at offset 7: ts is 4070908800000 (2099-01-01)"}
    for second in range(60):
        world.counts = Counts(900 * second, {"ts": 10 * second}, example)
        world.tick()
    verdict = world.health.verdict()
    assert verdict.ready and verdict.status == "ok"
    assert world.names() == ["idle", "wrong_times"]
    assert "events were rejected for their times" in verdict.findings[1].sentence
    assert example["ts"] in verdict.findings[1].sentence
    other = World()
    for second in range(60):
        other.counts = Counts(9_000 * second, {"ts": 10 * second, "json": 500 * second}, example)
        other.tick()
    assert other.names() == ["idle"]


def test_a_slow_stream_of_dead_letters_is_told_too_and_some_among_good_rows_are_not(world):
    for minute in range(30):
        world.counts = Counts(0, {"json": 6 * minute})
        world.tick(60)
    assert world.names() == ["only_dead_letters", "idle"]
    other = World()
    for second in range(100):
        other.counts = Counts(900 * second, {"json": 100 * second})
        other.tick()
    assert other.names() == ["idle"]


def test_a_consumer_that_cannot_connect_is_told_while_records_wait(world):
    world.consumer = "the connection was lost"
    world.tick()
    assert world.names() == ["idle"], "the brokers answer, and nothing waits"
    world.ends[AD] = 101
    world.tick()
    assert world.names() == ["waiting_for_broker", "training"]


def test_case_a1_records_after_a_transaction_that_stays_open_are_told_and_those_of_a_short_one_are_not(world):
    for second in range(200):
        world.ends[AD], world.learned[AD] = (
            100 + second // 10,
            100 + second // 10,
        )  # transactions of ten seconds
        world.held = {AD: 5}
        world.tick()
    assert world.names() == ["idle"]
    for _ in range(62):
        world.tick()
    assert world.names() == ["open_transaction", "idle"]
    assert "ad[0]: 5 records come after a transaction that has been open for" in world.health.verdict().reason
    assert world.health.verdict().healthy
    world.held = {}
    world.tick()
    assert world.names() == ["idle"]
