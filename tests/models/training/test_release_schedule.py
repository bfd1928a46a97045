"""Releases in event time."""

from __future__ import annotations

from typing import Any

import pytest

from ecdctr.events.time import duration_ms
from ecdctr.models.settings import ScheduleSettings
from ecdctr.models.training.release_schedule import ReleaseSchedule

HOUR = 3_600_000


def run(settings: ScheduleSettings, hours: list[int]) -> list[tuple[int, int]]:
    """``(hour, boundary)`` of every release; the schedule is queried after natural rows of each hour."""
    schedule, out = ReleaseSchedule(settings), []
    for hour in hours:
        schedule.observe(hour * HOUR, hour * HOUR)
        due = schedule.due(hour * HOUR)
        if due is not None:
            schedule.done(due)
            out.append((hour, due // HOUR))
        # Saved and loaded as JSON each hour: the JSON is the whole state.
        schedule, saved = ReleaseSchedule(settings), schedule.to_json()
        schedule.load(saved)
    return out


@pytest.mark.parametrize(
    ("changes", "hours", "expected"),
    [
        ({}, list(range(10, 60)), [(16, 16), (28, 28), (40, 40), (52, 52)]),
        ({"releases": "once"}, list(range(10, 60)), [(16, 16)]),
        ({"releases": "never"}, list(range(10, 60)), []),
        ({}, [10, 15, 17, 45, 46, 53], [(17, 16), (45, 40), (53, 52)]),
        ({}, [10, 9, 15], []),
    ],
)
def test_boundaries(changes: dict[str, Any], hours: list[int], expected: list[tuple[int, int]]) -> None:
    settings = ScheduleSettings(**({"release_every": "12h", "first_release_after": "6h"} | changes))
    assert run(settings, hours) == expected


def test_only_natural_rows_cross_a_boundary() -> None:
    schedule = ReleaseSchedule(ScheduleSettings(release_every="1d", first_release_after="6h"))
    assert schedule.due(1000 * HOUR) is None
    schedule.observe(0, 5 * HOUR)
    assert schedule.due(1000 * HOUR) is None


@pytest.mark.parametrize(("text", "ms"), [("5m", 300_000), ("2h", 2 * HOUR), ("7d", 168 * HOUR)])
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text) == ms
