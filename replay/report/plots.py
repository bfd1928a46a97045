"""Plots of a replay as inline SVG that uses the font and the colours of the page, light or dark."""

from __future__ import annotations

import datetime as dt
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from ecdctr.replay.figures import Calibration

__all__ = ["ORACLE_LOOK", "by_value", "calibration", "differences_by_day", "key", "series_by_day"]

# matplotlib supports fixed colours only. Each of these is replaced by a variable of the page's style sheet.
_INK, _RULE, _MARK = "#010203", "#010204", "#010205"
_COLOURS = tuple(f"#0102{10 + k:02d}" for k in range(9))
_VARIABLES = {_INK: "--muted", _RULE: "--rule", _MARK: "--release"} | {
    c: f"--arm-{k}" for k, c in enumerate(_COLOURS)
}

ORACLE_LOOK = 8
"""Look (colour, dashes, marker) of the oracle; arms take 0 to 7."""

_DASHES: tuple[Any, ...] = (*("-", (0, (5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1))) * 2, (0, (1.2, 1.2)))
_MARKERS = (*"osD^v<>P", "")

_EPOCH = dt.date(1970, 1, 1).toordinal()

Days = Sequence[Mapping[str, Any]]
Looks = Mapping[str, int]


def series_by_day(
    days: Days, looks: Looks, metric: str, releases: Sequence[int] = (), ideal: float | None = None
) -> str:
    """A metric by day, one line an arm; ``<metric>_low`` and ``_high``, if present, as a band.

    ``looks`` maps each arm to its look; ``ideal`` draws a horizontal line; ``releases`` (ms) are marked by vertical lines.
    """

    def draw(axes: Axes) -> None:
        at = _noons(days)
        for arm, k in looks.items():
            figures = [d["arms"].get(arm, {}) for d in days]
            values = [f.get(metric, math.nan) for f in figures]
            if f"{metric}_low" in figures[0] and k != ORACLE_LOOK:
                low, high = ([f.get(f"{metric}_{end}", math.nan) for f in figures] for end in ("low", "high"))
                axes.fill_between(at, low, high, color=_COLOURS[k], alpha=0.14, linewidth=0)
            _line(axes, at, values, k)
        if ideal is not None:
            axes.axhline(ideal, color=_INK, linewidth=0.8, zorder=1)
        _mark(axes, releases, at)

    return _svg(draw)


def differences_by_day(days: Days, looks: Looks, releases: Sequence[int] = ()) -> str:
    """GAUC difference to the control by day, with its interval; a horizontal line marks 0."""

    def draw(axes: Axes) -> None:
        at = _noons(days)
        apart = 0.2
        for i, (arm, k) in enumerate(looks.items()):
            found = [d["differences"].get(arm, {}) for d in days]
            value, low, high = ([f.get(k, math.nan) for f in found] for k in ("value", "low", "high"))
            moved = [t + apart * (i - (len(looks) - 1) / 2) for t in at]
            below = [v - a for v, a in zip(value, low, strict=True)]
            above = [b - v for v, b in zip(value, high, strict=True)]
            axes.errorbar(
                moved, value, [below, above], linestyle="none", elinewidth=1.1,
                color=_COLOURS[k], marker=_MARKERS[k], markersize=3.2,
            )  # fmt: skip
        axes.axhline(0, color=_INK, linewidth=0.8, zorder=1)
        _mark(axes, releases, at)

    return _svg(draw)


def by_value(
    slices: Sequence[Mapping[str, Any]], looks: Looks, names: tuple[str, str, str], zero: bool = False
) -> str:
    """A figure of each value of a slice, by arm, with its interval.

    ``slices`` are the rows of one slice and domain; ``names`` are the keys of the figure and its bounds; ``zero`` draws a
    horizontal line at 0.
    """
    values = list(dict.fromkeys(row["value"] for row in slices))
    found = {(row["arm"], row["value"]): [_number(row.get(n)) for n in names] for row in slices}

    def draw(axes: Axes) -> None:
        apart = 0.7 / max(1, len(looks))
        for i, (arm, k) in enumerate(looks.items()):
            points = [found.get((arm, value), [math.nan] * 3) for value in values]
            at = [j + apart * (i - (len(looks) - 1) / 2) for j in range(len(values))]
            below, above = [v - low for v, low, _ in points], [high - v for v, _, high in points]
            axes.errorbar(
                at, [v for v, _, _ in points], [below, above], linestyle="none", elinewidth=1.1,
                color=_COLOURS[k], marker=_MARKERS[k] or "_", markersize=3.6,
            )  # fmt: skip
        if zero:
            axes.axhline(0, color=_INK, linewidth=0.8, zorder=1)
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_xticks(
            range(len(values)), [value.replace(" and ", "\nand ") for value in values], fontsize=8
        )

    return _svg(draw)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def calibration(curves: Mapping[str, Calibration], looks: Looks) -> str:
    """Observed CTR over mean prediction of equally large groups, on logarithmic axes; the diagonal is ideal."""

    def draw(axes: Axes) -> None:
        shown: list[float] = []
        for arm, k in looks.items():
            pairs = zip(curves[arm]["predicted"], curves[arm]["observed"], strict=True)
            points = [(p, o) for p, o in pairs if p > 0 and o > 0]
            shown += [v for point in points for v in point]
            _line(axes, [p for p, _ in points], [o for _, o in points], k)
        if shown:
            low, high = min(shown) / 1.3, min(1.0, max(shown) * 1.3)
            axes.plot([low, high], [low, high], color=_INK, linewidth=0.8, zorder=1)
            axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda v, _: f"{v:g}")
                axis.set_minor_formatter("")
                axis.set_tick_params(which="minor", length=0)
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("CTR")

    return _svg(draw)


def key(k: int | None) -> str:
    """A legend entry: the line of look ``k``, or for None that of a release."""
    if k is None:
        line, colour, pattern = 'x1="16" y1="0" x2="16" y2="12"', "--release", "2.5 2.5"
    else:
        line, colour, dashes = 'x1="0" y1="6" x2="32" y2="6"', f"--arm-{k}", _DASHES[k]
        pattern = "none" if dashes == "-" else " ".join(str(2 * n) for n in dashes[1])
    style = f"stroke: var({colour}); stroke-width: 2.5; stroke-dasharray: {pattern}"
    return f'<svg viewBox="0 0 32 12" aria-hidden="true"><line {line} style="{style}"/></svg>'


def _line(axes: Axes, x: Sequence[Any], y: Sequence[float], k: int) -> None:
    few = len(x) <= 40
    axes.plot(
        x, y, color=_COLOURS[k], linestyle=_DASHES[k], linewidth=1.5,
        marker=_MARKERS[k] if few else "", markersize=2.8,
    )  # fmt: skip


def _noons(days: Days) -> list[float]:
    """Days since the epoch, as matplotlib counts time."""
    return [dt.date.fromisoformat(d["day"]).toordinal() - _EPOCH + 0.5 for d in days]


def _mark(axes: Axes, releases: Sequence[int], at: Sequence[float]) -> None:
    first, last = at[0] - 0.5, at[-1] + 0.5
    axes.set_xlim(first, last)
    locator = AutoDateLocator(minticks=2, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=True))
    for clock in releases:
        if first <= clock / 86_400_000 <= last:
            axes.axvline(clock / 86_400_000, color=_MARK, linewidth=1, linestyle=(0, (2, 2)), zorder=0)


@contextmanager
def _style() -> Iterator[None]:
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ecdctr",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _RULE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _RULE,
        "grid.linewidth": 0.6,
        "xtick.color": _RULE,
        "ytick.color": _RULE,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
    }
    with matplotlib.rc_context(settings):
        yield


def _svg(draw: Callable[[Axes], None]) -> str:
    """Draw on axes of a size that is readable on a phone, and replace the colours by variables."""
    with _style():
        figure = Figure(figsize=(4.5, 2.75), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        figure.axes[0].set_axisbelow(True)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]+"', "<g", svg)  # the same in every plot, and unused
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
