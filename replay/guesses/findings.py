"""Findings: what was decided about a log, how sure it is, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Confidence", "Finding", "Found"]

Confidence = Literal["sure", "likely", "guess"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One decision.

    Attributes
    ----------
    what
        What was decided: ``time``, ``user``, ``left out``, ...
    column
        The column or columns; empty if it concerns the whole log.
    decision
        How it is used.
    confidence
        ``sure``: name and values agree; ``likely``: one of them says so; ``guess``: nothing contradicts it.
    why
        The evidence, as one sentence without its full stop.
    look
        What a person should check; None: nothing.
    """

    what: str
    column: str
    decision: str
    confidence: Confidence
    why: str
    look: str | None = None


@dataclass(eq=False)
class Found:
    """The findings in the order in which they were made."""

    all: list[Finding] = field(default_factory=list)

    def add(
        self,
        what: str,
        column: str,
        decision: str,
        confidence: Confidence,
        why: str,
        look: str | None = None,
    ) -> None:
        """Add one."""
        self.all.append(Finding(what, column, decision, confidence, why, look))

    def of(self, what: str) -> list[Finding]:
        """Those of one kind."""
        return [finding for finding in self.all if finding.what == what]
