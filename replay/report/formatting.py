"""How the report writes arms, figures and lengths of time."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from ecdctr.replay.metrics import ROW_METRICS

__all__ = ["arm_name", "duration", "metric_heads", "metrics", "number", "percent", "signed"]

_ARM_NAMES = {
    "actr": "A-CTR",
    "ads_only": "ads-only",
    "cpm": "CPM",
    "cpm_only": "CPM only",
    "mixed_tpm": "mixed + TPM",
    "ads_tpm": "ads + TPM",
    "item_ctr": "item CTR",
}


def arm_name(arm: str) -> str:
    """The arm's name in reports, safe for HTML."""
    return escape(_ARM_NAMES.get(arm, arm))


def number(value: float, digits: int = 4) -> str:
    """A figure; a dash where it is not finite.

    >>> number(0.5), number(float("nan"))
    ('0.5000', '–')
    """
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"{value:+.4f}".replace("-", "−") if math.isfinite(value) else "–"


def percent(value: float) -> str:
    """A share as per cent."""
    return f"{value:.1%}" if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """A length of time: seconds, or from two minutes on ``h:mm:ss``."""
    return f"{seconds:.1f} s" if seconds < 120 else str(dt.timedelta(seconds=round(seconds)))


def metric_heads() -> list[str]:
    """Column heads of :data:`ecdctr.replay.metrics.ROW_METRICS`."""
    return [metric.title[0].upper() + metric.title[1:] for metric in ROW_METRICS]


def metrics(figures: Mapping[str, Any]) -> list[str]:
    """The cells below :func:`metric_heads`."""
    return [number(figures[metric.name], metric.decimals) for metric in ROW_METRICS]
