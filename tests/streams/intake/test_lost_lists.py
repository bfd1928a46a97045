"""Which lists of records are fetched again because no agent has started them."""

from faust.types import TP

from ecdctr.streams.intake.consumer import _LOST_AFTER_S, RecordList, _never_started


def delivered(topic: str, partition: int, at: float, *, started: bool = False) -> RecordList:
    return RecordList(TP(topic, partition), 0, [], 1, delivered_at=at, started=started)


def test_a_list_that_no_agent_starts_is_lost_after_a_while():
    found = delivered("ads", 0, 100.0)
    assert not _never_started(found, [found], 100.0 + _LOST_AFTER_S)
    assert _never_started(found, [found], 101.0 + _LOST_AFTER_S)
    started = delivered("ads", 0, 100.0, started=True)
    assert not _never_started(started, [started], 101.0 + _LOST_AFTER_S)


def test_a_list_that_waits_behind_another_one_of_its_topic_is_not_lost():
    found = delivered("ads", 0, 100.0)
    now = 1_000.0
    assert not _never_started(found, [found, delivered("ads", 1, 99.0, started=True)], now)
    assert _never_started(found, [found, delivered("natural", 1, 99.0, started=True)], now)
    assert _never_started(found, [found, delivered("ads", 1, 101.0, started=True)], now), "it was passed"
