"""When a consumer is built again: records wait, there is room, the brokers answer, and nothing comes."""

from __future__ import annotations

from typing import Any

from ecdctr.streams.intake import StallWatch

KEY, OTHER = ("natural", 0), ("ad", 1)


class Clock:
    """Calls a watch once a second; the ends are as fresh as the call unless stated."""

    def __init__(self) -> None:
        self.watch, self.now = StallWatch(), 100.0
        self.positions: dict[tuple[str, int], int | None] = {KEY: 10, OTHER: 5}

    def run(
        self, seconds: int, *, could_read: bool = True, old_s: float = 0.0, ends: Any = None
    ) -> list[tuple[int, str]]:
        """Seconds at which a reason was given, and the reasons."""
        found = []
        ends = ends or {KEY: 20, OTHER: 5}
        for second in range(1, seconds + 1):
            self.now += 1
            reported = dict.fromkeys(ends, self.now - old_s)
            reason = self.watch.check(
                self.now, ends, reported, lambda *key: self.positions.get(key), lambda *_: could_read
            )
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
    assert clock.run(30, could_read=False) == []
    assert clock.run(30, old_s=10.0) == []
    assert clock.run(30, ends={("natural", 7): 20}) == []
    assert len(clock.run(12)) == 1


def test_after_records_have_come_the_first_time_applies_again():
    clock = Clock()
    assert len(clock.run(31)) == 2
    clock.positions[KEY] = 20
    assert clock.run(2) == []
    assert [second for second, _ in clock.run(12, ends={KEY: 30})] == [11]
