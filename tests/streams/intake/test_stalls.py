"""When a consumer is built again: records wait, there is room, the brokers answer, and nothing comes."""

from __future__ import annotations

from typing import Any

from ecdctr.streams.intake import StallWatch

KEY, OTHER = ("natural", 0), ("ad", 1)


class Clock:
    """Calls a watch once a second; the ends are as fresh as the call unless stated."""

    def __init__(self) -> None:
        self.watch, self.now = StallWatch(wall=lambda: 1_700_000_000.0), 100.0
        self.sentence: str | None = None
        self.positions: dict[tuple[str, int], int | None] = {KEY: 10, OTHER: 5}

    def run(
        self,
        seconds: int,
        *,
        has_room: bool = True,
        is_read: bool = True,
        old_s: float = 0.0,
        ends: Any = None,
    ) -> list[tuple[int, str]]:
        """Seconds at which a reason was given, and the reasons."""
        found = []
        ends = ends or {KEY: 20, OTHER: 5}
        for second in range(1, seconds + 1):
            self.now += 1
            reported = dict.fromkeys(ends, self.now - old_s)
            reason = self.watch.check(
                self.now,
                ends,
                reported,
                lambda *key: self.positions.get(key),
                lambda *_: has_room,
                lambda *_: is_read,
            )
            self.sentence = self.watch.sentence(self.now)
            if reason is not None:
                found.append((second, reason))
        return found


def test_a_partition_that_is_not_read_for_ten_seconds_is_named_and_the_time_doubles():
    clock = Clock()
    found = clock.run(75)
    assert [second for second, _ in found] == [11, 31, 71]
    assert "natural[0] (read up to 10, ends at 20)" in found[0][1]
    assert "ad[1]" not in found[0][1]


def test_a_position_that_moves_is_not_a_stall():
    clock = Clock()
    for at in range(10, 20):
        clock.positions[KEY] = at
        assert clock.run(9) == []


def test_a_full_buffer_old_ends_and_an_unknown_partition_are_not_stalls():
    clock = Clock()
    assert clock.run(30, has_room=False) == []
    assert clock.run(30, is_read=False) == []
    assert clock.run(30, old_s=10.0) == []
    assert len(clock.run(12)) == 1


def test_after_records_have_come_the_first_time_applies_again():
    clock = Clock()
    assert len(clock.run(31)) == 2
    clock.positions[KEY] = 20
    assert clock.run(2) == []
    assert [second for second, _ in clock.run(12, ends={KEY: 30})] == [11]


def test_case_a2_a_partition_that_is_silent_for_thirty_seconds_is_reported_however_often_the_consumer_is_new():
    clock = Clock()
    clock.run(30)
    assert clock.sentence is None
    clock.run(3)
    said = "natural[0] has delivered nothing for 32 s (since 22:12:48 UTC), although 10 records wait there"
    assert clock.sentence == said
    clock.run(5, is_read=False)  # there is no consumer at the moment
    assert clock.sentence is not None and "for 37 s" in clock.sentence
    clock.run(9, ends={KEY: 30, OTHER: 500})
    assert clock.sentence is not None and clock.sentence.startswith("natural[0]")
    clock.run(31, ends={KEY: 30, OTHER: 500})
    assert clock.sentence is not None
    assert clock.sentence.startswith("ad[1]") and clock.sentence.endswith("; so have 1 more partitions")
    clock.positions[KEY], clock.positions[OTHER] = 11, 500
    clock.run(1, ends={KEY: 30, OTHER: 500})
    assert clock.sentence is None


def test_a_full_buffer_and_old_ends_are_not_reported():
    clock = Clock()
    for options in ({"has_room": False}, {"old_s": 10.0}):
        clock.run(60, **options)
        assert clock.sentence is None
        clock.run(25)
        assert clock.sentence is None


def test_a_new_partition_that_is_not_read_is_reported_and_is_no_reason_for_a_new_consumer():
    clock = Clock()
    assert clock.run(40, has_room=False, ends={("natural", 7): 20}) == []
    assert clock.sentence is not None and "natural[7] has delivered nothing" in clock.sentence
