"""The report of a replay: one self-contained page, and the same figures as JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ecdctr.replay.figures import ORACLE, ReplayResult, evaluate
from ecdctr.replay.metrics import ROW_METRICS
from ecdctr.replay.report.style import style_sheet
from ecdctr.state.errors import DataError

__all__ = ["evaluate", "write_report"]

_ARM_NAMES = {
    "actr": "A-CTR",
    "ads_only": "ads-only",
    "cpm": "CPM",
    "cpm_only": "CPM only",
    "mixed_tpm": "mixed + TPM",
    "ads_tpm": "ads + TPM",
    "item_ctr": "item CTR",
}
_DOMAIN_TITLES = {"ad": "Ads", "natural": "Natural content"}

Figures = Mapping[str, Any]


def write_report(
    folder: str | Path, title: str, result: ReplayResult, meta: Mapping[str, Any] | None = None
) -> Path:
    """Write ``report.html`` and ``report.json`` into the folder (made if absent).

    The page needs nothing else: styles and plots are in it, it runs no script and asks for no other file.

    Parameters
    ----------
    folder, title
        Where, and the heading.
    result
        Of :func:`ecdctr.replay.figures.evaluate`.
    meta
        About the run, all optional: ``source``, ``rows``, ``seconds``, ``rows_per_s``, ``releases`` (event clocks of
        the CPM releases, ms), ``refused`` (those that the gate refused), ``interrupted``, ``rejects`` (counts by reason), ``checks`` (see
        :class:`ecdctr.replay.checks.checks.Check`), ``arms`` and ``frozen`` (what those of their own are), ``settings`` (text). All
        of it goes into the JSON.

    Returns
    -------
    Path
        Of the page.
    """
    about = dict(meta or {})
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


def _page(title: str, result: ReplayResult, meta: dict[str, Any]) -> Iterator[str]:
    style = style_sheet()
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # Nothing may be loaded, whatever a name in the data holds.
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
    yield f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
    yield f"<h1>{escape(title)}</h1>\n"
    if meta.get("source") and str(meta["source"]) not in title:
        yield f'<p class="muted">{escape(str(meta["source"]))}</p>\n'
    yield from _lead(result)
    yield from _facts(result, meta)
    yield from _checks(meta)
    if not result["totals"]:
        yield "<p>No row was scored: nothing to report. Rows are scored once the models have begun to learn.</p>\n"
    for domain in ("ad", "natural"):
        if domain in result["totals"]:
            yield from _section(domain, result, meta.get("releases") or [])
    yield _GLOSSARY
    if meta.get("settings"):
        yield f"<details><summary>Settings</summary><pre>{escape(str(meta['settings']))}</pre></details>\n"
    yield "<footer>The same figures, unrounded: <code>report.json</code> beside this page.</footer>\n</main>\n</body>\n</html>\n"


def _lead(result: ReplayResult) -> Iterator[str]:
    """The finding in a sentence: the first arm against the control, on ads."""
    totals = result["totals"].get("ad", {})
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
        yield f'<p class="lead">{_name(arm)} ranks ads at GAUC <strong>{_f(totals[arm]["gauc"])}</strong>, '
        yield (
            f'<span class="{colour}">{_f(abs(d["value"]))} {verdict}</span> {_name(base)} '
            if colour
            else f"{verdict} {_name(base)} "
        )
        yield f"({_f(totals[base]['gauc'])}; 95% interval of the difference {_signed(d['low'])} to {_signed(d['high'])})."
        if ORACLE in totals:
            best, low = totals[ORACLE]["gauc"], totals[base]["gauc"]
            share = d["value"] / (best - low) if best > low else math.nan
            yield f" The best possible is {_f(best)}"
            yield f": {share:.0%} of the gap is closed." if share > 0 else "."
        yield "</p>\n"
        return


def _facts(result: ReplayResult, meta: dict[str, Any]) -> Iterator[str]:
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
        facts.append(("Time", _duration(float(meta["seconds"]))))
    if "rows_per_s" in meta:
        facts.append(("Rows a second", f"{meta['rows_per_s']:,.0f}"))
    if "releases" in meta:
        facts.append(("CPM releases", f"{len(meta['releases'])}"))
    if meta.get("refused"):
        facts.append(("Refused by the gate", f"{len(meta['refused'])}"))
    if meta.get("rejects"):
        facts.append(("Left out", ", ".join(f"{n:,} {reason}" for reason, n in meta["rejects"].items())))
    if meta.get("interrupted"):
        facts.append(("Interrupted", "covers what was done"))
    if facts:
        yield '<dl class="facts">'
        yield from (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
        yield "</dl>\n"


def _checks(meta: dict[str, Any]) -> Iterator[str]:
    """What the replay looked for by itself; open where something is wrong. And what the arms are."""
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
            f"checkpoint {about['checkpoint']}, learns nothing; not asked of the {about['not_asked']:,} rows that it may "
            "have learned, on which no arm is judged"
        )
    if arms:
        yield "<details open><summary>Arms of their own</summary><dl>"
        yield from (f"<dt>{_name(name)}</dt><dd>{escape(text)}</dd>" for name, text in arms.items())
        yield "</dl></details>\n"


def _section(domain: str, result: ReplayResult, releases: Sequence[int]) -> Iterator[str]:
    totals, days = result["totals"][domain], result["days"][domain]
    arms = list(totals)
    yield f"<h2>{_DOMAIN_TITLES[domain]}</h2>\n"
    yield from _totals_table(domain, result)
    left_out = result["left_out"][domain]
    if left_out:
        yield f'<p class="muted">{left_out:,} rows that only some of the arms scored are left out: all arms stand on the same rows.</p>\n'
    if days:
        yield from _plots(domain, result, arms, releases)
        yield "<details><summary>Day by day</summary>"
        yield from _days_table(days, arms)
        yield "</details>\n"
    yield from _slice_tables(domain, result)


def _totals_table(domain: str, result: ReplayResult) -> Iterator[str]:
    totals, differences = result["totals"][domain], result["differences"][domain]
    base = result["base"][domain]
    lists = any("list_auc" in f for f in totals.values())
    first = next(iter(totals.values()))
    head = [
        "Arm",
        "GAUC",
        f"against {_name(base)}",
        "AUC",
        *(["Per-list AUC"] if lists else []),
        *_metric_heads(),
    ]
    if not differences:
        head.pop(2)
    yield f'<p class="muted">{first["n"]:,} impressions, {first["clicks"]:,} clicks (CTR {_percent(first["ctr"])}). GAUC covers '
    yield f"{_percent(first['user_coverage'])} of {first['users_total']:,} users and {_percent(first['impression_coverage'])} of impressions: "
    yield "those with a click and a non-click.</p>\n"
    yield '<div class="scroll" tabindex="0"><table><thead><tr>'
    yield "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>\n"
    for arm, f in totals.items():
        cells = [f"{_f(f['gauc'])}<small>{_f(f['gauc_low'])} to {_f(f['gauc_high'])}</small>"]
        if differences:
            cells.append(_difference(differences.get(arm)))
        cells += [_f(f["auc"]), *([_f(f["list_auc"])] if lists else []), *_metrics(f)]
        yield f'<tr><th scope="row">{_name(arm)}</th>' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>\n"
    yield "</tbody></table></div>\n"


def _difference(d: Figures | None) -> str:
    if d is None:
        return '<span class="muted">–</span>'
    colour = "good" if d["low"] > 0 else "bad" if d["high"] < 0 else ""
    return f'<span class="{colour}">{_signed(d["value"])}</span><small>{_signed(d["low"])} to {_signed(d["high"])}</small>'


def _plots(domain: str, result: ReplayResult, arms: list[str], releases: Sequence[int]) -> Iterator[str]:
    # Loading matplotlib takes longer than most commands: only a report pays for it.
    from ecdctr.replay.report import plots

    days, base = result["days"][domain], result["base"][domain]
    # An arm looks the same in both sections.
    looks = {a: plots.ORACLE_LOOK if a == ORACLE else result["arms"].index(a) % 8 for a in arms}
    yield '<ul class="legend">'
    for arm, k in looks.items():
        yield f"<li>{plots.key(k)}{_name(arm)}</li>"
    if releases:
        yield f"<li>{plots.key(None)}CPM release</li>"
    yield '</ul>\n<div class="plots">\n'
    drawing = plots.series_by_day(days, looks, "gauc", releases)
    yield _figure("GAUC by day", "Higher is better. Bands: 95% bootstrap over users.", drawing)
    compared = {a: k for a, k in looks.items() if a in result["differences"][domain]}
    if compared:
        drawing = plots.differences_by_day(days, compared, releases)
        yield _figure(
            f"GAUC against {_name(base)}, by day", "Above 0 is better. Bars: 95%, paired over users.", drawing
        )
    drawing = plots.series_by_day(days, looks, "pcoc", releases, ideal=1.0)
    yield _figure("PCOC by day", "Predicted over observed clicks: 1 is ideal, above it is too high.", drawing)
    drawing = plots.calibration(result["calibration"][domain], looks)
    yield _figure(
        "Calibration",
        "Twenty groups of equally many impressions, by prediction; the diagonal is ideal.",
        drawing,
    )
    yield from _slice_plots(domain, result, looks, compared)
    yield "</div>\n"


def _slice_plots(
    domain: str, result: ReplayResult, looks: Mapping[str, int], compared: Mapping[str, int]
) -> Iterator[str]:
    from ecdctr.replay.report import plots

    def rows(name: str) -> list[Figures]:
        return [row for row in result["slices"] if (row["slice"], row["domain"]) == (name, domain)]

    kind = "ads" if domain == "ad" else "natural rows"
    drawing = plots.by_value(rows("user_gap"), looks, ("gauc", "gauc_low", "gauc_high"))
    yield _figure(
        "GAUC by staleness",
        f"Time since the user's last {'ad' if domain == 'ad' else 'natural row'} before this one. Bars: 95%.",
        drawing,
    )
    if compared:
        drawing = plots.by_value(rows("user_rows"), compared, ("difference", "low", "high"), zero=True)
        title = "Gain by ad history" if domain == "ad" else "Gain by history"
        caption = f"GAUC against {_name(result['base'][domain])}, by how many earlier {kind} of the user were scored."
        yield _figure(title, f"{caption} Bars: 95%, paired over users.", drawing)


_SLICE_TITLES = {
    "user_rows": "By earlier {kind} of the user",
    "user_gap": "By time since the user's last {one}",
    "user_gap_both": "By time since the user's last row, ad or natural",
    "item_rows": "By earlier {kind} of the item",
    "item_gap": "By time since the item's last {one}",
    "tpm": "By TPM vector: of the user, of the item",
}


def _slice_tables(domain: str, result: ReplayResult) -> Iterator[str]:
    """Every slice as a table, one line a value and arm; those that were asked for stand open."""
    by_slice: dict[str, list[Figures]] = {}
    for row in result["slices"]:
        if row["domain"] == domain:
            by_slice.setdefault(row["slice"], []).append(row)
    kind, one = ("ads", "ad") if domain == "ad" else ("natural rows", "natural row")
    head = ["Value", "Arm", "Rows", "Clicks", "GAUC", f"against {_name(result['base'][domain])}"]
    head += ["Users covered", "AUC", *_metric_heads()]
    for name, rows in by_slice.items():
        built_in = name in _SLICE_TITLES
        title = _SLICE_TITLES[name].format(kind=kind, one=one) if built_in else f"By {escape(name)}"
        yield f"<details{'' if built_in else ' open'}><summary>{title}</summary>"
        yield '<div class="scroll tall" tabindex="0"><table><thead><tr>'
        yield "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>\n"
        for row in rows:
            f = {k: math.nan if v is None else v for k, v in row.items()}
            compared = None if row["difference"] is None else {**f, "value": f["difference"]}
            cells = [_name(row["arm"]), f"{row['n']:,}", f"{row['clicks']:,}"]
            cells += [f"{_f(f['gauc'])}<small>{_f(f['gauc_low'])} to {_f(f['gauc_high'])}</small>"]
            cells += [_difference(compared), _percent(f["user_coverage"]), _f(f["auc"]), *_metrics(f)]
            yield f'<tr><th scope="row">{escape(row["value"])}</th>'
            yield "".join(f"<td>{c}</td>" for c in cells) + "</tr>\n"
        yield "</tbody></table></div></details>\n"


def _figure(title: str, caption: str, svg: str) -> str:
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return f"<figure><h3>{title}</h3>{labelled}<figcaption>{caption}</figcaption></figure>\n"


def _days_table(days: Sequence[Figures], arms: list[str]) -> Iterator[str]:
    yield '<div class="scroll tall" tabindex="0"><table><thead><tr>'
    head = ["Day", "Arm", "Rows", "Clicks", "GAUC", "Users covered", "AUC", *_metric_heads()]
    yield "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>\n"
    for day in days:
        for arm in arms:
            f = day["arms"][arm]
            cells = [
                _name(arm),
                f"{f['n']:,}",
                f"{f['clicks']:,}",
                _f(f["gauc"]),
                _percent(f["user_coverage"]),
                _f(f["auc"]),
                *_metrics(f),
            ]
            yield (
                f'<tr><th scope="row">{day["day"]}</th>' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>\n"
            )
    yield "</tbody></table></div>"


_GLOSSARY = """\
<h2>How to read this</h2>
<p>Every row was predicted before it was learned from (progressive validation), and all arms of a table are judged on the
identical rows. Small differences need their interval: if it holds 0, nothing is proven.</p>
<details><summary>What the figures mean</summary>
<p><strong>GAUC</strong>: AUC within each user, averaged by impressions; how well each user's impressions are put in order. Users
without a click, or without a non-click, do not count. <strong>AUC</strong>: the same over all impressions at once; 0.5 is chance.
<strong>Per-list AUC</strong>: within each impression list.</p>
<p><strong>Log loss</strong>: mean penalty of the predicted probabilities, lower is better. <strong>NE</strong>: log loss over that of
always predicting the mean CTR; below 1 is better than that. <strong>PCOC</strong>: predicted over observed clicks.</p>
<p><strong>A-CTR</strong>: the model that would serve, ads plus what was transferred. <strong>ads-only</strong>: the control that never saw
natural content. <strong>CPM</strong>: the model of natural content. <strong>oracle</strong>: the true probabilities of a simulation.</p>
</details>
"""


def _name(arm: str) -> str:
    return escape(_ARM_NAMES.get(arm, arm))


def _metric_heads() -> list[str]:
    return [metric.title[0].upper() + metric.title[1:] for metric in ROW_METRICS]


def _metrics(figures: Figures) -> list[str]:
    return [_f(figures[metric.name], metric.decimals) for metric in ROW_METRICS]


def _f(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−") if math.isfinite(value) else "–"


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "–"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else str(dt.timedelta(seconds=round(seconds)))


def _finite(value: Any) -> Any:
    """NaN and infinities as null: JSON has no words for them."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
