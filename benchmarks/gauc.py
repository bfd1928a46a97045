"""GAUC: equality with scikit-learn per user, and the speed-up.

    python benchmarks/gauc.py [--rows 10000000] [--users 200000] [--runs 3]

Scores are rounded so that ties are common. The loop over users with ``sklearn.metrics.roc_auc_score`` is timed on a subset
of 200,000 rows (complete users, drawn at random) and scaled by rows, so its time for all rows is an estimate. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from ecdctr.commands.peak_memory import peak_mib
from ecdctr.replay.metrics import gauc

PART_ROWS = 200_000


def make(rows: int, users: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and users: activity with a long tail, scores of three digits, a third of the users with one class."""
    rng = np.random.default_rng(seed)
    user = (users * rng.random(rows) ** 2).astype(np.int64)
    user[:users] = np.arange(users)  # every user has a row
    p = np.round(rng.beta(2, 20, rows), 3).astype(np.float32)  # as score logs store them
    label = rng.random(rows) < p
    return label.astype(np.uint8), p, user


def by_sklearn(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> float:
    """The straightforward loop: AUC of each user with both classes, weighted by impressions."""
    order = np.argsort(user, kind="stable")
    y, p, user = y[order], p[order], user[order]
    edges = np.concatenate([[0], np.flatnonzero(np.diff(user)) + 1, [len(user)]])
    total = weight = 0.0
    for low, high in pairwise(edges.tolist()):
        labels = y[low:high]
        clicks = int(labels.sum())
        if 0 < clicks < high - low:
            total += roc_auc_score(labels, p[low:high]) * (high - low)
            weight += high - low
    return total / weight


def by_polars(frame: pl.DataFrame) -> float:
    """Ranks within users, then one ``group_by``."""
    clicks, n = pl.col("y").sum().cast(pl.Float64), pl.len().cast(pl.Float64)
    ranks = pl.col("p").rank("average").over("user")
    found = (
        frame.lazy()
        .with_columns(rank=ranks)
        .group_by("user")
        .agg(
            auc=((pl.col("rank") * pl.col("y")).sum() - clicks * (clicks + 1) / 2) / (clicks * (n - clicks)),
            n=n,
            both=(clicks > 0) & (clicks < n),
        )
        .filter("both")
        .select((pl.col("auc") * pl.col("n")).sum() / pl.col("n").sum())
        .collect()
    )
    return float(found.item())


def timed(works: dict[str, Callable[[], Any]], runs: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Results, and seconds of each run; the functions alternate, so that other load affects all of them alike."""
    results: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            began = time.perf_counter()
            results[name] = work()
            seconds[name].append(time.perf_counter() - began)
    return results, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="2,000,000 rows of 40,000 users")
    args = parser.parse_args()
    if args.short:
        args.rows, args.users = 2_000_000, 40_000
    y, p, user = make(args.rows, args.users)
    before = peak_mib()
    ours = gauc(y, p, user)
    peak = peak_mib()

    # Complete users, drawn at random, with as many rows per user as in all rows: the cost of the loop depends on both.
    drawn = np.random.default_rng(1).permutation(args.users)
    counts = np.bincount(user, minlength=args.users)[drawn].cumsum()
    part = np.isin(user, drawn[: np.searchsorted(counts, PART_ROWS) + 1])
    rows = int(part.sum())
    few = (y[part], p[part], user[part])
    frame = pl.DataFrame({"y": y, "p": p, "user": user})
    works = {
        "replay.gauc": lambda: gauc(y, p, user),
        "polars group_by": lambda: by_polars(frame),
        f"scikit-learn, {rows:,} rows": lambda: by_sklearn(*few),
    }
    results, runs = timed(works, args.runs)
    seconds, pl_seconds, sk_seconds = (statistics.median(r) for r in runs.values())
    _, pl_value, sk_value = results.values()
    difference = abs(gauc(*few).value - sk_value)
    scaled = sk_seconds * args.rows / rows

    print(
        f"{args.rows:,} rows, {args.users:,} users, {ours.users:,} with both classes; GAUC {ours.value:.12f}"
    )
    print(f"{'':28}{'seconds (median)':>18}{'rows/s':>14}   runs")
    lines = [(name, r, n) for (name, r), n in zip(runs.items(), (args.rows, args.rows, rows), strict=True)]
    for name, r, n in [*lines, ("scikit-learn, scaled", [scaled], args.rows)]:
        value, shown = statistics.median(r), " ".join(f"{s:.2f}" for s in r)
        print(f"{name:28}{value:18.2f}{n / value:14,.0f}   {shown}")
    print(
        f"difference to scikit-learn on the part: {difference:.1e}; to polars on the whole: {abs(ours.value - pl_value):.1e}"
    )
    print(f"memory: {before:,.0f} MiB with the data, {peak:,.0f} MiB peak while gauc ran")
    assert difference <= 1e-12, f"GAUC differs from scikit-learn by {difference}"
    summary = {
        "benchmark": "gauc",
        "rows": args.rows,
        "users": args.users,
        "part_rows": rows,
        "difference": difference,
        "seconds": round(seconds, 3),
        "seconds_polars": round(pl_seconds, 3),
        "seconds_sklearn_scaled": round(scaled, 1),
        "ratio_vs_sklearn": round(scaled / seconds, 1),
        "ratio_vs_polars": round(pl_seconds / seconds, 2),
        "data_mib": round(before),
        "peak_mib": round(peak),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
