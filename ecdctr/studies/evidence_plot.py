"""Picture of ``ecdctr evidence``: the gain of every arm over ads only, and for which users."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ecdctr.studies.evidence_figures import DEFAULT

__all__ = ["draw"]

_STRONG, _WEAK = "#1e6bb3", "#9aa5b1"
_SHOWN = (DEFAULT, "reload", "mixed_tpm")
_COLOURS = ("#1e6bb3", "#b3541e", "#3a9d7a")


def draw(path: Path, found: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> None:
    """Write the picture: by study, GAUC gained over ads-only with 95 % intervals, by arm and by the user's earlier ads.

    Parameters
    ----------
    path
        Path of the PNG.
    found
        :func:`ecdctr.studies.evidence_figures.figures` by study.
    titles
        Titles of the studies.
    """
    figure = Figure(figsize=(11, 3.6 * len(found)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(found), 2, squeeze=False)
    for (study, figures), (left, right) in zip(found.items(), axes, strict=True):
        _by_arm(left, figures)
        left.set_title(titles[study].split(" (")[0], loc="left")
        _by_history(right, figures)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _by_arm(axes: Axes, figures: Mapping[str, Any]) -> None:
    gains = {name: arm["vs_ads_only"] for name, arm in figures["arms"].items() if "vs_ads_only" in arm}
    names = sorted(gains, key=lambda name: float(gains[name]["value"]))
    for y, name in enumerate(names):
        gain = gains[name]
        colour = _STRONG if name == DEFAULT else _WEAK
        axes.plot([gain["low"], gain["high"]], [y, y], color=colour, linewidth=2)
        axes.plot([gain["value"]], [y], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("GAUC gained over ads_only")
    axes.grid(axis="x", alpha=0.3)


def _by_history(axes: Axes, figures: Mapping[str, Any]) -> None:
    parts = [part for part in figures["slices"] if part["slice"] == "earlier ads"]
    for i, (name, colour) in enumerate(zip(_SHOWN, _COLOURS, strict=True)):
        have = [(x, part["gains"][name]) for x, part in enumerate(parts) if name in part["gains"]]
        if not have:
            continue
        at = [x + 0.12 * (i - 1) for x, _ in have]
        for x, (_, gain) in zip(at, have, strict=True):
            axes.plot([x, x], [gain["low"], gain["high"]], color=colour, linewidth=2)
        axes.plot(at, [gain["value"] for _, gain in have], "o-", color=colour, markersize=5, label=name)
    axes.set_xticks(range(len(parts)), [str(part["value"]) for part in parts])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("the user's earlier ad rows")
    axes.set_ylabel("GAUC gained over ads_only")
    axes.grid(axis="y", alpha=0.3)
    if parts:
        axes.legend(frameon=False)
