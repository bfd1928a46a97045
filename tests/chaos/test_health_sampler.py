"""What counts as a lie of ``/healthz``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ecdctr.state.journals import Journal, JournalEntry
from ecdctr.state.positions import Part
from tests.chaos import health
from tests.chaos.health import HealthSampler


class World:
    """A clock, a log and a journal of one partition, and what ``/healthz`` answers."""

    def __init__(self, folder) -> None:
        self.now = 100.0
        self.came_at: list[float] = []
        self.answer: dict | None = None
        self.journal = Journal(folder / "journal")
        self.sampler = HealthSampler(0, folder / "journal", self)
        self.sampler._ask = lambda: self.answer

    def waiting(self, positions):
        first = positions.get(("ads", 0), 0)
        left = self.came_at[first:]
        return len(left), self.now - left[0] if left else 0.0

    def learn(self, first: int, end: int, step: int) -> None:
        self.journal.append(JournalEntry(step, "ad", (Part("ads", 0, first, end),), clock=step))

    def after(self, seconds: float) -> int:
        """Number of lies after one more look."""
        self.now += seconds
        self.sampler._sample()
        return len(self.sampler.lies)


@pytest.fixture
def world(tmp_path, monkeypatch):
    made: list[World] = []
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: made[0].now if made else 100.0))
    made.append(World(tmp_path))
    yield made[0]
    made[0].journal.close()


def test_ok_without_a_step_while_records_wait_is_a_lie_after_twenty_seconds(world):
    world.came_at = [100.0, 100.0]
    world.answer = {"http": 200, "status": "ok", "lag_records": 2}
    assert world.after(0) == world.after(20) == 0
    assert world.after(1) == 1
    world.learn(0, 1, 0)
    assert world.after(1) == 1, "it has made a step"
    assert world.after(20) == 1
    assert world.after(1) == 2
    world.answer = {"http": 200, "status": "waiting_for_broker", "lag_records": 2}
    assert world.after(60) == 2, "it says so"
    world.answer = {"http": 200, "status": "ok", "lag_records": 2}
    assert world.after(1) == 2, "it has just begun to say that all is well"
    assert world.after(21) == 3


def test_a_lag_of_zero_is_a_lie_when_records_have_waited_for_ten_seconds(world):
    world.came_at = [100.0]
    world.answer = {"http": 503, "status": "stalled", "lag_records": 0}
    assert world.after(10) == 0
    assert world.after(1) == 1
    world.answer = {"http": 503, "status": "stalled", "lag_records": None}
    assert world.after(1) == 1, "not known"
    world.answer = {"http": 503, "status": "stalled", "lag_records": 1}
    assert world.after(1) == 1
    world.answer = None
    assert world.after(100) == 1, "no answer"


def test_the_longest_time_without_a_step_counts_only_while_records_wait(world):
    world.after(50)
    assert world.sampler.longest_without_step_s == 0
    world.came_at = [world.now]
    world.after(5)
    world.learn(0, 1, 0)
    world.after(40)
    assert world.sampler.longest_without_step_s == 5
