"""The report of ``ecdctr drift``: one self-contained page, and the same values as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ecdctr.monitor.drift.daily import Day
from ecdctr.monitor.drift.reference import Reference
from ecdctr.monitor.drift.watch import format_minute
from ecdctr.state.errors import DataError

__all__ = ["summarise", "write_drift_report"]

_DOMAINS = {"natural": "natural content", "ad": "ads", "both": "both streams"}
Things = list[dict[str, Any]]


def summarise(days: Sequence[Day]) -> dict[str, Any]:
    """Days and all comparisons as plain data.

    Returns
    -------
    dict
        ``days``: ``{day, rows, clicks}``; ``things``, largest effect first: ``{what, name, domain, days_moved, first_moved}`` (domain ``both`` if it changed in both on one day), the values
        ``{effect, psi, js, q_value, description}`` of the day with the largest effect (``said`` is the old name of ``description``), and
        one value per day in ``effects`` (None: not compared) and ``moved``.
    """
    things: dict[tuple[str, str, str], dict[str, Any]] = {}
    # A row for both domains has the values of the larger change only, so what changed in both on one day is one thing on all days.
    both = {(r.finding.what, r.finding.name) for day in days for r in day.table if r.domain == "both"}
    for i, day in enumerate(days):
        for row in day.table:
            f = row.finding
            domain = "both" if (f.what, f.name) in both else f.domain
            t = things.setdefault(
                (f.what, f.name, domain),
                {"effects": [None] * len(days), "moved": [False] * len(days), "effect": -1.0},
            )
            if t["effects"][i] is None or f.effect > t["effects"][i]:
                t["effects"][i] = f.effect
            t["moved"][i] |= row.moved
            if f.effect > t["effect"]:
                line = row.to_json()
                t |= {k: line[k] for k in ("effect", "psi", "js", "q_value", "description", "said")}
    out: Things = []
    for (what, name, domain), t in things.items():
        moved = [i for i, m in enumerate(t["moved"]) if m]
        first = format_minute(days[moved[0]].start_ms)[:10] if moved else None
        t = {"psi": None, "js": None, "q_value": None, "description": "", "said": ""} | t
        out.append(
            {
                "what": what,
                "name": name,
                "domain": domain,
                "days_moved": len(moved),
                "first_moved": first,
                **t,
            }
        )
    out.sort(key=lambda t: (t["days_moved"] == 0, -t["effect"], t["name"]))
    return {
        "days": [{"day": format_minute(d.start_ms)[:10], "rows": d.rows, "clicks": d.clicks} for d in days],
        "things": out,
    }


def write_drift_report(
    folder: str | Path, source: str, reference: Reference, result: Mapping[str, Any], meta: Mapping[str, Any]
) -> Path:
    """Write ``drift.html`` and ``drift.json`` into the folder (made if absent); returns the path of the page."""
    about = {"source": source, "reference": reference.about(ready=True), **meta}
    page = "".join(_page(source, reference, result, about))
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"meta": about, "result": result}, indent=1)
        (folder / "drift.json").write_text(data + "\n", encoding="utf-8")
        (folder / "drift.html").write_text(page, encoding="utf-8")
    except OSError as e:
        raise DataError(f"the report cannot be written to {folder}: {e.strerror}") from e
    return folder / "drift.html"


def _page(
    source: str, reference: Reference, result: Mapping[str, Any], about: Mapping[str, Any]
) -> Iterator[str]:
    from ecdctr.replay.report import (  # a worker imports this package, and needs no reports
        PAGE_END,
        page_start,
    )

    title = f"Drift of {source}"
    yield page_start(title)
    span = f"{format_minute(reference.from_ms)} to {format_minute(reference.until_ms)}"
    yield f'<p class="muted">against {escape(reference.name)}, {span} (UTC)</p>\n'
    things: Things = result["things"]
    moved = [t for t in things if t["days_moved"]]
    yield from _lead(moved, len(result["days"]))
    yield '<dl class="facts">'
    facts = {"Days": f"{len(result['days'])}", "Compared": f"{len(things)}", "Changed": f"{len(moved)}"}
    facts |= {k: f"{about[key]:,}" for k, key in (("Rows", "rows"),) if key in about}
    yield from (f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items())
    yield "</dl>\n"
    if things:
        yield "<h2>Changes, largest first</h2>\n"
        yield from _things(things)
        yield "<h2>Effect by day</h2>\n<p>1 is the threshold from which a significant change is drift; days with drift are highlighted.</p>\n"
        yield from _days(things, result["days"])
    yield _GLOSSARY
    yield "<footer>The same values, unrounded: <code>drift.json</code> in the same folder.</footer>\n"
    yield PAGE_END


def _lead(moved: Things, days: int) -> Iterator[str]:
    if not moved:
        yield '<p class="lead"><span class="good">Nothing has changed</span> beyond the variation between samples of users and items.</p>\n'
        return
    t = moved[0]
    yield f'<p class="lead"><span class="bad">{escape(t["what"])} {escape(t["name"])}</span> changed most, in {_DOMAINS[t["domain"]]}, '
    yield f"on {t['days_moved']} of {days} days, first on {t['first_moved']}: {escape(t['description'])}.</p>\n"


def _things(things: Things) -> Iterator[str]:
    yield '<div class="scroll" tabindex="0"><table><thead><tr>'
    head = [
        "Name",
        "What",
        "Domain",
        "Effect",
        "Days",
        "First",
        "PSI",
        "JS",
        "q",
        "Change (on the day of the largest effect)",
    ]
    yield "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>\n"
    for t in things:
        cells = [t["what"], _DOMAINS[t["domain"]], f"{max(t['effect'], 0):.2f}", str(t["days_moved"] or "–")]
        cells += [t["first_moved"] or "–", _f(t["psi"]), _f(t["js"]), _q(t["q_value"]), t["description"]]
        yield f'<tr><th scope="row">{escape(t["name"])}</th>' + "".join(
            f"<td>{escape(c)}</td>" for c in cells
        )
        yield "</tr>\n"
    yield "</tbody></table></div>\n"


def _days(things: Things, days: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield '<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">Name</th><th scope="col">Domain</th>'
    yield "".join(f'<th scope="col">{d["day"][5:]}</th>' for d in days) + "</tr></thead><tbody>\n"
    for domain in ("natural", "ad"):
        label = _DOMAINS[domain]
        ctr = [d["clicks"][domain] / d["rows"][domain] if d["rows"][domain] else None for d in days]
        if any(c is not None for c in ctr):
            cells = "".join(f"<td>{'–' if c is None else f'{c:.2%}'}</td>" for c in ctr)
            yield f'<tr><th scope="row">CTR</th><td>{label}</td>{cells}</tr>\n'
    for t in things:
        cells = ""
        for effect, moved in zip(t["effects"], t["moved"], strict=True):
            text = "–" if effect is None else f"{effect:.2f}"
            cells += f'<td class="bad">{text}</td>' if moved else f"<td>{text}</td>"
        name = t["name"] if t["what"] in ("feature", "label") else f"{t['name']} ({t['what']})"
        yield f'<tr><th scope="row">{escape(name)}</th><td>{_DOMAINS[t["domain"]]}</td>{cells}</tr>\n'
    yield "</tbody></table></div>\n"


def _f(v: float | None) -> str:
    return "–" if v is None else f"{v:.3f}"


def _q(v: float | None) -> str:
    return "–" if v is None else f"{v:.1e}" if v < 0.001 else f"{v:.3f}"


_GLOSSARY = """\
<h2>How to read this</h2>
<p>Each UTC day is compared with the whole reference. A change is drift if its effect reaches the threshold <em>and</em> another sample
of users and items does not explain it, at a false discovery rate over all comparisons of a day.</p>
<details><summary>Definitions</summary>
<p><strong>PSI</strong>: population stability index over the bins of a feature's histogram; the effect is the PSI in excess of chance, divided
by the threshold (0.1 by default). <strong>JS</strong>: Jensen-Shannon divergence, nats. <strong>label</strong>: the click rate; the effect is
|ln of the ratio| minus two standard errors, divided by its threshold (0.25). <strong>q</strong>: the false discovery rate at which the
change would be reported (Benjamini-Hochberg).</p>
</details>
"""
