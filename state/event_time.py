"""Units of event time in milliseconds; row logs are divided by event day."""

from __future__ import annotations

__all__ = ["DAY_MS", "HOUR_MS"]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
