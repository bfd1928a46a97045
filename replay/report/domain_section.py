"""The section of one domain in the report: totals, plots, days and slices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ecdctr.replay.figures import ORACLE, DayFigures, ReplayResult, SliceFigures
from ecdctr.replay.report.formatting import arm_name, metric_heads, metrics, number, percent, signed

__all__ = ["domain_section"]

_DOMAIN_TITLES = {"ad": "Ads", "natural": "Natural content"}


def domain_section(domain: str, result: ReplayResult, releases: Sequence[int]) -> Iterator[str]:
    """The HTML of one domain; ``releases``: event times (ms) of the CPM releases, which the plots by day mark."""
    totals, days = result["totals"][domain], result["days"][domain]
    arms = list(totals)
    yield f"<h2>{_DOMAIN_TITLES[domain]}</h2>\n"
    yield from _totals_table(domain, result)
    left_out = result["left_out"][domain]
    if left_out:
        yield f'<p class="muted">{left_out:,} rows that only some of the arms scored are left out: all arms are evaluated on the same rows.</p>\n'
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
        f"minus {arm_name(base)}",
        "AUC",
        *(["Per-list AUC"] if lists else []),
        *metric_heads(),
    ]
    if not differences:
        head.pop(2)
    yield f'<p class="muted">{first["n"]:,} impressions, {first["clicks"]:,} clicks (CTR {percent(first["ctr"])}). GAUC covers the users '
    yield f"with both a click and a non-click: {percent(first['user_coverage'])} of {first['users_total']:,} users and "
    yield f"{percent(first['impression_coverage'])} of impressions.</p>\n"
    yield '<div class="scroll" tabindex="0"><table><thead><tr>'
    yield "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>\n"
    for arm, f in totals.items():
        cells = [f"{number(f['gauc'])}<small>{number(f['gauc_low'])} to {number(f['gauc_high'])}</small>"]
        if differences:
            cells.append(_difference(differences.get(arm)))
        cells += [number(f["auc"]), *([number(f["list_auc"])] if lists else []), *metrics(f)]
        yield (
            f'<tr><th scope="row">{arm_name(arm)}</th>' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>\n"
        )
    yield "</tbody></table></div>\n"


def _difference(d: Mapping[str, Any] | None) -> str:
    if d is None:
        return '<span class="muted">–</span>'
    colour = "good" if d["low"] > 0 else "bad" if d["high"] < 0 else ""
    return f'<span class="{colour}">{signed(d["value"])}</span><small>{signed(d["low"])} to {signed(d["high"])}</small>'


def _plots(domain: str, result: ReplayResult, arms: list[str], releases: Sequence[int]) -> Iterator[str]:
    # Loading matplotlib takes longer than most commands: only a report pays for it.
    from ecdctr.replay.report import plots

    days, base = result["days"][domain], result["base"][domain]
    # An arm looks the same in both sections.
    looks = {a: plots.ORACLE_LOOK if a == ORACLE else result["arms"].index(a) % 8 for a in arms}
    yield '<ul class="legend">'
    for arm, k in looks.items():
        yield f"<li>{plots.key(k)}{arm_name(arm)}</li>"
    if releases:
        yield f"<li>{plots.key(None)}CPM release</li>"
    yield '</ul>\n<div class="plots">\n'
    drawing = plots.series_by_day(days, looks, "gauc", releases)
    yield _figure("GAUC by day", "Higher is better. Bands: 95% bootstrap over users.", drawing)
    compared = {a: k for a, k in looks.items() if a in result["differences"][domain]}
    if compared:
        drawing = plots.differences_by_day(days, compared, releases)
        yield _figure(
            f"GAUC minus {arm_name(base)}, by day",
            "Above 0 is better. Bars: 95%, paired over users.",
            drawing,
        )
    drawing = plots.series_by_day(days, looks, "pcoc", releases, ideal=1.0)
    yield _figure(
        "PCOC by day",
        "Predicted clicks divided by observed clicks: 1 is ideal; above 1, the predictions are too high.",
        drawing,
    )
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

    def rows(name: str) -> list[SliceFigures]:
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
        caption = f"GAUC minus {arm_name(result['base'][domain])}, by how many earlier {kind} of the user were scored."
        yield _figure(title, f"{caption} Bars: 95%, paired over users.", drawing)


_SLICE_TITLES = {
    "user_rows": "By earlier {kind} of the user",
    "user_gap": "By time since the user's last {one}",
    "user_gap_both": "By time since the user's last row, ad or natural",
    "item_rows": "By earlier {kind} of the item",
    "item_gap": "By time since the item's last {one}",
    "tpm": "By whether the user and the item had a TPM vector",
}


def _slice_tables(domain: str, result: ReplayResult) -> Iterator[str]:
    """Every slice as a table, with one row per value and arm; the tables of slices requested with ``--slice`` are expanded."""
    by_slice: dict[str, list[SliceFigures]] = {}
    for row in result["slices"]:
        if row["domain"] == domain:
            by_slice.setdefault(row["slice"], []).append(row)
    kind, one = ("ads", "ad") if domain == "ad" else ("natural rows", "natural row")
    head = ["Value", "Arm", "Rows", "Clicks", "GAUC", f"GAUC minus {arm_name(result['base'][domain])}"]
    head += ["Users covered", "AUC", *metric_heads()]
    for name, rows in by_slice.items():
        built_in = name in _SLICE_TITLES
        title = _SLICE_TITLES[name].format(kind=kind, one=one) if built_in else f"By {escape(name)}"
        yield f"<details{'' if built_in else ' open'}><summary>{title}</summary>"
        yield '<div class="scroll tall" tabindex="0"><table><thead><tr>'
        yield "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>\n"
        for row in rows:
            f: dict[str, Any] = {k: math.nan if v is None else v for k, v in row.items()}
            compared = None if row["difference"] is None else {**f, "value": f["difference"]}
            cells = [arm_name(row["arm"]), f"{row['n']:,}", f"{row['clicks']:,}"]
            cells += [
                f"{number(f['gauc'])}<small>{number(f['gauc_low'])} to {number(f['gauc_high'])}</small>"
            ]
            cells += [
                _difference(compared),
                percent(f["user_coverage"]),
                number(f["auc"]),
                *metrics(f),
            ]
            yield f'<tr><th scope="row">{escape(row["value"])}</th>'
            yield "".join(f"<td>{c}</td>" for c in cells) + "</tr>\n"
        yield "</tbody></table></div></details>\n"


def _figure(title: str, caption: str, svg: str) -> str:
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return f"<figure><h3>{title}</h3>{labelled}<figcaption>{caption}</figcaption></figure>\n"


def _days_table(days: Sequence[DayFigures], arms: list[str]) -> Iterator[str]:
    yield '<div class="scroll tall" tabindex="0"><table><thead><tr>'
    head = ["Day", "Arm", "Rows", "Clicks", "GAUC", "Users covered", "AUC", *metric_heads()]
    yield "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>\n"
    for day in days:
        for arm in arms:
            f = day["arms"][arm]
            cells = [
                arm_name(arm),
                f"{f['n']:,}",
                f"{f['clicks']:,}",
                number(f["gauc"]),
                percent(f["user_coverage"]),
                number(f["auc"]),
                *metrics(f),
            ]
            yield (
                f'<tr><th scope="row">{day["day"]}</th>' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>\n"
            )
    yield "</tbody></table></div>"
