"""Types of the drift section in ``Monitor.snapshot``. Undefined values are None."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["DetectorState", "DriftFigures", "DriftRow", "DriftTable", "ReferenceInfo"]

ReferenceInfo = TypedDict(
    "ReferenceInfo",
    {"name": str, "from": int | None, "until": int | None, "rows": dict[str, int], "ready": bool},
)
"""The reference: event time that it covers (ms) and rows by domain; ``ready`` is False while it is being collected."""


class DriftRow(TypedDict):
    """One row of the drift table.

    ``what`` is the kind of comparison (``feature``, ``label``, ``prediction``, ``behaviour``), ``name`` the feature or arm, ``domain``
    is ``natural``, ``ad`` or ``both``. ``effect`` 1 is the threshold from which a significant change is drift;
    ``q_value`` is the Benjamini-Hochberg adjusted ``p_value``. ``moved``: the change is drift, that is significant and at least as large as the
    threshold; ``since`` (event time, ms) is None otherwise. ``description``: the size of the change in words; ``said`` is its old name, for one version.
    """

    what: str
    name: str
    domain: str
    effect: float | None
    psi: float | None
    js: float | None
    p_value: float | None
    q_value: float | None
    moved: bool
    since: int | None
    description: str
    said: str


class DetectorState(TypedDict):
    """One sequential detector on one signal (``log_loss``, ``pcoc``, ``ctr``): changes that it found, event time of the last one (ms),
    and the newest point of the signal, in standard deviations."""

    domain: str
    arm: str
    signal: str
    detector: str
    changes: int
    last: int | None
    level: float


class DriftTable(TypedDict):
    """The reference, event time of the last comparison with it (ms), and its table, largest effect first."""

    reference: ReferenceInfo
    evaluated_at: int | None
    table: list[DriftRow]


class DriftFigures(DriftTable):
    """The drift table and the sequential detectors."""

    detectors: list[DetectorState]
