"""Figures of a replay as tables for the terminal."""

from __future__ import annotations

from math import isfinite
from typing import Any

from rich.console import Console
from rich.table import Table

from ecdctr.replay.figures import ReplayResult
from ecdctr.replay.metrics import ROW_METRICS

__all__ = ["print_days", "print_totals"]


def _figure(value: Any, digits: int) -> str:
    """A figure; a dash where it is undefined."""
    return f"{value:.{digits}f}" if value is not None and isfinite(value) else "–"


def print_days(out: Console, result: ReplayResult) -> None:
    """Print the ads' figures, one line a UTC day and arm: GAUC with its coverage, AUC, log loss, NE, PCOC; fits 80 columns."""
    table = Table(
        "day", "arm", "rows", "GAUC", "covered", "AUC", "log loss", "NE", "PCOC", box=None, pad_edge=False
    )
    for day in result["days"].get("ad", ()):
        for i, (arm, f) in enumerate(a for a in day["arms"].items() if a[0] != "oracle"):
            table.add_row(
                day["day"] if i == 0 else "", arm, f"{f['n']:,}" if i == 0 else "",
                _figure(f["gauc"], 4), f"{f['impression_coverage']:.0%}", _figure(f["auc"], 4),
                _figure(f["log_loss"], 4), _figure(f["normalized_entropy"], 3), _figure(f["pcoc"], 3),
            )  # fmt: skip
    if table.row_count:
        out.print(table)


def print_totals(out: Console, result: ReplayResult, title: str | None = None) -> None:
    """Print one table a domain with one line an arm, and the differences to the base; fits 80 columns."""
    if title:
        out.print(title)
    for domain, arms in result["totals"].items():
        first = next(iter(arms.values()))
        out.print(
            f"{'ads' if domain == 'ad' else domain}: {first['n']:,} rows, {first['clicks']:,} clicks (CTR {first['ctr']:.2%}); "
            f"GAUC covers {first['user_coverage']:.1%} of {first['users_total']:,} users, {first['impression_coverage']:.1%} of rows",
            soft_wrap=True,
        )
        figures = {"GAUC": "gauc", "AUC": "auc", "per list": "list_auc"}
        figures |= {metric.title: metric.name for metric in ROW_METRICS}
        figures = {head: key for head, key in figures.items() if any(key in f for f in arms.values())}
        table = Table("", *figures, box=None, pad_edge=False)
        for arm, f in arms.items():
            table.add_row(f"  {arm}", *(_figure(dict(f).get(key), 4) for key in figures.values()))
        out.print(table)
        if not 0 < first["clicks"] < first["n"]:
            which = "no click" if not first["clicks"] else "nothing but clicks"
            out.print(f"  {which}: GAUC, AUC and NE are undefined")
        for arm, d in result["differences"][domain].items():
            if not isfinite(d["value"]):
                continue
            out.print(
                f"  GAUC {arm} - {result['base'][domain]}: {d['value']:+.4f} (95% {d['low']:+.4f} to {d['high']:+.4f})",
                soft_wrap=True,
            )
    if not result["totals"]:
        out.print("no row was scored: the models had not started to learn")
