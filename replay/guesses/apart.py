"""Logs in which a click is a row of its own, beside the row of its impression: how the two are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.replay.guesses.findings import Found
from ecdctr.replay.guesses.labels import click_values, find_label
from ecdctr.replay.guesses.names import hint
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.guesses.samples import Sample
from ecdctr.replay.guesses.times import TimeReading, find_time

__all__ = ["Apart", "Clicks", "apart"]

_MOST_KEYS = 30
_JOINED, _UNIQUE = 0.8, 0.98


@dataclass(frozen=True, eq=False)
class Clicks:
    """A table of clicks: its sample, its time, and its columns of the key and of the item."""

    sample: Sample
    time: TimeReading
    key: str
    item: str | None


@dataclass(frozen=True, eq=False)
class Apart:
    """How impressions and clicks are told apart and joined.

    Attributes
    ----------
    field
        ``impression_id``, or ``request_id``: the key is the request together with the item.
    column
        Column of the key in the impressions.
    action
        Of a table that holds both: its column, the values of impressions, and those of clicks.
    clicks
        The table of the clicks, if they are in another one.
    clicked
        0 and 1 of each sampled impression.
    why
        The evidence.
    """

    field: Literal["impression_id", "request_id"]
    column: str
    action: tuple[str, tuple[str, ...], tuple[str, ...]] | None
    clicks: Clicks | None
    clicked: NDArray[np.float64]
    why: str


def apart(samples: Sequence[Sample]) -> list[tuple[Sample, Apart | None]]:
    """The samples of labelled rows and of impressions; clicks that are a table of their own go with their impressions.

    A key is a column whose values differ in all impressions, and in which nearly all clicks have the value of an impression.
    """
    out: list[tuple[Sample, Apart | None]] = []
    without: list[Sample] = []
    for sample in samples:
        both = _one_table(sample)
        if both is not None:
            out.append(both)
        elif _has_label(sample):
            out.append((sample, None))
        else:
            without.append(sample)
    while without:
        first = without.pop(0)
        for other in without:
            pair = _two_tables(first, other) or _two_tables(other, first)
            if pair is not None:
                out.append(pair)
                without.remove(other)
                break
        else:
            out.append((first, None))
    return out


def _profiles(sample: Sample) -> list[Profile]:
    return [Profile(column, text_numbers=sample.text_numbers) for column in sample.frame]


def _has_label(sample: Sample) -> bool:
    found = Found()
    return find_label(_profiles(sample), found) is not None and found.all[0].confidence != "guess"


def _one_table(sample: Sample) -> tuple[Sample, Apart] | None:
    for profile in _profiles(sample):
        values = click_values(profile)
        if values is None:
            continue
        shown, clicked = values
        rows = [sample.frame.filter(pl.col(profile.name).is_in(v)) for v in (shown, clicked)]
        key = _key(*rows)
        if key is None:
            continue
        field, column, _, _, marks, why = key
        share = len(rows[0]) / max(1, len(sample.frame))
        rest = len(sample.frame) - len(rows[0]) - len(rows[1])
        others = f"{len(rows[1]):,} clicks" + (f", {rest:,} others that are left out" if rest else "")
        views = replace(
            sample,
            frame=rows[0],
            rows=round(share * sample.rows),
            table_rows=(len(sample.frame), sample.rows),
            others=others,
        )
        return views, Apart(field, column, (profile.name, shown, clicked), None, marks, why)
    return None


def _two_tables(views: Sample, clicks: Sample) -> tuple[Sample, Apart] | None:
    key = _key(views.frame, clicks.frame)
    time = find_time(_profiles(clicks), Found())
    if key is None or time is None or len(clicks.frame) > len(views.frame):
        return None
    field, column, other, item, marks, why = key
    return views, Apart(field, column, None, Clicks(clicks, time, other, item), marks, why)


_Key = tuple[Literal["impression_id", "request_id"], str, str, str | None, NDArray[np.float64], str]
"""Field, column in the impressions and in the clicks, the clicks' item, labels of the impressions, evidence."""


def _key(views: pl.DataFrame, clicks: pl.DataFrame) -> _Key | None:
    texts = [{c.name: _ids(c) for c in frame if _may_be_key(c)} for frame in (views, clicks)]
    shown, clicked = texts
    if len(clicks) < 3 or len(views) < 3:
        return None
    names = sorted(shown, key=lambda n: -max(hint("list", n), hint("event", n), hint("views", n)))[
        :_MOST_KEYS
    ]
    for name in names:
        for other in [name] if name in clicked else _alike(name, clicked):
            known = clicked[other].is_in(shown[name].implode())
            share = float(known.sum() or 0) / len(known)
            if share < _JOINED:
                continue
            if shown[name].n_unique() >= _UNIQUE * len(views):
                marks = shown[name].is_in(clicked[other].implode())
                why = f"{name} differs in all impressions, and {share:.0%} of the clicks have that of one"
                return "impression_id", name, other, None, _marks(marks), why
            for item in (n for n in shown if n != name and hint("item", n) and n in clicked):
                pairs = pl.DataFrame({"k": shown[name], "i": shown[item]})
                hits = pl.DataFrame({"k": clicked[other], "i": clicked[item]}).unique()
                found = hits.join(pairs, on=["k", "i"], how="semi").height / max(1, len(hits))
                if (
                    pairs.n_unique() >= _UNIQUE * len(views)
                    and found >= _JOINED
                    and shown[name].n_unique() > 0.05 * len(views)
                ):
                    marks = pairs.join(
                        hits.with_columns(hit=pl.lit(True)), on=["k", "i"], how="left", maintain_order="left"
                    )["hit"]
                    why = f"{name} and {item} differ in all impressions, and {found:.0%} of the clicks have those of one"
                    return "request_id", name, other, item, _marks(marks.fill_null(False)), why
    return None


def _alike(name: str, others: dict[str, pl.Series]) -> list[str]:
    """Columns of the clicks that may be the same identifier under another name."""
    roles = [role for role in ("list", "event") if hint(role, name)]
    return [other for other in others if any(hint(role, other) for role in roles)]


def _may_be_key(column: pl.Series) -> bool:
    return (
        (column.dtype.is_integer() or column.dtype in (pl.String, pl.Binary))
        and hint("time", column.name) < 1
        and column.null_count() < len(column)
    )


def _ids(column: pl.Series) -> pl.Series:
    return Profile(column, text_numbers=False).column.cast(pl.String, strict=False).fill_null("")


def _marks(column: pl.Series) -> NDArray[np.float64]:
    return column.cast(pl.Float64).to_numpy().astype(np.float64)
