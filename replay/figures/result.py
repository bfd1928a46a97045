"""``ReplayResult``: the figures of a replay as typed plain data, ready for JSON."""

from __future__ import annotations

from typing import NotRequired, TypedDict

__all__ = ["ArmFigures", "Calibration", "DayFigures", "Difference", "ReplayResult", "SliceFigures"]


class _Coverage(TypedDict):
    users: int
    users_total: int
    impressions: int
    impressions_total: int
    user_coverage: float
    impression_coverage: float


class ArmFigures(_Coverage):
    """Figures of one arm on one set of rows; see :func:`ecdctr.replay.metrics.summary` for each of them.

    ``gauc_low`` and ``gauc_high`` bound GAUC (95 %, bootstrap over users). The list figures are there where the rows name
    their impression lists.
    """

    n: int
    clicks: int
    ctr: float
    gauc: float
    auc: float
    log_loss: float
    normalized_entropy: float
    pcoc: float
    list_auc: NotRequired[float]
    lists: NotRequired[int]
    lists_total: NotRequired[int]
    gauc_low: float
    gauc_high: float


class Difference(TypedDict):
    """GAUC of an arm minus GAUC of the base: the value, its bounds (95 %, paired over users), and RelaImpr."""

    value: float
    low: float
    high: float
    rela_impr: float


class DayFigures(TypedDict):
    """The ``n`` rows of one UTC day (``YYYY-MM-DD``), by arm."""

    day: str
    n: int
    arms: dict[str, ArmFigures]
    differences: dict[str, Difference]


class Calibration(TypedDict):
    """Mean prediction, observed CTR and number of rows of twenty groups of equally many rows, by ascending prediction."""

    predicted: list[float]
    observed: list[float]
    rows: list[int]


class SliceFigures(_Coverage):
    """Figures of one arm on the rows with one value of a slice, see :data:`ecdctr.replay.figures.slices.BUILT_IN`.

    ``difference``, ``low`` and ``high`` compare GAUC with the base and are None for the base itself. A figure that cannot be
    computed is None.
    """

    slice: str
    value: str
    domain: str
    arm: str
    n: int
    clicks: int
    ctr: float | None
    gauc: float | None
    auc: float | None
    log_loss: float | None
    normalized_entropy: float | None
    pcoc: float | None
    gauc_low: float | None
    gauc_high: float | None
    difference: float | None
    low: float | None
    high: float | None


class ReplayResult(TypedDict):
    """Every figure of a replay.

    Domains are "natural" and "ad"; one without scored rows is absent. Where the true probabilities are known, the
    arm ``oracle`` stands beside the others.

    Attributes
    ----------
    arms
        Names of the arms, in the order of the report.
    base
        By domain, the arm that the others are compared with.
    left_out
        By domain, the rows that only some of the arms scored.
    totals, differences
        By domain and arm, over all days.
    days
        By domain, oldest first.
    calibration
        By domain and arm.
    slices
        One entry a slice, value, domain and arm.
    """

    arms: list[str]
    base: dict[str, str]
    left_out: dict[str, int]
    totals: dict[str, dict[str, ArmFigures]]
    differences: dict[str, dict[str, Difference]]
    days: dict[str, list[DayFigures]]
    calibration: dict[str, dict[str, Calibration]]
    slices: list[SliceFigures]
