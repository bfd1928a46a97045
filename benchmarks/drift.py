"""Drift: simulated changes, and streams without any, as detected by the monitor, by Evidently's daily reports, and by river.

    python benchmarks/drift.py [--short | --seeds 20] [--evidently-python PYTHON | --no-evidently]

Streams come from the simulator: 2,000 users, 500 items, 4,000 natural and 2,000 ad rows a day. Seven days are the reference. Predictions
are the true probabilities before any change with noise (log-odds, sd 0.3): a good model that is unaware of the change. On day 9

- ``feature``  the distribution of one feature shifts: x by half a standard deviation, or a third of slots or of categories
  become one value (depending on the seed);
- ``prior``    clicks on ads double;
- ``segment``  in the largest category, clicks and non-clicks are swapped;
- ``nothing``  no change, for 30 days after the reference.

A change is found if there is an alert (a flagged column, a detector's change) for the right feature or signal within five days. Delays are
from the change to the alert in event time. Any alert on a stream without a change, and any alert before the change, is a false alarm. After
a change of clicks, alerts for other signals are not false alarms (every signal is affected), but only the strongest alert counts as found.

Evidently compares each day with the reference (DataDriftPreset, its defaults) and runs in a separate virtual environment; ids are left out
for it. Cost is compared in two ways: the drift code alone, run once a day like Evidently (``ratio_cost``), and the complete monitor with its
windows, detectors and eight comparisons a day (``ratio_cost_whole``). river: one ADWIN (default) each on x, label and log loss of each
domain, row by row. Costs are seconds over the same rows.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
import polars as pl
from river import drift as river_drift

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.time import DAY_MS
from ecdctr.monitor.drift import DriftWatch
from ecdctr.monitor.monitor import Monitor
from ecdctr.monitor.settings import DriftSettings, WatchSettings
from ecdctr.monitor.steps import ObservedStep
from ecdctr.replay.sources import Simulator

REFERENCE, CHANGE, WITHIN, UNCHANGED_DAYS = 7, 9, 5, 30
SLICE_MS = 3 * 3_600_000
SHIFTED = ("x", "slot", "category")
CASES = ("feature", "prior", "segment", "nothing")
WORKER = Path(__file__).with_name("_drift_evidently.py")


def planted(case: str, seed: int, frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """A day's rows with the simulated change."""
    n = frame.height
    if case == "feature":
        name = SHIFTED[seed % 3]
        if name == "x":
            spread = pl.when(pl.col("domain") == 1).then(0.6).otherwise(1.0)
            return frame.with_columns(x=pl.col("x") + 0.5 * spread)
        some = pl.Series(rng.random(n) < 1 / 3)
        return frame.with_columns(pl.when(some).then(3).otherwise(pl.col(name)).alias(name))
    if case == "prior":
        y = rng.random(n) < np.minimum(1.0, 2 * frame["oracle"].to_numpy())
        return frame.with_columns(
            label=pl.when(pl.col("domain") == 1)
            .then(pl.Series(y.astype(np.uint8)))
            .otherwise(pl.col("label"))
        )
    if case == "segment":
        turned = pl.col("category") == LARGEST[seed]
        return frame.with_columns(
            label=pl.when(turned).then(1 - pl.col("label")).otherwise(pl.col("label")).cast(pl.UInt8)
        )
    return frame


LARGEST: dict[int, int] = {}


def stream(case: str, seed: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Days with a column ``prediction``."""
    days = REFERENCE + UNCHANGED_DAYS if case == "nothing" else CHANGE + WITHIN
    sim = Simulator(
        seed, days=days, live_from=0, users=2_000, items=500, natural_per_day=4_000, ads_per_day=2_000
    )
    rng = np.random.Generator(np.random.Philox(seed))
    for day in range(days):
        frame = sim.day(day)
        if not day:
            LARGEST[seed] = int(frame["category"].mode()[0])
        p = frame["oracle"].to_numpy()
        z = np.log(p / (1 - p)) + rng.normal(0, 0.3, len(p))
        if day >= CHANGE:
            frame = planted(case, seed, frame, rng)
        yield day, frame.with_columns(prediction=pl.Series(1 / (1 + np.exp(-z))))


def right(case: str, seed: int) -> tuple[str, str]:
    """Kind and name of the feature or signal that changed."""
    return {
        "feature": ("feature", SHIFTED[seed % 3]),
        "prior": ("label", "label"),
        "segment": ("behaviour", "category"),
        "nothing": ("", ""),
    }[case]


@dataclass
class Tool:
    """Results of one tool on all streams."""

    seconds: float = 0.0
    rows: int = 0
    delays: dict[str, list[float]] = field(default_factory=lambda: {c: [] for c in CASES})
    runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CASES, 0))
    false: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CASES, 0))
    worst_unchanged: int = 0

    def count_unchanged(self, alarms: int) -> None:
        self.false["nothing"] += alarms
        self.worst_unchanged = max(self.worst_unchanged, alarms)

    def line(self, case: str) -> str:
        runs, d = self.runs[case], self.delays[case]
        if case == "nothing":
            return f"{self.false[case]} false alarms in {runs} x {UNCHANGED_DAYS} days, at most {self.worst_unchanged} in one"
        took = f"{statistics.median(d):5.1f} h, at most {max(d):5.1f} h" if d else "    -"
        return f"{len(d)} of {runs} found after {took}; {self.false[case]} alarms before the change"


def by_monitor(tool: Tool, case: str, seed: int) -> None:
    sim = Simulator(seed, days=1, live_from=0, users=2_000, items=500)
    specs = sim.feature_specs()
    decoder, schema = EventDecoder(specs), FeatureSchema(specs, 8)
    settings = WatchSettings(drift=DriftSettings(reference_length=f"{REFERENCE}d", compare_rows=1))
    monitor = Monitor(schema, settings)
    changed_at = sim.start_ms + CHANGE * DAY_MS
    alarms, found = 0, None
    for day, frame in stream(case, seed):
        batch = decoder.from_frame(frame).batch
        p = frame["prediction"].to_numpy().astype(np.float32)
        for first in range(sim.start_ms + day * DAY_MS, sim.start_ms + (day + 1) * DAY_MS, SLICE_MS):
            inside = (batch.ts >= first) & (batch.ts < first + SLICE_MS)
            parts = []
            for number, kind in enumerate(DOMAIN_NAMES):
                rows = np.flatnonzero(inside & (batch.domain == number))
                arm = ("cpm", "actr")[number]
                parts.append((kind, batch.take(rows), np.arange(len(rows)), {arm: p[rows]}))
            began = time.perf_counter()
            for kind, part, scored, scores in parts:
                monitor.observe([ObservedStep(kind, part, scored, scores, {}, 0.0)])
            events = [e for e in monitor.take_events() if e.resolved_ms is None]
            tool.seconds += time.perf_counter() - began
            for event in events:
                if case == "nothing" or event.raised_ms <= changed_at:
                    alarms += 1
                    continue
                table = monitor.drift.table
                strongest = (table[0].finding.what, table[0].finding.name) if table else ("", "")
                what, name = right(case, seed)
                hit = event.rule == f"{what}-drift" and event.key.split(":")[1] == name
                if found is None and hit and strongest == (what, name):
                    found = (event.raised_ms - changed_at) / 3_600_000
        tool.rows += len(batch)
    record(tool, case, found, alarms)


def record(tool: Tool, case: str, found: float | None, alarms: int) -> None:
    tool.runs[case] += 1
    if case == "nothing":
        tool.count_unchanged(alarms)
        return
    tool.false[case] += alarms
    if found is not None:
        tool.delays[case].append(found)


def by_day(tool: Tool, case: str, seed: int) -> None:
    """The drift code alone, run once a day like Evidently, for the comparison of costs."""
    specs = Simulator(seed, days=1, live_from=0, users=2_000, items=500).feature_specs()
    decoder, schema = EventDecoder(specs), FeatureSchema(specs, 8)
    settings = DriftSettings(reference_length=f"{REFERENCE}d", every="1d", compare_rows=1, natural_every=1)
    watch = DriftWatch(schema, settings)
    for _, frame in stream(case, seed):
        batch = decoder.from_frame(frame).batch
        p = frame["prediction"].to_numpy().astype(np.float32)
        began = time.perf_counter()
        for number, kind in enumerate(DOMAIN_NAMES):
            rows = np.flatnonzero(batch.domain == number)
            watch.add(kind, batch.take(rows), np.arange(len(rows)), p[rows])
        watch.advance((int(batch.ts.max()) // DAY_MS + 1) * DAY_MS)
        tool.seconds += time.perf_counter() - began
        tool.rows += len(batch)


def by_river(tool: Tool, case: str, seed: int) -> None:
    names = [(d, s) for d in range(2) for s in ("x", "label", "log_loss")]
    detectors: dict[tuple[int, str], Any] = {key: river_drift.ADWIN() for key in names}
    signal = {"feature": "x", "prior": "label", "segment": "log_loss", "nothing": ""}[case]
    start = changed_at = 0
    alarms, found = 0, None
    for day, frame in stream(case, seed):
        start = start or int(frame["ts"][0]) // DAY_MS * DAY_MS
        changed_at = start + CHANGE * DAY_MS
        p, y = frame["prediction"].to_numpy(), frame["label"].to_numpy()
        values = {"x": frame["x"].to_list(), "label": y.tolist()}
        values["log_loss"] = (-np.log(np.where(y > 0, p, 1 - p))).tolist()
        domain, ts = frame["domain"].to_list(), frame["ts"].to_list()
        began = time.perf_counter()
        hits = []
        for (d, s), detector in detectors.items():
            column = values[s]
            for i, of in enumerate(domain):
                if of == d:
                    detector.update(column[i])
                    if detector.drift_detected:
                        hits.append((ts[i], s))
        tool.seconds += time.perf_counter() - began
        tool.rows += frame.height
        for at, s in sorted(hits):
            if day < REFERENCE:
                continue
            if case == "nothing" or at <= changed_at:
                alarms += 1
            elif found is None and s == signal:
                found = (at - changed_at) / 3_600_000
    # A shift of slots or categories is not numeric, so river's detectors cannot detect it.
    record(tool, case, found, alarms)


def by_evidently(tool: Tool, case: str, seed: int, python: str, folder: Path) -> None:
    frames = [frame for _, frame in stream(case, seed)]
    keep = ["ts", "domain", "category", "slot", "x", "label", "prediction"]
    path = folder / f"{case}-{seed}.parquet"
    pl.concat(frames).select(keep).write_parquet(path)
    completed = subprocess.run(
        [python, str(WORKER), str(path), str(REFERENCE)], check=True, capture_output=True, text=True
    )
    result = json.loads(completed.stdout.splitlines()[-1])
    tool.seconds += result["seconds"]
    tool.rows += sum(f.height for f in frames)
    _, name = right(case, seed)
    if case == "segment":
        name = "label"  # the closest that a comparison of columns can detect
    alarms, found, before = 0, None, set()
    for day, flagged in result["days"]:
        if case == "nothing" or day < CHANGE:
            alarms += len(set(map(tuple, flagged)) - before)  # a column that stays flagged is one alarm
            before = set(map(tuple, flagged))
        elif found is None and any(column == name for _, column in flagged):
            found = float((day + 1 - CHANGE) * 24)
    record(tool, case, found, alarms)


def evidently_python(given: str | None, folder: Path) -> str:
    if given:
        return given
    print("creating a virtual environment for Evidently ...", file=sys.stderr)
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "evidently==0.7.23", "pandas<3", "pyarrow"], check=True
    )
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--short", action="store_true", help="one seed instead of 20")
    parser.add_argument(
        "--evidently-python", help="interpreter with evidently (default: a temporary environment is created)"
    )
    parser.add_argument("--no-evidently", action="store_true")
    args = parser.parse_args()
    seeds = 1 if args.short else args.seeds

    tools = {"monitor": Tool(), "river": Tool(), "evidently": Tool()}
    daily = Tool()
    with tempfile.TemporaryDirectory() as name:
        python = "" if args.no_evidently else evidently_python(args.evidently_python, Path(name))
        ways: dict[str, Callable[[Tool, str, int], None]] = {"monitor": by_monitor, "river": by_river}
        for case in CASES:
            for seed in range(seeds):
                for tool, way in ways.items():
                    way(tools[tool], case, seed)
                if python:
                    by_evidently(tools["evidently"], case, seed, python, Path(name))
                by_day(daily, case, seed)
            for tool, t in tools.items():
                if t.runs[case]:
                    print(f"{case:8} {tool:10} {t.line(case)}", flush=True)
    for tool, t in {**tools, "drift only": daily}.items():
        if t.rows:
            print(f"cost     {tool:10} {1e6 * t.seconds / t.rows:8.2f} us per row ({t.rows:,} rows)")
    ours, theirs = tools["monitor"], tools["evidently"]
    each = ours.seconds / ours.rows
    print(
        json.dumps(
            {
                "benchmark": "drift",
                "ratio_cost": round(theirs.seconds / daily.seconds, 1) if theirs.rows else None,
                "ratio_cost_whole": round(theirs.seconds / theirs.rows / each, 1) if theirs.rows else None,
                "ratio_cost_river": round(tools["river"].seconds / tools["river"].rows / each, 1),
                "seeds": seeds,
                **{
                    tool: {
                        "found": {c: [len(t.delays[c]), t.runs[c]] for c in CASES[:3]},
                        "delay_h_max": {c: max(t.delays[c], default=None) for c in CASES[:3]},
                        "false_alarms": dict(t.false),
                        "false_alarms_worst_stream": t.worst_unchanged,
                    }
                    for tool, t in tools.items()
                    if t.rows
                },
            }
        )
    )


if __name__ == "__main__":
    main()
