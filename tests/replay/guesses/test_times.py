"""Forms of times are recognised by their values, and read as the replay reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from ecdctr.replay.guesses.findings import Found
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.guesses.times import find_time, readings
from ecdctr.replay.sources import TimeMap

START = datetime(2026, 3, 9, 22, 15, 30, tzinfo=UTC)
MOMENTS = [START + timedelta(minutes=37 * i) for i in range(60)]
MS = [round(m.timestamp() * 1000) for m in MOMENTS]


def profile(values, name="x"):
    return Profile(pl.Series(name, values))


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p",
        "%d/%b/%Y:%H:%M:%S +0000", "%Y%m%d%H%M%S", "%a %b %d %H:%M:%S %Y", "%Y年%m月%d日 %H:%M:%S", "%b %d, %Y %H:%M:%S", "%d-%m-%Y %H:%M:%S",
    ],
)  # fmt: skip
def test_texts_of_many_forms(form):
    found = readings(profile([m.strftime(form) for m in MOMENTS]))
    assert found[0].ms.to_list() == MS
    assert len(found) == 1


@pytest.mark.parametrize(("unit", "factor"), [("s", 1000), ("ms", 1), ("us", 0.001), ("ns", 0.000001)])
@pytest.mark.parametrize("kind", [int, str])
def test_the_size_of_a_number_gives_its_unit(unit, factor, kind):
    (found,) = readings(profile([kind(round(ms / factor)) for ms in MS]))
    assert isinstance(found.spec, TimeMap)
    assert found.spec.unit == unit
    assert found.ms.to_list() == MS


@pytest.mark.parametrize(
    ("form", "step"),
    [("%y%m%d%H", 3_600_000), ("%Y%m%d%H", 3_600_000), ("%Y%m%d", 86_400_000), ("%Y%m%d%H%M", 60_000)],
)
def test_digits_of_a_date_are_not_a_number(form, step):
    (found,) = readings(profile([int(m.strftime(form)) for m in MOMENTS]))
    assert found.ms.to_list() == [ms // step * step for ms in MS]


def test_day_and_month_are_told_by_the_order_of_the_rows():
    days = [
        datetime(2026, 4, 1, 12, tzinfo=UTC) + timedelta(hours=9 * i) for i in range(25)
    ]  # no day beyond the 12th
    (found,) = readings(profile([f"{d:%d/%m/%Y %H:%M}" for d in days]))
    assert isinstance(found.spec, TimeMap)
    assert found.spec.format == "%d/%m/%Y %H:%M"
    assert "can also be read as %m/%d/%Y %H:%M" in (found.look or "")


@pytest.mark.parametrize(
    "values",
    [
        [12.5, 3.7, 8.1],
        [1, 2, 3],
        ["abc", "d1e2", "x"],
        [5 * 10**12 + i for i in (5, 1, 9)],
        [None, None, None],
    ],
)
def test_other_values_are_no_times(values):
    assert readings(profile(values * 20, "x")) == []


def test_the_time_of_a_click_is_not_the_event_time():
    columns = [
        profile([ms + 5000 if i % 4 == 0 else None for i, ms in enumerate(MS)], "click_time"),
        profile([1_500_000_000 + 977 * (i * 7919 % 60) for i in range(60)], "birth_ts"),
        profile(MS, "served"),
    ]
    found = Found()
    time = find_time(columns, found)
    assert time is not None
    assert time.profile.name == "served"
