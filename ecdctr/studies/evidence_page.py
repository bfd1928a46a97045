"""``docs/evidence.md``: the figures of ``ecdctr evidence`` as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecdctr.studies.evidence_figures import DEFAULT, bars, best_control
from ecdctr.studies.evidence_plot import draw
from ecdctr.studies.evidence_runs import Run

__all__ = ["broken_order", "write_page"]

_TITLES = {
    "simulator": "Simulator",
    "ebnerd_b": "EB-NeRD B (slots inside an article as ads: a proxy, not advertising)",
    "ebnerd_a": "EB-NeRD A (paid articles as ads: a proxy, not advertising)",
}


def broken_order(found: Mapping[str, Any]) -> list[str]:
    """The expected relations between arms that a study does not show; their 95 % intervals must lie above 0."""
    arms = found["arms"]
    out = []
    for better in ("reload", "mixed", "mixed_tpm", "bayes_fm", DEFAULT):
        low = arms[better]["vs_ads_only"]["low"]
        if not low > 0:
            out.append(f"{better} is not better than ads_only: the interval starts at {low:+.4f}")
    if not arms["item_ctr"]["gauc"] < arms["reload"]["gauc"]:
        out.append("item_ctr, which uses no user features, is not below reload")
    return out


def write_page(path: Path, found: Mapping[str, Mapping[str, Any]], runs: Sequence[Run], command: str) -> None:
    """Write the page, and its picture in the same folder.

    Parameters
    ----------
    path
        Path of the page.
    found
        :func:`ecdctr.studies.evidence.figures` by study.
    runs
        The runs.
    command
        The command that reproduces the page.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.with_suffix(".png")
    draw(picture, found, _TITLES)
    path.write_text("\n".join(_lines(found, runs, command, picture.name)) + "\n", encoding="utf-8")


def _lines(
    found: Mapping[str, Mapping[str, Any]], runs: Sequence[Run], command: str, picture: str
) -> Iterator[str]:
    yield "# Evidence"
    yield ""
    yield f"Written by `{command}`. Progressive validation: every row is predicted before the models learn from it; all arms"
    yield "are evaluated on the identical ad rows of one pass. Intervals are 95 % bootstrap intervals over users, paired for differences."
    yield f"`{DEFAULT}` is the arm that serves with the default settings: `stack` of `ads_only`, `reload` and `bayes_fm`. `stack_all` combines all"
    yield "arms; it is computed from their scores, from the first evaluated row on. Differences below .005 GAUC are unproven unless a requirement named them beforehand."
    yield "Returning users and items, and rows of earlier periods predicted again later: [forgetting.md](forgetting.md)."
    yield ""
    yield f"```json\n{json.dumps(bars(found))}\n```\n"
    yield f"![What every arm gains over ads alone, by arm and by the user's earlier ads]({picture})"
    for study, figures in found.items():
        mine = [run for run in runs if run.study == study]
        yield f"\n## {_TITLES[study]}\n"
        yield f"{figures['rows']:,} ad rows evaluated (after the first {mine[0].skip_days:g} days), "
        yield f"{figures.get('learned', 0):,} rows replayed, {figures.get('seconds', 0):,.0f} s on one thread in total."
        shares = [s for s in figures["shares"] if not math.isnan(s)]
        if shares:
            yield f"Share of the gap to the oracle that `{DEFAULT}` closes, by run: {', '.join(f'{s:.1%}' for s in shares)}"
            yield "(relative to `ads_only`, the control with the paper's network). Relative to the better of the controls that are trained on ads alone,"
            yield f"`{best_control(figures['arms'])}`, it closes {figures['arms'][DEFAULT]['share_closed_best']:.1%}."
        yield ""
        yield "|arm|GAUC|v ads_only|v mixed_tpm|AUC|NE|PCOC|gap closed|"
        yield "|-|-|-|-|-|-|-|-|"
        for name, arm in sorted(figures["arms"].items(), key=lambda pair: pair[1]["gauc"]):
            cells = [
                name,
                _interval(arm["interval"], "{:.4f}"),
                _interval(arm.get("vs_ads_only")),
                _interval(arm.get("vs_mixed_tpm")),
                *(f"{arm[key]:.4f}" for key in ("auc", "normalized_entropy")),
                f"{arm['pcoc']:.3f}",
                "–" if math.isnan(arm["share_closed"]) else f"{arm['share_closed']:.1%}",
            ]
            yield f"|{'|'.join(cells)}|"
        yield from _steps(figures)
        yield from _losses(figures)
        yield from _slices(figures)
        yield "\nSources: " + ", ".join(f"`{Path(run.source).name}`" for run in mine) + ". Settings: "
        yield (
            ", ".join(f"`{text}`" for text in mine[0].settings)
            + "; otherwise the defaults of `ecdctr config show`."
        )


def _steps(figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures["steps"]:
        return
    yield "\nWhat each part adds (GAUC). `full_7d` and `no_tpm_7d`: `reload` with weekly releases as in the paper, with and without TPM;"
    yield "`ads_tpm`: ads alone, reading TPM.\n"
    yield "|step|difference|"
    yield "|-|-|"
    for name, step in figures["steps"].items():
        yield f"|{name}|{_interval(step)}|"


def _losses(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "\nLog loss minus that of ads-only (below 0 is better):\n"
    yield "|arm|difference|"
    yield "|-|-|"
    for name, loss in sorted(figures["losses"].items(), key=lambda pair: -pair[1]["value"]):
        yield f"|{name}|{_interval(loss)}|"


def _slices(figures: Mapping[str, Any]) -> Iterator[str]:
    names = (
        DEFAULT,
        "bayes_fm",
        "ads_bayes_fm",
        "mixed_tpm",
        "ads_tpm",
        "reload",
        "full_7d",
        "no_tpm_7d",
        "TPM in reload",
    )
    shown = [name for name in names if any(name in part["gains"] for part in figures["slices"])]
    yield "\nGAUC gain over ads-only by days since the user's last row in either stream, and by the user's earlier ad rows"
    yield "(`TPM in reload`: `full_7d` minus `no_tpm_7d`):\n"
    yield f"|slice|rows|{'|'.join(shown)}|"
    yield f"|-|-|{'-|' * len(shown)}"
    for part in figures["slices"]:
        cells = [_interval(part["gains"].get(name)) for name in shown]
        yield f"|{part['slice']}: {part['value']}|{part['rows']:,}|{'|'.join(cells)}|"


def _interval(data: Mapping[str, float] | None, form: str = "{:+.4f}") -> str:
    if data is None:
        return "–"
    value, low, high = (form.format(data[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
