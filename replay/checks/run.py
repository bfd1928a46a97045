"""The checks of a replay: signs that its figures cannot be trusted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ecdctr.replay.checks.day_check import DayFinding
from ecdctr.replay.checks.leakage import Finding

__all__ = ["Check", "CheckResult", "checks"]


class CheckResult(TypedDict):
    """A :class:`Check` as plain data."""

    name: str
    ok: bool | None
    text: str


@dataclass(frozen=True)
class Check:
    """One check and its result.

    Attributes
    ----------
    name
        The property that is checked.
    ok
        Whether it holds; None: this cannot be decided.
    text
        The finding.
    """

    name: str
    ok: bool | None
    text: str

    def plain(self) -> CheckResult:
        return {"name": self.name, "ok": self.ok, "text": self.text}


def checks(
    days: Sequence[DayFinding], features: Sequence[Finding], stragglers: int, months: Sequence[str]
) -> list[Check]:
    """Run all checks: scored before learned, event order, no feature that reveals the label, no snapshot from the future.

    Parameters
    ----------
    days, features
        Findings of :class:`DayCheck` and :class:`FeatureProbe`.
    stragglers
        Rows that came later than the log's window allows.
    months
        TPM snapshots that were read. A row that reads a snapshot younger than itself ends the replay with an error.
    """
    return [_scored_first(days), _in_order(stragglers), _features(features), _snapshots(months)]


def _scored_first(days: Sequence[DayFinding]) -> Check:
    name = "scored before learned"
    bad = [d for d in days if d.suspicious]
    if not days:
        return Check(name, None, "no day has scored rows of an arm that learns")
    if bad:
        where = ", ".join(sorted({f"{_date(d.day)} ({d.arm})" for d in bad}))
        return Check(
            name,
            False,
            f"training on the day changed no prediction of its rows: {where}. They were scored after they were learned, or "
            "nothing was learned",
        )
    rows = sum(d.rows for d in days)
    before, after = (sum(d.rows * getattr(d, side) for d in days) / rows for side in ("before", "after"))
    return Check(
        name,
        True,
        f"{len({d.day for d in days})} days, {rows:,} rows scored again at the end of their day: log loss {before:.4f} "
        f"before learning, {after:.4f} after",
    )


def _in_order(stragglers: int) -> Check:
    name = "rows are in the order of time"
    if not stragglers:
        return Check(name, True, "no row came later than the log's window allows")
    return Check(
        name,
        False,
        f"{stragglers:,} rows came later than the log's window allows and were learned late (?window=1h widens it)",
    )


def _features(found: Sequence[Finding]) -> Check:
    name = "no feature reveals the label"
    bad = [f for f in found if f.suspicious]
    if bad:
        named = ", ".join(f"{f.feature} on {f.domain} rows (AUC {f.auc:.3f})" for f in bad)
        return Check(
            name,
            False,
            f"alone, nearly perfect: {named}. Is it known before the click? If not, take it out of the features",
        )
    if not found:
        return Check(name, None, "no rows were read")
    best = found[0]
    return Check(name, True, f"the strongest alone: {best.feature} on {best.domain} rows, AUC {best.auc:.3f}")


def _snapshots(months: Sequence[str]) -> Check:
    name = "no TPM snapshot from the future"
    read = f"read: {', '.join(months)}; each older than every row that read it" if months else "none was read"
    return Check(name, True, read)


def _date(day: int) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
