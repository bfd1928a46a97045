"""Months in event time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.models.settings import TpmSettings
from ecdctr.models.tpm.months import month_of

TIMES = st.integers(946_684_800_000, 4_102_444_800_000)
KINDS = st.sampled_from(["calendar", "1d", "7d", "30d"])


@given(TIMES, KINDS)
@settings(derandomize=True)
def test_a_month_holds_its_times_and_is_followed_by_the_next(ts: int, kind: str) -> None:
    setting = TpmSettings(month=kind, month_origin="2023-04-27")
    month = month_of(ts, setting)
    assert month.begin_ms <= ts < month.end_ms
    following = month_of(month.end_ms, setting)
    assert following.begin_ms == month.end_ms
    assert following.label > month.label
    assert month_of(month.begin_ms, setting) == month


@pytest.mark.parametrize(
    ("day", "label", "days"),
    [("2024-02-29", "2024-02", 29), ("2025-12-31", "2025-12", 31), ("2026-01-01", "2026-01", 31)],
)
def test_calendar_months(day: str, label: str, days: int) -> None:
    ts = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
    month = month_of(ts + 3_600_000, TpmSettings())
    assert (month.label, (month.end_ms - month.begin_ms) // 86_400_000) == (label, days)
