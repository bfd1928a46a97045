"""Alert rules: raised once, resolved once, never repeated in between."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Alert"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A finding that somebody should act on.

    Attributes
    ----------
    key
        Names the rule and what it is about; the same while the alert lasts.
    rule, severity
        Of the configuration.
    what
        In a sentence.
    since_ms
        Event time from which the cause was there.
    raised_ms, resolved_ms
        Event time; ``resolved_ms`` None: still raised.
    value, limit
        How large, and what would have been well.
    cause
        Likely cause, in a sentence.
    """

    key: str
    rule: str
    severity: str
    what: str
    since_ms: int
    raised_ms: int
    value: float | None
    limit: float | None
    cause: str
    resolved_ms: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, with ``status`` ("raised" or "resolved")."""
        return {**asdict(self), "status": "raised" if self.resolved_ms is None else "resolved"}
