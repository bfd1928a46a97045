"""The watch over the brokers, with a reader that answers as the test wants."""

import asyncio
import threading

import pytest

from ecdctr.events.kafka import LogEnds, LogProblem, LogProblemKind
from ecdctr.streams import broker_watch
from ecdctr.streams.broker_watch import BrokerWatch, WatchState

KEY, OTHER = ("natural", 0), ("ad", 0)


def answer(**ends: int) -> LogEnds:
    """Both topics are shown, with these ends; a topic that is not named has no end."""
    found = {(topic, 0): end for topic, end in ends.items()}
    shown = {topic: frozenset({(topic, 0)}) for topic in ("natural", "ad")}
    return LogEnds(shown, found, found, answered=True)


def without(kind: LogProblemKind, *topics: str, partitions=()) -> LogEnds:
    """A problem; these topics are not shown."""
    whole = answer(natural=500, ad=500)
    kept = {topic: keys for topic, keys in whole.shown.items() if topic not in topics}
    ends = {key: end for key, end in whole.ends.items() if key[0] in kept and key not in partitions}
    return LogEnds(kept, ends, ends, (LogProblem(kind, "what is wrong", tuple(partitions)),), answered=True)


WHOLE = answer(natural=500, ad=500)
SHORT = answer(natural=0, ad=500)
FEWER = LogEnds(
    {"natural": frozenset({("natural", 1)})}, {("natural", 1): 9}, {("natural", 1): 9}, answered=True
)
AWAY = LogEnds(problems=(LogProblem(LogProblemKind.NO_BROKER, "nothing listens"),))
GONE = without(LogProblemKind.TOPIC_MISSING, "natural")
REFUSED = without(LogProblemKind.RIGHT, "natural")
LEADERLESS = without(LogProblemKind.NO_LEADER, partitions=[KEY])


class Answers:
    """A reader that gives these answers in turn, an exception among them is raised; then it waits for the end."""

    def __init__(self, *answers) -> None:
        self.left = list(answers)
        self.through = threading.Event()
        self.closed = False

    async def read(self) -> LogEnds:
        if not self.left:
            self.through.set()
            await asyncio.sleep(3600)
        found = self.left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(broker_watch, "EVERY_S", 0.001)


def watched(*answers, positions=None) -> tuple[BrokerWatch, list]:
    """A watch after these answers, and the losses that it reported, each with the number of answers that were left."""
    reader, lost = Answers(*answers), []

    def on_lost(error) -> None:
        lost.append((error, len(reader.left)))
        reader.through.set()

    watch = BrokerWatch(reader, lambda: positions or {KEY: 400}, on_lost)
    watch.start()
    assert reader.through.wait(60)
    watch.stop()
    return watch, lost


@pytest.mark.parametrize("short", [SHORT, FEWER])
def test_a_log_that_two_looks_find_shorter_is_lost(short):
    _, [(error, left)] = watched(WHOLE, short, short, WHOLE)
    assert left == 1, "the second look decided"
    assert "natural[0] ends at 0, learned up to 400" in str(error)
    assert "as two checks found" in str(error)


@pytest.mark.parametrize("between", [WHOLE, AWAY, REFUSED, GONE, LEADERLESS])
def test_one_look_that_finds_it_shorter_ends_nothing(between):
    assert watched(WHOLE, SHORT, between, SHORT, between, SHORT, WHOLE)[1] == []


def test_case_a8_a_topic_that_is_not_shown_is_no_proof_of_a_loss():
    watch, lost = watched(WHOLE, GONE, GONE, GONE)
    assert lost == []
    assert [problem.kind for problem in watch.problems] == [LogProblemKind.TOPIC_MISSING]


def test_a_reader_that_raises_is_asked_again():
    watch, lost = watched(ValueError("coming up"), WHOLE)
    assert watch.ends == {KEY: 500, OTHER: 500} and not lost


def test_case_a8_a_right_that_is_withdrawn_is_named_at_once_and_everything_else_when_it_lasts():
    assert [p.kind for p in watched(WHOLE, REFUSED)[0].problems] == [LogProblemKind.RIGHT]
    for problem in (AWAY, GONE, LEADERLESS):
        assert watched(WHOLE, problem)[0].problems == ()
        assert watched(WHOLE, problem, problem)[0].problems == problem.problems
        assert watched(problem, problem, WHOLE)[0].problems == ()
        assert watched(problem, WHOLE, problem)[0].problems == ()


def test_case_a2_the_ends_of_other_partitions_stay_known_while_one_leader_does_not_answer(monkeypatch):
    now = [100.0]
    lost: list = []
    reader = Answers()
    watch = BrokerWatch(reader, dict, lost.append, now=lambda: now[0])
    watch._take(WHOLE, {})
    assert watch.unknown() == frozenset()
    now[0] += 4
    watch._take(LEADERLESS, {})
    now[0] += 1
    assert watch.unknown() == {KEY}
    assert watch.state.lag({OTHER: 450}, "ad", now[0]) == 50
    assert watch.state.lag({KEY: 500}, "natural", now[0]) is None, "unknown is not 0"
    watch._take(WHOLE, {})
    assert watch.unknown() == frozenset()
    assert watch.state.lag({KEY: 500}, "natural", now[0]) == 0


def test_new_partitions_appear_and_those_of_a_topic_made_anew_with_fewer_do_not_stay():
    two = LogEnds({"natural": frozenset({KEY, ("natural", 1)})}, {KEY: 3}, {KEY: 3}, answered=True)
    watch, _ = watched(WHOLE, two, positions={OTHER: 0})
    assert watch.state.partitions == {KEY, ("natural", 1), OTHER}
    assert watch.unknown() == {("natural", 1)}
    watch, _ = watched(two, FEWER, positions={OTHER: 0})
    assert watch.state.partitions == {("natural", 1)} and watch.ends == {("natural", 1): 9}


def test_the_lag_of_a_topic_that_was_never_shown_is_not_known():
    assert WatchState().lag({}, "natural", 0.0) is None


def test_records_after_an_open_transaction_are_held_until_it_ends():
    held = LogEnds(WHOLE.shown, WHOLE.ends, {**WHOLE.written, KEY: 540}, answered=True)
    assert watched(WHOLE, held)[0].state.held == {KEY: 40}
    assert watched(held, AWAY)[0].state.held == {KEY: 40}
    assert watched(held, WHOLE)[0].state.held == {}
