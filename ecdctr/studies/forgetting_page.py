"""``docs/forgetting.md``: the forgetting study as a page with a plot."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from ecdctr.studies.cache import check_page
from ecdctr.studies.evidence_runs import seeds_of
from ecdctr.studies.forgetting_figures import CLAIMS, PAIRS, forgetting_figures
from ecdctr.studies.forgetting_study import ARMS, SETTINGS, SHORT, Study, StudyRun, run_studies

__all__ = ["run_forgetting", "verdict", "write_forgetting"]

LOOKS = {"month": "#b3541e", "month_tpm": "#1e6bb3", "all": "#d9a441", "all_tpm": "#3a9d7a"}

_SHORT_WORLD = {
    "days": 44,
    "live_from": 30,
    "users": 500,
    "items": 150,
    "history_per_day": 3_000,
    "natural_per_day": 6_000,
    "ads_per_day": 400,
    "month_days": 10,
}
_INTRO = """\
Returning users and items after weeks away, and rows of earlier periods predicted again later. Four engines learn the same simulated
stream and serve A-CTR by the paper's `reload`; they differ in two things only:

|arm|training data of CPM|TPM|
|-|-|-|
|`month`|the live month (it starts as a new model)|no|
|`month_tpm`|the live month|yes|
|`all`|all natural clicks: three months of history, then the live month|no|
|`all_tpm`|all natural clicks|yes|

Absence is counted in days: since the last day before today on which the user (the item) had rows in either stream, history
included; 1 is yesterday. All ad rows of such a day are included, so the models may already have learned from the first of them. Backward transfer:
held-out rows of a period (another draw of the same world), predicted at the end of the period and at the end of the last one,
each time with the date of that day. A GAUC difference below 0 is a loss. It also includes the drift of the simulated world:
only the difference between arms on identical rows measures a *method*. Intervals: 95 %, paired bootstrap over users, pooled over
seeds. A difference whose interval contains 0 is **unproven**."""


def run_forgetting(
    out: Console,
    page: Path,
    *,
    short: bool = False,
    seeds: str | None = None,
    jobs: int = 1,
    keep: Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Run the study and write its page and its plot; return the figures.

    Parameters
    ----------
    out
        Console for a line about each run.
    page
        Path of the page; the plot is written to the same folder.
    short
        Use one small simulator.
    seeds
        Seeds of the simulator; default 31-35, short 101.
    jobs
        Runs in parallel.
    keep
        Folder in which results are saved; a saved run is not executed again.
    overrides
        ``key=value`` settings for every run.
    """
    check_page(page)
    text = seeds or ("101" if short else "31-35")
    if short:
        world = tuple(_SHORT_WORLD.items())
        runs = [StudyRun(s, (*SETTINGS, *SHORT, *overrides), world, skip_days=4) for s in seeds_of(text)]
    else:
        runs = [StudyRun(s, (*SETTINGS, *overrides)) for s in seeds_of(text)]

    def report(study: Study) -> None:
        out.print(
            f"seed {study.run.seed}: {study.rows:,} rows in {study.seconds:,.0f} s of CPU time",
            soft_wrap=True,
        )

    studies = run_studies(runs, jobs=jobs, on_done=report, keep=keep)
    found = forgetting_figures(studies)
    given = "".join(f" --set {one!r}" for one in overrides)
    command = f"ecdctr evidence forgetting{' --short' if short else ''} --seeds {text}{given}"
    write_forgetting(page, found, runs, command)
    return found


def write_forgetting(path: Path, found: Mapping[str, Any], runs: Sequence[StudyRun], command: str) -> None:
    """Write the page to ``path`` and the plot to ``<its name>.png`` in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plot = path.with_suffix(".png")
    _plot(plot, found)
    path.write_text("\n".join(_lines(found, runs, command, plot.name)) + "\n", encoding="utf-8")


def verdict(interval: Mapping[str, float] | None) -> str:
    """The verdict on a claim: shown, denied (the opposite is shown) or unproven.

    >>> verdict({"value": 0.1, "low": 0.05, "high": 0.2}), verdict({"value": 0.1, "low": -0.05, "high": 0.2})
    ('shown', 'unproven')
    """
    if interval is None or interval["low"] != interval["low"]:
        return "no rows"
    return "shown" if interval["low"] > 0 else "denied" if interval["high"] < 0 else "unproven"


def _lines(found: Mapping[str, Any], runs: Sequence[StudyRun], command: str, plot: str) -> Iterator[str]:
    yield f"# Forgetting\n\nWritten by `{command}`.\n\n{_INTRO}\n"
    yield f"{found['rows']:,} ad rows evaluated (after the first {runs[0].skip_days} live days), seeds "
    yield f"{', '.join(str(run.seed) for run in runs)}; {found['played']:,} rows of history and live days, "
    yield f"{found['seconds']:,.0f} s of CPU time on one thread, four engines in one pass.\n"
    yield f"![Gain of TPM by absence, and GAUC of earlier weeks' ad rows later on]({plot})\n"
    yield from _claims(found)
    for who, title in (("all", "All ad rows"), ("user", "Users away"), ("item", "Items away")):
        yield from _absence(title, [part for part in found["slices"] if part["who"] == who])
    for kind, transfer in found["transfer"].items():
        yield from _transfer(kind, transfer)
    yield "\n## Settings\n"
    yield (
        ", ".join(f"`{text}`" for text in runs[0].settings)
        + "; otherwise the defaults of `ecdctr config show`."
    )
    for arm, more in ARMS.items():
        yield f"`{arm}`: {', '.join(f'`{text}`' for text in more) or 'as above'}; "
    if runs[0].world:
        yield "world: " + ", ".join(f"`{k}={v}`" for k, v in runs[0].world) + "."


def _claims(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## The claims\n"
    yield "Stated before any result was computed. *Shown*: the interval lies above 0; *denied*: below.\n"
    yield "|claim|value|verdict|\n|-|-|-|"
    by_class = {(part["who"], part["class"]): part["pairs"] for part in found["slices"]}
    for name in list(PAIRS)[:2]:
        for key in (("all", "all"), ("user", CLAIMS[0]), ("user", CLAIMS[1]), ("item", CLAIMS[0])):
            whom = "all ad rows" if key[0] == "all" else f"{key[0]}s away: {key[1]}"
            if (figure := by_class[key].get(name, {}).get("gauc")) is not None:
                yield f"|{name} gains GAUC, {whom}|{_interval(figure)}|{verdict(figure)}|"
    for kind, transfer in found["transfer"].items():
        for name in list(PAIRS)[:2]:
            if (figure := transfer["together"]["pairs"].get(name)) is not None:
                yield f"|{name} raises backward transfer, {_title(kind)}|{_interval(figure)}|{verdict(figure)}|"
    for kind, transfer in found["transfer"].items():
        for arm, figure in transfer["together"]["transfer"].items():
            lost = {"value": -figure["value"], "low": -figure["high"], "high": -figure["low"]}
            yield f"|`{arm}` loses GAUC on earlier periods, {_title(kind)}|{_interval(lost)}|{verdict(lost)}|"


def _absence(title: str, parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    arms = ("ads_only", *ARMS)
    yield f"\n## {title}\n\nGAUC by arm, then GAUC and NE differences (NE: below 0 is better).\n"
    yield f"|days away|rows|{'|'.join(arms)}|"
    yield f"|-|-|{'-|' * len(arms)}"
    for part in parts:
        cells = [f"{part['arms'][arm]:.4f}" if "arms" in part else "–" for arm in arms]
        yield f"|{part['class']}|{part['rows']:,}|{'|'.join(cells)}|"
    for metric in ("gauc", "ne"):
        yield f"\n|days away ({metric.upper()})|{'|'.join(PAIRS)}|"
        yield f"|-|{'-|' * len(PAIRS)}"
        for part in parts:
            cells = [_interval(part["pairs"].get(name, {}).get(metric)) for name in PAIRS]
            yield f"|{part['class']}|{'|'.join(cells)}|"


def _transfer(kind: str, transfer: Mapping[str, Any]) -> Iterator[str]:
    arms = list(transfer["together"]["transfer"])
    pairs = list(transfer["together"]["pairs"])
    yield f"\n## Backward transfer: {_title(kind)}\n"
    yield "GAUC of each period's held-out rows at the end of the period → of each later one:\n"
    yield f"|period|rows|{'|'.join(arms)}|"
    yield f"|-|-|{'-|' * len(arms)}"
    for period in transfer["periods"]:
        cells = [" → ".join(f"{value:.4f}" for value in period["curves"][arm]) for arm in arms]
        yield f"|{period['period']}|{period['rows']:,}|{'|'.join(cells)}|"
    yield "\nBackward transfer by arm, and what changes it (first arm minus second):\n"
    yield f"|period|{'|'.join([*arms, *pairs])}|"
    yield f"|-|{'-|' * (len(arms) + len(pairs))}"
    for name, changes in [
        *((str(p["period"]), p) for p in transfer["periods"] if "transfer" in p),
        ("together", transfer["together"]),
    ]:
        cells = [_interval(changes["transfer"][arm]) for arm in arms]
        cells += [_interval(changes["pairs"][pair]) for pair in pairs]
        yield f"|{name}|{'|'.join(cells)}|"


def _title(kind: str) -> str:
    domain, what = kind.split()
    model = "A-CTR" if domain == "ad" else "CPM"
    return f"{model} on {domain} rows of earlier {'months' if what == 'month' else 'live periods'}"


def _interval(data: Mapping[str, float] | None) -> str:
    if data is None or data["value"] != data["value"]:
        return "–"
    text = f"{data['value']:+.4f} [{data['low']:+.4f}, {data['high']:+.4f}]"
    return text if verdict(data) != "unproven" else f"{text} unproven"


def _plot(path: Path, found: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    parts = [
        part
        for part in found["slices"]
        if part["who"] == "user" and part["class"] not in CLAIMS and part["pairs"]
    ]
    for shift, name, colour in zip((-0.12, 0.12), list(PAIRS)[:2], ("#1e6bb3", "#3a9d7a"), strict=True):
        gains = [part["pairs"][name]["gauc"] for part in parts]
        values = [g["value"] for g in gains]
        bars = [[g["value"] - g["low"] for g in gains], [g["high"] - g["value"] for g in gains]]
        at = [i + shift for i in range(len(parts))]
        left.errorbar(at, values, yerr=bars, fmt="o", color=colour, capsize=3, label=name)
    left.axhline(0, color="#888888", linewidth=0.8)
    left.set_xticks(
        range(len(parts)), [part["class"].replace(" days", "").replace(" and", "\nand") for part in parts]
    )
    left.set_xlabel("days since the user's last day with rows")
    left.set_ylabel("GAUC gained by TPM")
    left.legend(frameon=False)
    periods = found["transfer"].get("ad live", {"periods": []})["periods"]
    for period in periods:
        for arm, values in period["curves"].items():
            ends = range(period["period"], period["period"] + len(values))
            label = arm if period["period"] == 0 else None
            right.plot(ends, values, marker="o", markersize=3, color=LOOKS[arm], label=label)
    right.set_xticks(range(len(periods)), [f"period {p['period']}" for p in periods])
    right.set_xlabel("predicted at the end of")
    right.set_ylabel("GAUC of a period's held-out ad rows")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    aside = path.with_suffix(f".{os.getpid()}.png")
    figure.savefig(aside, dpi=110, metadata={"Software": None})
    aside.replace(path)
