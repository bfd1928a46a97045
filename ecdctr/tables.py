"""Figures by event day, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_days"]


def print_days(out: Console, result: dict[str, Any]) -> None:
    """One line a UTC day and arm of the ads: GAUC with its coverage, AUC, log loss, NE, PCOC; fits 80 columns.

    Parameters
    ----------
    out
        Where to.
    result
        Of :func:`ecdctr.replay.figures.evaluate`.
    """
    table = Table(
        "day", "arm", "rows", "GAUC", "covered", "AUC", "log loss", "NE", "PCOC", box=None, pad_edge=False
    )
    for day in result["days"].get("ad", ()):
        for i, (arm, f) in enumerate(a for a in day["arms"].items() if a[0] != "oracle"):
            table.add_row(
                day["day"] if i == 0 else "", arm, f"{f['n']:,}" if i == 0 else "",
                f"{f['gauc']:.4f}", f"{f['impression_coverage']:.0%}", f"{f['auc']:.4f}",
                f"{f['log_loss']:.4f}", f"{f['normalized_entropy']:.3f}", f"{f['pcoc']:.3f}",
            )  # fmt: skip
    if table.row_count:
        out.print(table)
