"""``ecdctr report compare A B``: is the second replay better, on identical rows?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ecdctr.replay.figures import ORACLE, ReplayResult, ScoredDays, evaluate
from ecdctr.replay.metrics import ROW_METRICS
from ecdctr.replay.report import (
    REPORT_FILES,
    Pair,
    Report,
    ReportMeta,
    is_report,
    read_report,
    scores_of,
    write_report,
)
from ecdctr.state.errors import DataError
from ecdctr.state.output_folder import OutputFolder

__all__ = ["compare_reports"]

_FIGURES = {"AUC": "auc"} | {metric.title: metric.name for metric in ROW_METRICS}


def compare_reports(out: Console, a: Path, b: Path, out_dir: Path, arm: str = "actr") -> dict[str, Any]:
    """Print each arm of A beside that of B, and write the report of one arm; return the figures by arm.

    1. Find the arms that both reports have.
    2. Where both folders hold scores of the same rows, compute GAUC of B minus GAUC of A on those rows, with its
       interval, paired over users.
    3. Write the page of one arm: A against B by day and by slice, and the calibration.
    """
    reports = {"A": read_report(a), "B": read_report(b)}
    with OutputFolder(out_dir, "ecdctr report compare").hold(
        REPORT_FILES, lambda path: is_report(path.parent)
    ):
        return _compare(out, (a, b), reports, out_dir, arm)


def _compare(
    out: Console, folders: tuple[Path, Path], reports: Mapping[str, Report], out_dir: Path, arm: str
) -> dict[str, Any]:
    a, b = folders
    for name, (folder, report) in zip(reports, zip((a, b), reports.values(), strict=True), strict=True):
        out.print(f"{name}  {folder}: {report['title']}", soft_wrap=True, highlight=False)
    totals = [report["result"]["totals"] for report in reports.values()]
    scores = (scores_of(a), scores_of(b))
    arms = _shared_arms(*totals)
    if not arms:
        raise DataError(f"the reports in {a} and {b} have no arm in common")
    found: dict[str, Any] = {}
    for name in arms:
        paired = _paired(scores[0], scores[1], name, out_dir)
        found[name] = None
        if paired is not None:
            result, left_out = paired
            found[name] = {"totals": result["totals"], "differences": result["differences"]}
            if name == arm:
                _write(out, out_dir, arm, reports, result, left_out)
    for domain in ("ad", "natural"):
        _table(out, domain, totals, found)
    if all(result is None for result in found.values()):
        out.print(
            "the two have not scored the same rows, or their scores were removed: no differences are computed",
            soft_wrap=True,
        )
    return found


def _shared_arms(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for domain in a:
        found |= dict.fromkeys(arm for arm in a[domain] if arm in b.get(domain, {}) and arm != ORACLE)
    return list(found)


def _paired(
    a: ScoredDays | None, b: ScoredDays | None, arm: str, folder: Path
) -> tuple[ReplayResult, tuple[int, int]] | None:
    """Figures on the common rows, and how many rows of each lie on days that differ."""
    if a is None or b is None:
        return None
    pair = Pair(a, b, arm)
    result = evaluate(pair, ["A", "B"], base="A", folder=folder)
    return (result, pair.left_out) if result["differences"] else None


def _write(
    out: Console,
    out_dir: Path,
    arm: str,
    reports: Mapping[str, Report],
    result: ReplayResult,
    left_out: tuple[int, int],
) -> None:
    source = "; ".join(f"{name}: {report['title']}" for name, report in reports.items())
    meta: ReportMeta = {"source": source}
    if any(left_out):
        meta["rejects"] = {
            f"of {name} on days that differ": n for name, n in zip("AB", left_out, strict=True) if n
        }
    page = write_report(out_dir, f"{arm}: B against A", result, meta)
    out.print(f"report of {arm}: {page}", soft_wrap=True)


def _table(out: Console, domain: str, totals: list[Any], found: Mapping[str, Any]) -> None:
    if not all(domain in side for side in totals):
        return
    out.print("ads" if domain == "ad" else domain)
    table = Table("", "", "rows", "GAUC", *_FIGURES, "GAUC B - A", "95%", box=None, pad_edge=False)
    for arm, result in found.items():
        if any(arm not in side[domain] for side in totals):
            continue
        paired = (
            result is not None and domain in result["totals"] and "B" in result["differences"].get(domain, {})
        )
        for name, side in zip("AB", totals, strict=True):
            f = result["totals"][domain][name] if paired else side[domain][arm]
            cells = [f"{f['n']:,}", *(_f(f.get(key)) for key in ("gauc", *_FIGURES.values()))]
            if name == "B" and paired:
                d = result["differences"][domain]["B"]
                cells += [f"{d['value']:+.4f}", f"{d['low']:+.4f} to {d['high']:+.4f}"]
            table.add_row(f"  {arm}" if name == "A" else "", name, *cells)
    out.print(table)


def _f(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
