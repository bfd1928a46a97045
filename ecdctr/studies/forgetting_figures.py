"""Figures of the forgetting study: the gain of TPM and of a longer CPM training for returning users and items, and backward transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.replay.metrics import gauc_contrast, gauc_difference, ne_difference, summary
from ecdctr.studies.forgetting_study import ARMS, Study

__all__ = ["ABSENCE", "CLAIMS", "PAIRS", "forgetting_figures"]

ABSENCE = ((1, 7), (7, 14), (14, 28), (28, 56), (56, None))
"""Days since the last day with rows, lower and upper bound."""

PAIRS = {
    "TPM, CPM of a month": ("month_tpm", "month"),
    "TPM, CPM of everything": ("all_tpm", "all"),
    "CPM of everything, no TPM": ("all", "month"),
    "TPM instead of older clicks": ("month_tpm", "all"),
}
"""The comparisons: first arm minus second."""

CLAIMS = ("14 days and more", "last seen before the live month")
"""Classes of absence on which the claims are tested; chosen before any figure was computed."""


def forgetting_figures(studies: Sequence[Study], *, samples: int = 1000) -> dict[str, Any]:
    """All figures of the page; users of different seeds are different users.

    Returns
    -------
    dict
        ``slices``: by absence of users and of items, GAUC by arm, GAUC and NE differences of :data:`PAIRS`.
        ``transfer``: by kind of period (``ad live``, ``natural live``, ``natural month``), GAUC of each period's held-out rows
        by the models at the end of this and of each later period, backward transfer by arm, and its change by TPM.
        ``rows``, ``played``, ``seconds``.
    """
    ads = _pool([study.ads for study in studies])
    return {
        "slices": [_slice(ads, *named, samples) for named in _classes(ads)],
        "transfer": {kind: _transfer(kind, studies, samples) for kind in _kinds(studies)},
        "rows": len(ads["label"]),
        "played": sum(study.rows for study in studies),
        "seconds": sum(study.seconds for study in studies),
    }


def _pool(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    apart = []
    for number, part in enumerate(parts):
        ids = np.unique(part["user"], return_inverse=True)[1].astype(np.int64)
        apart.append({**part, "user": ids + (number << 32)})
    return {name: np.concatenate([part[name] for part in apart]) for name in apart[0]}


def _classes(ads: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Each class of absence: user or item, its name, and its rows."""
    yield "all", "all", np.ones(len(ads["label"]), np.bool_)
    for who in ("user", "item"):
        away = ads[f"{who}_away"]
        for low, high in ABSENCE:
            label = f"{low} to {high - 1} days" if high else f"{low} days and more"
            yield who, label, (away >= low) & (away < (high or np.inf))
        yield who, CLAIMS[0], away >= 14
        if who == "user":
            yield who, CLAIMS[1], ads["before_live"]
        yield who, "never seen", away < 0


def _slice(
    ads: Mapping[str, NDArray[Any]], who: str, label: str, rows: NDArray[np.bool_], samples: int
) -> dict[str, Any]:
    y, user = ads["label"][rows], ads["user"][rows]
    scores = {arm: ads[f"p_{arm}"][rows] for arm in ("ads_only", *ARMS)}
    out: dict[str, Any] = {"who": who, "class": label, "rows": int(rows.sum()), "pairs": {}}
    if not rows.any():
        return out
    out["arms"] = {arm: summary(y, p, user)["gauc"] for arm, p in scores.items()}
    for name, (a, b) in PAIRS.items():
        out["pairs"][name] = {
            "gauc": asdict(gauc_difference(y, scores[a], scores[b], user, samples=samples)),
            "ne": asdict(ne_difference(y, scores[a], scores[b], user, samples=samples)),
        }
    return out


def _kinds(studies: Sequence[Study]) -> list[str]:
    return sorted({key.rpartition(" ")[0] for key in studies[0].probes})


def _transfer(kind: str, studies: Sequence[Study], samples: int) -> dict[str, Any]:
    """Backward transfer: GAUC at the end of the last period minus GAUC at the end of the rows' own period."""
    keys = sorted(key for key in studies[0].probes if key.rpartition(" ")[0] == kind)
    last = len(keys) - 1
    pooled = [_pool([study.probes[key] for study in studies]) for key in keys]
    arms = [arm for arm in ARMS if f"p_{arm}_{last}" in pooled[0]]
    pairs = {name: pair for name, pair in PAIRS.items() if set(pair) <= set(arms)}
    periods = []
    for number, columns in enumerate(pooled):
        y, user = columns["label"], columns["user"]
        curves = {
            arm: [summary(y, columns[f"p_{arm}_{k}"], user)["gauc"] for k in range(number, last + 1)]
            for arm in arms
        }
        periods.append({"period": number, "rows": len(y), "curves": curves})
    earlier = [_then_and_now(columns, number, last, arms) for number, columns in enumerate(pooled[:-1])]
    everything = {name: np.concatenate([part[name] for part in earlier]) for name in earlier[0]}
    for period, columns in zip(periods, earlier, strict=False):  # the last period has no later one
        period |= _changes(columns, arms, pairs, samples)
    return {"periods": periods, "together": _changes(everything, arms, pairs, samples)}


def _then_and_now(
    columns: Mapping[str, NDArray[Any]], number: int, last: int, arms: Sequence[str]
) -> dict[str, NDArray[Any]]:
    out = {"label": columns["label"], "person": columns["user"]}
    out["user"] = columns["user"] + (number << 48)  # ranked within the period
    for arm in arms:
        out[f"then_{arm}"], out[f"now_{arm}"] = columns[f"p_{arm}_{number}"], columns[f"p_{arm}_{last}"]
    return out


def _changes(
    columns: Mapping[str, NDArray[Any]],
    arms: Sequence[str],
    pairs: Mapping[str, tuple[str, str]],
    samples: int,
) -> dict[str, Any]:
    y, user = columns["label"], columns["user"]
    how: dict[str, Any] = {"samples": samples, "drawn_by": columns["person"]}

    def change(arm: str, sign: float) -> list[tuple[float, NDArray[Any]]]:
        return [(sign, columns[f"now_{arm}"]), (-sign, columns[f"then_{arm}"])]

    return {
        "transfer": {arm: asdict(gauc_contrast(y, change(arm, 1.0), user, **how)) for arm in arms},
        "pairs": {
            name: asdict(gauc_contrast(y, change(a, 1.0) + change(b, -1.0), user, **how))
            for name, (a, b) in pairs.items()
        },
    }
