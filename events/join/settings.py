"""``JoinSettings``: windows, allowances and bounds of the join of impressions and clicks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ecdctr.events.time import check_above_zero, duration_ms
from ecdctr.state.settings import Section

__all__ = ["JoinSettings"]

_LENGTH = r"^\d+(ms|s|m|h|d)$"
Length = Annotated[str, Field(pattern=_LENGTH)]
"""A duration in event time."""
LengthAboveZero = Annotated[str, Field(pattern=_LENGTH), AfterValidator(check_above_zero)]


class JoinSettings(Section):
    """How impressions and clicks that arrive apart become labelled rows; docs/join.md explains each rule.

    >>> JoinSettings(ad_window="1h").windows_ms
    (600000, 3600000)
    """

    natural_window: LengthAboveZero = Field(
        default="10m", description="A natural impression without a click for this long is a negative."
    )
    ad_window: LengthAboveZero = Field(
        default="30m", description="An ad impression without a click for this long is a negative."
    )
    lateness: Length = Field(
        default="1m",
        description="How far the events of a partition may be out of order; later ones count as of the watermark.",
    )
    skew: Length = Field(
        default="30s",
        description="How far a click's time may be before its impression's, because the clocks of two producers differ.",
    )
    early_hold: LengthAboveZero = Field(
        default="10m", description="How long a click waits for an impression that has not been read yet."
    )
    remember: LengthAboveZero = Field(
        default="1d",
        description="How long a labelled impression is remembered, to recognise duplicates and to count late clicks.",
    )
    idle_after: LengthAboveZero = Field(
        default="1m",
        description="A partition that delivers nothing for this long (clock of the process) no longer holds the watermark back.",
    )
    late_clicks: Literal["drop", "correct", "early"] = Field(
        default="drop",
        description="What follows from a click after its window. drop: it is counted. correct: a positive row is added, with sample "
        "weights. early: every impression is a negative at once, every click adds a positive row, with sample weights.",
    )
    tick: LengthAboveZero = Field(
        default="10s", description="Grid of event time on which rows are emitted and bounds are applied."
    )
    max_pending: int = Field(
        default=10_000_000,
        ge=1,
        description="Most impressions that wait for a click; beyond it, the window of the oldest is cut short.",
    )
    max_early: int = Field(
        default=1_000_000,
        ge=1,
        description="Most clicks that wait for their impression; beyond it, the oldest are dropped.",
    )
    max_closed: int = Field(
        default=20_000_000,
        ge=1,
        description="Most labelled impressions that are remembered; beyond it, the oldest are forgotten.",
    )

    @property
    def windows_ms(self) -> tuple[int, int]:
        """Windows by domain number (0 natural, 1 ad), ms."""
        return duration_ms(self.natural_window), duration_ms(self.ad_window)
