"""Months of TPM, in event time (UTC)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import NamedTuple

from ecdctr.events.time import DAY_MS
from ecdctr.models.settings import TpmSettings

__all__ = ["Month", "month_of"]


class Month(NamedTuple):
    """A month contains the event times ``begin_ms <= ts < end_ms``; labels sort in the order of time."""

    label: str
    begin_ms: int
    end_ms: int


def month_of(ts_ms: int, settings: TpmSettings) -> Month:
    """The month that contains an event time.

    >>> month = month_of(1_766_620_800_000, TpmSettings())  # 2025-12-25
    >>> month.label, (month.end_ms - month.begin_ms) // 86_400_000
    ('2025-12', 31)
    >>> month_of(35 * 86_400_000, TpmSettings(month="30d")).label
    '1970-01-31'
    """
    if settings.month == "calendar":
        day = datetime.fromtimestamp(ts_ms // 1000, UTC).date().replace(day=1)
        following = date(day.year + day.month // 12, day.month % 12 + 1, 1)
        return Month(f"{day:%Y-%m}", _ms(day), _ms(following))
    length = int(settings.month[:-1]) * DAY_MS
    origin = _ms(date.fromisoformat(settings.month_origin))
    begin = origin + (ts_ms - origin) // length * length
    label = datetime.fromtimestamp(begin // 1000, UTC).date().isoformat()
    return Month(label, begin, begin + length)


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
