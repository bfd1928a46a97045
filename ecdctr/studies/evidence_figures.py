"""Figures of ``ecdctr evidence``: every arm on identical rows, with intervals, by a user's absence and number of earlier ads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.models.probability import log_losses
from ecdctr.replay.metrics import gauc_difference, gauc_interval, summary

__all__ = ["DAYS_AWAY", "DEFAULT", "EARLIER_ADS", "bars", "figures", "pool"]

DEFAULT = "default"
"""Name of the score that the default settings would serve."""

CONTROLS = ("ads_only", "ads_bayes_fm")
"""Arms trained on ads only, one of each model family; the first is the control for the paper's network."""

DAYS_AWAY = ((0, 1), (1, 7), (7, 14), (14, None))
"""Days since the user's last row in either stream, lower and upper bound; users without earlier rows are a separate class."""

EARLIER_ADS = ((0, 1), (1, 5), (5, 20), (20, None))
"""Ad rows of the user before this one, lower and upper bound."""

Columns = Mapping[str, NDArray[Any]]


def pool(parts: Sequence[Columns], *, same_people: bool = False) -> dict[str, NDArray[Any]]:
    """Rows of several runs as one table; users of different runs are different users.

    Column ``person`` is the unit that the bootstrap resamples: with ``same_people`` (one log, models of several seeds) a
    user of all runs together, else a user of one run.
    """
    apart = []
    for number, part in enumerate(parts):
        ids = np.unique(part["user"], return_inverse=True)[1].astype(np.int64)
        mine = ids + (number << 40)
        person = part["user"].astype(np.int64) if same_people else mine
        apart.append({**part, "user": mine, "person": person})
    return {name: np.concatenate([part[name] for part in apart]) for name in apart[0]}


def arms_of(columns: Columns) -> dict[str, NDArray[Any]]:
    """Scores by arm, if every row has one; raw CPM is left out, since it predicts the natural click rate."""
    scores = {n[2:]: p for n, p in columns.items() if n.startswith("p_") and not np.isnan(p).any()}
    scores.pop("cpm", None)
    if not np.isnan(columns["oracle"]).any():
        scores["oracle"] = columns["oracle"]
    return scores


def figures(
    parts: Sequence[Columns],
    *,
    steps: Sequence[tuple[str, str]] = (),
    same_people: bool = False,
    samples: int = 1000,
) -> dict[str, Any]:
    """Figures of one study, with all of its runs pooled.

    Parameters
    ----------
    parts
        Evaluated ad rows of each run, as columns of the score log with ``days_away`` and ``earlier_ads``.
    steps
        Pairs of arms whose GAUC difference (first minus second) is computed, beside those to ads-only and mixed + TPM.
    same_people
        Runs of one log with models of several seeds, see :func:`pool`.
    samples
        Draws of the bootstrap.

    Returns
    -------
    dict
        ``arms[name]``: as :func:`ecdctr.replay.metrics.summary`, with ``interval`` of GAUC, ``share_closed`` (of the way from
        ads-only to the oracle; NaN without one), ``share_closed_best`` (the same from the better of :data:`CONTROLS`), ``vs_ads_only`` and ``vs_mixed_tpm`` (GAUC differences, paired over
        users). ``losses[name]``: log loss minus that of ads-only, with its interval. ``steps["a - b"]``: differences.
        ``shares``: ``share_closed`` of the serving arm in each run. ``slices``: see :func:`_slices`. ``rows``.
    """
    columns = pool(parts, same_people=same_people)
    y, user, person = columns["label"], columns["user"], columns["person"]
    scores = arms_of(columns)
    how: dict[str, Any] = {"samples": samples, "drawn_by": person}
    arms: dict[str, dict[str, Any]] = {name: summary(y, p, user) for name, p in scores.items()}
    for name, p in scores.items():
        arms[name]["interval"] = asdict(gauc_interval(y, p, user, **how))
        for base in ("ads_only", "mixed_tpm"):
            if name not in (base, "oracle") and base in scores:
                arms[name][f"vs_{base}"] = asdict(gauc_difference(y, p, scores[base], user, **how))
        arms[name]["share_closed"] = _share(arms, name, "ads_only")
        arms[name]["share_closed_best"] = _share(arms, name, best_control(arms))
    return {
        "arms": arms,
        "losses": {
            name: loss_difference(y, p, scores["ads_only"], person, samples=samples)
            for name, p in scores.items()
            if name not in ("ads_only", "oracle")
        },
        "steps": {
            f"{a} - {b}": asdict(gauc_difference(y, scores[a], scores[b], user, **how))
            for a, b in steps
            if a in scores and b in scores
        },
        "shares": [_run_share(part) for part in parts],
        "slices": _slices(columns, scores, samples),
        "rows": len(y),
    }


def loss_difference(
    y: NDArray[Any],
    p: NDArray[Any],
    base: NDArray[Any],
    user: NDArray[Any],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Mean log loss of ``p`` minus that of ``base``, with its 95 % interval by bootstrap over users; below 0 is better."""
    difference = log_losses(y > 0, p) - log_losses(y > 0, base)
    who = np.unique(user, return_inverse=True)[1]
    gain, rows = np.bincount(who, difference), np.bincount(who)
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = np.empty(samples)
    for i in range(samples):
        times = rng.multinomial(len(rows), np.full(len(rows), 1.0 / len(rows)))
        drawn[i] = (times * gain).sum() / (times * rows).sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(gain.sum() / rows.sum()), "low": float(low), "high": float(high)}


def _rankable(y: NDArray[Any], user: NDArray[Any]) -> bool:
    """Whether any user has both a click and a non-click; otherwise GAUC is undefined."""
    who = np.unique(user, return_inverse=True)[1]
    clicks, rows = np.bincount(who, y), np.bincount(who)
    return bool(((clicks > 0) & (clicks < rows)).any())


def _slices(columns: Columns, scores: Mapping[str, NDArray[Any]], samples: int) -> list[dict[str, Any]]:
    """GAUC gains of every arm over ads-only, by the days since the user's last row and by the user's earlier ad rows."""
    out: list[dict[str, Any]] = []
    for name, column, edges in (
        ("days away", columns["days_away"], DAYS_AWAY),
        ("earlier ads", columns["earlier_ads"], EARLIER_ADS),
    ):
        bins = [(_label(low, high), (column >= low) & (column < (high or np.inf))) for low, high in edges]
        if name == "days away":
            bins.append(("never seen", column < 0))
        for label, rows in bins:
            y, user = columns["label"][rows], columns["user"][rows]
            if not rows.any() or not _rankable(y, user):
                continue
            how: dict[str, Any] = {"samples": samples, "drawn_by": columns["person"][rows]}
            gains = {
                arm: asdict(gauc_difference(y, p[rows], scores["ads_only"][rows], user, **how))
                for arm, p in scores.items()
                if arm not in ("ads_only", "oracle")
            }
            if {"full_7d", "no_tpm_7d"} <= set(scores):
                pair = (scores["full_7d"][rows], scores["no_tpm_7d"][rows])
                gains["TPM in reload"] = asdict(gauc_difference(y, *pair, user, **how))
            out.append({"slice": name, "value": label, "rows": int(rows.sum()), "gains": gains})
    return out


def _label(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} and more"
    return str(low) if high == low + 1 else f"{low} to {high - 1}"


def best_control(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """The better of the arms that are trained on ads only and read no TPM."""
    return max((name for name in CONTROLS if name in arms), key=lambda name: float(arms[name]["gauc"]))


def _share(arms: Mapping[str, Mapping[str, Any]], name: str, control: str) -> float:
    if "oracle" not in arms:
        return float("nan")
    base, best = arms[control]["gauc"], arms["oracle"]["gauc"]
    return float((arms[name]["gauc"] - base) / (best - base))


def _run_share(part: Columns) -> float:
    if np.isnan(part["oracle"]).any():
        return float("nan")
    got, base, best = (
        summary(part["label"], part[name], part["user"])["gauc"]
        for name in (f"p_{DEFAULT}", "p_ads_only", "oracle")
    )
    return float((got - base) / (best - base))


def bars(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures with a required minimum; None for a study that was not run."""

    def of(study: str, *path: str) -> float | None:
        node: Any = found.get(study)
        for key in ("arms", DEFAULT, *path):
            node = None if node is None else node.get(key)
        return None if node is None else round(float(node), 4)

    return {
        "share_closed": of("simulator", "share_closed"),
        "share_closed_v_best_control": of("simulator", "share_closed_best"),
        "vs_mixed_tpm_low": of("simulator", "vs_mixed_tpm", "low"),
        "eb_b_vs_ads_low": of("ebnerd_b", "vs_ads_only", "low"),
        "eb_b_vs_mixed_tpm_high": of("ebnerd_b", "vs_mixed_tpm", "high"),
        "eb_a_vs_ads_low": of("ebnerd_a", "vs_ads_only", "low"),
        "pcoc": of("simulator", "pcoc"),
    }
