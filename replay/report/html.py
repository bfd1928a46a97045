"""The report of a replay: one self-contained page, and the same figures as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from ecdctr.replay.figures import ORACLE, ReplayResult
from ecdctr.replay.report.domain_section import domain_section
from ecdctr.replay.report.formatting import arm_name, duration, number, signed
from ecdctr.replay.report.meta import ReportMeta
from ecdctr.replay.report.page import PAGE_END, page_start
from ecdctr.state.errors import DataError

__all__ = ["REPORT_FILES", "write_report"]

REPORT_FILES = ("report.html", "report.json")
"""Names of the files that :func:`write_report` writes."""


def write_report(
    folder: str | Path, title: str, result: ReplayResult, meta: ReportMeta | None = None
) -> Path:
    """Write ``report.html`` and ``report.json`` into the folder (made if absent).

    The page is self-contained: it includes styles and plots, runs no script and loads no other file.

    Parameters
    ----------
    folder, title
        Where to write, and the heading.
    result
        Figures from :func:`ecdctr.replay.figures.evaluate`.
    meta
        About the run.

    Returns
    -------
    Path
        The path of the page.

    Raises
    ------
    DataError
        The folder cannot be written.
    """
    about = meta or ReportMeta()
    page = "".join(_page(title, result, about))
    data = json.dumps(_finite({"title": title, "meta": about, "result": result}), indent=1, default=str)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(data + "\n", encoding="utf-8")
        (folder / "report.html").write_text(page, encoding="utf-8")
    except OSError as e:
        raise DataError(f"the report cannot be written to {folder}: {e.strerror}") from e
    return folder / "report.html"


def _page(title: str, result: ReplayResult, meta: ReportMeta) -> Iterator[str]:
    yield page_start(title)
    source = meta.get("source", "")
    if source and source not in title:
        yield f'<p class="muted">{escape(source)}</p>\n'
    yield from _lead(result)
    yield from _facts(result, meta)
    if meta.get("notices"):
        yield "<h2>Rows that were left out, and notes</h2>\n<ul>"
        yield from (f"<li>{escape(notice)}</li>" for notice in meta["notices"])
        yield "</ul>\n"
    yield from _checks(meta)
    if not result["totals"]:
        yield "<p>No row was scored: nothing to report. Rows are scored once the models have begun to learn.</p>\n"
    for domain in ("ad", "natural"):
        if domain in result["totals"]:
            yield from domain_section(domain, result, meta.get("releases") or [])
    yield _GLOSSARY
    if meta.get("settings"):
        yield f"<details><summary>Settings</summary><pre>{escape(meta['settings'])}</pre></details>\n"
    yield "<footer>The same figures, unrounded: <code>report.json</code> in the same folder.</footer>\n"
    yield PAGE_END


def _lead(result: ReplayResult) -> Iterator[str]:
    """The main finding in one sentence: the first arm against the base, on ads."""
    totals = result["totals"].get("ad", {})
    first = next(iter(totals.values()), None)
    if first is not None and not 0 < first["clicks"] < first["n"]:
        which = "No ad was clicked" if not first["clicks"] else "Every ad was clicked"
        yield f'<p class="lead"><span class="bad">{which}</span>: GAUC, AUC and NE are undefined.</p>\n'
        return
    for arm, d in result["differences"].get("ad", {}).items():
        base = result["base"]["ad"]
        verdict = (
            "no proven difference to"
            if not d["low"] > 0 and not d["high"] < 0
            else "above"
            if d["value"] > 0
            else "below"
        )
        colour = {"above": "good", "below": "bad"}.get(verdict, "")
        yield f'<p class="lead">{arm_name(arm)} ranks ads at GAUC <strong>{number(totals[arm]["gauc"])}</strong>, '
        yield (
            f'<span class="{colour}">{number(abs(d["value"]))} {verdict}</span> {arm_name(base)} '
            if colour
            else f"{verdict} {arm_name(base)} "
        )
        yield f"({number(totals[base]['gauc'])}; 95% interval of the difference {signed(d['low'])} to {signed(d['high'])})."
        if ORACLE in totals:
            best, low = totals[ORACLE]["gauc"], totals[base]["gauc"]
            share = d["value"] / (best - low) if best > low else math.nan
            yield f" The best possible is {number(best)}"
            yield f": {share:.0%} of the gap is closed." if share > 0 else "."
        yield "</p>\n"
        return


def _facts(result: ReplayResult, meta: ReportMeta) -> Iterator[str]:
    facts: list[tuple[str, str]] = []
    days = sorted(d["day"] for domain in result["days"].values() for d in domain)
    if days:
        span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
        facts.append(("Event days", span.replace("-", "\N{NON-BREAKING HYPHEN}")))
    if "rows" in meta:
        facts.append(("Rows", f"{meta['rows']:,}"))
    for domain in ("ad", "natural"):
        if domain in result["totals"]:
            first = next(iter(result["totals"][domain].values()))
            facts.append((f"Scored, {'ads' if domain == 'ad' else domain}", f"{first['n']:,}"))
    if "seconds" in meta:
        facts.append(("Time", duration(float(meta["seconds"]))))
    if "rows_per_s" in meta:
        facts.append(("Rows a second", f"{meta['rows_per_s']:,.0f}"))
    if "releases" in meta:
        facts.append(("CPM releases", f"{len(meta['releases'])}"))
    if meta.get("refused"):
        facts.append(("Refused by the gate", f"{len(meta['refused'])}"))
    if meta.get("rejects"):
        facts.append(("Left out", ", ".join(f"{n:,} {reason}" for reason, n in meta["rejects"].items())))
    if meta.get("not_learned"):
        facts.append(("Not learned", f"{meta['not_learned']:,} rows"))
    if meta.get("interrupted"):
        facts.append(("Interrupted", "covers the rows up to then"))
    if facts:
        yield '<dl class="facts">'
        yield from (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
        yield "</dl>\n"


def _checks(meta: ReportMeta) -> Iterator[str]:
    """Results of the replay's own checks, open where one failed; then the further arms."""
    found = meta.get("checks") or []
    wrong = [check for check in found if check["ok"] is False]
    if found:
        words = f"{len(wrong)} of {len(found)} checks failed" if wrong else f"Checks: {len(found)} passed"
        yield f"<details{' open' if wrong else ''}><summary>{words}</summary><dl>"
        for check in found:
            colour = {True: "good", False: "bad", None: "muted"}[check["ok"]]
            verdict = {True: "yes", False: "no", None: "unknown"}[check["ok"]]
            yield f'<dt>{escape(check["name"])}: <span class="{colour}">{verdict}</span></dt><dd>{escape(check["text"])}</dd>'
        yield "</dl></details>\n"
    arms = {name: f"the configuration with {changed}" for name, changed in (meta.get("arms") or {}).items()}
    for name, about in (meta.get("frozen") or {}).items():
        arms[name] = (
            f"checkpoint {about['checkpoint']}, does not learn; it does not predict the {about['not_asked']:,} rows from which it "
            "may have learned, and no arm is evaluated on them"
        )
    if arms:
        yield "<details open><summary>Further arms</summary><dl>"
        yield from (f"<dt>{arm_name(name)}</dt><dd>{escape(text)}</dd>" for name, text in arms.items())
        yield "</dl></details>\n"


_GLOSSARY = """\
<h2>How to read this</h2>
<p>Every row was predicted before any model learned from it (progressive validation), and all arms of a table are evaluated on
identical rows. Read a small difference with its interval: if the interval contains 0, nothing is proven.</p>
<details><summary>What the figures mean</summary>
<p><strong>GAUC</strong>: AUC within each user, averaged by impressions; how well each user's impressions are put in order. Users
without a click, or without a non-click, do not count. <strong>AUC</strong>: the same over all impressions at once; 0.5 is chance.
<strong>Per-list AUC</strong>: within each impression list.</p>
<p><strong>Log loss</strong>: mean penalty of the predicted probabilities, lower is better. <strong>NE</strong>: log loss over that of
always predicting the mean CTR; below 1 is better than that. <strong>PCOC</strong>: predicted over observed clicks.</p>
<p><strong>A-CTR</strong>: the model that would serve: ads plus transferred parameters. <strong>ads-only</strong>: the control that is trained without
natural content. <strong>CPM</strong>: the model of natural content. <strong>oracle</strong>: the true probabilities of a simulation.</p>
</details>
"""


def _finite(value: Any) -> Any:
    """NaN and infinities as null, since JSON has no notation for them."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
