"""Types of the quality metrics in ``Monitor.snapshot``. Undefined metrics are None."""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = [
    "ArmFigures",
    "ArmSeries",
    "DomainSeriesFigures",
    "ForgettingFigures",
    "Interval",
    "ProbeCurve",
    "ProbePeriod",
    "SeriesFigures",
    "StalenessFigure",
    "TransferFigures",
    "WindowFigures",
]

Column = list[float | None]


class ArmFigures(TypedDict):
    """One arm in one window.

    The true AUC always lies within ``auc +- auc_error``. The true GAUC lies within ``gauc +- gauc_error`` in 95 of 100 windows; 0: the
    value is exact, because it is computed from the rows of all users. ``gauc_users``: users with both clicks and non-clicks.
    """

    rows: int
    clicks: int
    ctr: float
    log_loss: float
    ne: float | None
    pcoc: float | None
    auc: float | None
    auc_error: float | None
    gauc: float | None
    gauc_error: float | None
    gauc_users: int


class WindowFigures(TypedDict):
    """One domain in one window of event time.

    ``rows_per_s`` is per second of event time. ``late``: rows that arrived late. ``unseen_users`` and ``unseen_items``: shares of rows
    whose user or item occurred for the first time. ``tpm_share``: share of rows whose user has TPM vectors.
    """

    rows: int
    rows_per_s: float
    clicks: int
    ctr: float | None
    late: int
    unseen_users: float | None
    unseen_items: float | None
    tpm_share: float | None
    arms: dict[str, ArmFigures]


class ArmSeries(TypedDict):
    """One arm over time, one value per slot; ``gauc`` and ``auc`` exist from slots of one hour upwards."""

    rows: list[int | None]
    log_loss: Column
    ne: Column
    pcoc: Column
    gauc: Column
    auc: Column


class DomainSeriesFigures(TypedDict):
    """One domain over time, one value per slot."""

    rows: list[int | None]
    ctr: Column
    late: list[int | None]
    arms: dict[str, ArmSeries]


class SeriesFigures(TypedDict):
    """Both domains over time; ``t``: ends of the slots (ms), oldest first. All columns have the length of ``t``."""

    t: list[int]
    natural: DomainSeriesFigures
    ad: DomainSeriesFigures


class Interval(TypedDict):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class TransferFigures(TypedDict):
    """A-CTR minus the ads-only control on the ad rows of the last ``days`` days.

    ``users``: users that enter the GAUC difference. ``log_loss`` below 0 means that A-CTR is better.
    """

    rows: int
    users: int
    days: int
    gauc: Interval | None
    log_loss: Interval | None
    verdict: Literal["better", "worse", "undecided"]


ProbePeriod = TypedDict("ProbePeriod", {"period": str, "domain": str, "from": int, "until": int, "rows": int})
"""A probe slice: name (UTC date), domain, event time that it covers (ms), and its rows."""


class ProbeCurve(TypedDict):
    """Scores of one slice by one arm at each checkpoint; ``transfer``: GAUC now minus GAUC when the period ended."""

    period: str
    domain: str
    arm: str
    clock: list[int]
    gauc: Column
    log_loss: Column
    transfer: Column


class StalenessFigure(TypedDict):
    """GAUC of users last learned ``days[0]`` to ``days[1]`` days ago (None: no upper end), with or without TPM vectors."""

    arm: str
    history: Literal["all", "with", "without"]
    days: tuple[int, int | None]
    rows: int
    gauc: float | None


class ForgettingFigures(TypedDict):
    """Probe slices, their curves, and quality by staleness."""

    periods: list[ProbePeriod]
    curves: list[ProbeCurve]
    staleness: list[StalenessFigure]
