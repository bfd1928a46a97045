"""``Progress``: counters of a running engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Progress"]


@dataclass
class Progress:
    """Counters of a running engine; those in ``durable()`` are part of the checkpoint."""

    rows: dict[str, int] = field(default_factory=lambda: {"natural": 0, "ad": 0})
    skipped_rows: int = 0
    releases: int = 0
    released: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    """Event clocks (ms) of the releases that were accepted, and of those that the gate refused."""
    checkpoints: int = 0
    checkpoint_failures: int = 0
    last_error: str | None = None
    busy: str | None = None
    """What the trainer does for longer than a step takes: a CPM release."""
    stall_s_max: float = 0.0

    def durable(self) -> dict[str, Any]:
        return {
            "rows": dict(self.rows),
            "skipped_rows": self.skipped_rows,
            "releases": self.releases,
            "released": list(self.released),
            "refused": list(self.refused),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.rows = {k: int(v) for k, v in saved["rows"].items()}
        self.skipped_rows = int(saved["skipped_rows"])
        self.releases = int(saved["releases"])
        self.released = list(saved.get("released", ()))
        self.refused = list(saved.get("refused", ()))
