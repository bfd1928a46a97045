"""``propose``: from sampled rows to a description of the log that can be replayed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import DAY_MS
from ecdctr.replay.guesses.apart import Apart, apart
from ecdctr.replay.guesses.features import (
    FeatureGuess,
    LeftOut,
    buckets_for,
    expected_distinct,
    guess_feature,
)
from ecdctr.replay.guesses.findings import Found
from ecdctr.replay.guesses.identities import Identities, find_identities
from ecdctr.replay.guesses.labels import LabelReading, by_condition, find_label, is_condition
from ecdctr.replay.guesses.leaks import leak
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.guesses.samples import Sample
from ecdctr.replay.guesses.streams import StreamReading, find_stream
from ecdctr.replay.guesses.times import TimeReading, find_time
from ecdctr.replay.sources import ListsMap
from ecdctr.state.errors import RowsRejectedError

__all__ = ["ROLES", "Feature", "Proposal", "TableGuess", "propose"]

ROLES = ("time", "label", "user", "item")
"""Roles for which a column can be named."""

_OWN = ("domain", "event_id", "ts", "user_id", "item_id", "label", "list_id", "oracle")
_MOST_IMPRESSIONS = 200_000
_MOST_FEATURES = 100
_FEW_ROWS = 20
_WINDOW_MS = 10 * 60_000


@dataclass(eq=False)
class TableGuess:
    """How one table is read.

    Attributes
    ----------
    impressions
        Sampled rows, one for each impression.
    clicked
        0 and 1 of each of them, NaN where unknown.
    sorted
        Whether its rows are in the order of time, except within ten minutes.
    """

    sample: Sample
    time: TimeReading
    label: LabelReading
    ids: Identities
    user: str
    item: str
    stream: StreamReading
    impressions: pl.DataFrame
    clicked: NDArray[np.float64]
    sorted: bool
    found: Found
    joined: Apart | None

    def values(self, name: str) -> pl.Series:
        """Sampled values of a column: one for each row, or one for each item if it is a list of these."""
        expansion = self.label.expansion
        along = isinstance(expansion, ListsMap) and name in expansion.along
        return self.impressions[name] if along else self.sample.frame[name]

    @property
    def rows(self) -> int:
        """Expected number of impressions."""
        return round(self.sample.rows * self.label.rows_each)

    @property
    def used(self) -> set[str]:
        """Columns with a role."""
        spec = self.time.spec
        named = {
            None if isinstance(spec, str) else spec.clock,
            self.time.profile.name,
            *self.label.used,
            self.user,
            self.item,
            self.ids.list_id,
            self.ids.event_id,
            self.stream.column,
        }
        return {name for name in named if name is not None} | set(self.ids.also)


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature and the column of each table (by index) that it is read from."""

    guess: FeatureGuess
    columns: Mapping[int, str]

    @property
    def spec(self) -> FeatureSpec:
        """Its settings."""
        return self.guess.spec


@dataclass(eq=False)
class Proposal:
    """How a log is read.

    Attributes
    ----------
    rows
        Expected number of impressions.
    span_ms
        Time that the sampled rows cover.
    """

    tables: list[TableGuess]
    features: list[Feature]
    found: Found
    rows: int = 0
    span_ms: int = 0
    passed_over: list[str] = field(default_factory=list)


def propose(samples: Sequence[Sample], wanted: Mapping[str, str] | None = None) -> Proposal:
    """Find out how a log is read.

    1. Of each table: time, label, stream, identities. Tables without them are passed over if another one has them.
    2. Of each other column: whether it is a leak.
    3. Of the rest: features, over all tables.

    Parameters
    ----------
    wanted
        Columns that the user of the command has named, by role.

    Raises
    ------
    RowsRejectedError
        No table can be replayed; the message says what is missing, and which columns there are.
    """
    found = Found()
    tables: list[TableGuess] = []
    failures: list[str] = []
    pairs: list[tuple[Sample, Apart | None]] = (
        [(sample, None) for sample in samples] if "label" in (wanted or {}) else apart(samples)
    )
    for sample, joined in pairs:
        own = Found()
        guess = _table(sample, dict(wanted or {}), own, joined) if len(sample.frame) else _too_few(sample)
        if isinstance(guess, str):
            few = 0 < len(sample.frame) < _FEW_ROWS
            failures.append(f"{_too_few(sample)}. With these: {guess}" if few else guess)
        else:
            tables.append(guess)
            found.all += own.all
    if not tables:
        raise RowsRejectedError(failures[0])
    names = dict.fromkeys(
        name
        for t in tables
        for name in t.impressions.columns
        if name not in t.used and not name.startswith("@")
    )
    features = _identities_as_features(tables) + _features(tables, list(names), found)
    return Proposal(tables, features, found, sum(t.rows for t in tables), _span_ms(tables), failures)


def _too_few(sample: Sample) -> str:
    n = len(sample.frame)
    rows = f"only {n} row{'s' if n > 1 else ''}" if n else "no rows"
    return f"{sample.label} has {rows}: give a sample of at least some hundred, because the values decide what a column means"


def _table(
    sample: Sample, wanted: dict[str, str], found: Found, joined: Apart | None = None
) -> TableGuess | str:
    """How a table is read, or what it lacks."""
    profiles = [Profile(column, text_numbers=sample.text_numbers) for column in sample.frame]
    for role, name in wanted.items():
        if name not in sample.frame.columns and not (role == "label" and is_condition(name)):
            return f"{sample.label} has no column {name!r}, which you named as {role}; {_columns(profiles)}"
    time = find_time([p for p in profiles if wanted.get("time") in (None, p.name)], found)
    if time is None:
        return (
            f"{sample.label}: no column is the time of the events, and without it the rows cannot be replayed in their order; {_columns(profiles)}. "
            "If one of them is, name it: --use time=COLUMN"
        )
    clock = None if isinstance(time.spec, str) else time.spec.clock
    others = [p for p in profiles if p is not time.profile and p.name != clock]
    label: LabelReading | None
    if joined is not None:
        label = _joined_label(joined, found)
    elif is_condition(wanted.get("label", "")):
        label = by_condition(sample.frame, wanted["label"], sample.label, found)
    else:
        label = find_label(others, found, wanted.get("label"))
    if label is None:
        return (
            f"{sample.label}: no column says which rows were clicked (0 and 1, an action such as click and view, counts of views and clicks, or a "
            f"list of the clicked items); {_columns(profiles)}. A click model needs rows that were shown, clicked and not clicked. If a column says "
            "it, name it: --use label=COLUMN, or a condition on it: --use 'label=COLUMN in [\"VALUE\"]', --use 'label=COLUMN > 10'"
        )
    others = [
        p for p in others if p.name not in label.used or (joined is not None and p.name == joined.column)
    ]
    stream = find_stream(others, sample.stream, sample.label, found, paired=sample.paired)
    ids = find_identities(
        [p for p in others if p.name != stream.column],
        time,
        found,
        item=label.expansion.items if isinstance(label.expansion, ListsMap) else None,
        wanted={role: name for role, name in wanted.items() if role in ("user", "item")},
        expanded=label.expansion is not None,
        key=joined.column if joined is not None else None,
        later=[p.name for p in others if leak(p, label.clicked, None)],
    )
    item = ids.item
    if item is None and isinstance(label.expansion, ListsMap):
        item = label.expansion.items
        found.add("item", item, "item_id", "sure", "the items of the lists")
    if ids.user is None or item is None:
        role = "user" if ids.user is None else "item"
        return (
            f"{sample.label}: no column tells {role}s apart (an identifier with many values, each in several rows); {_columns(profiles)}. If one "
            f"of them does, name it: --use {role}=COLUMN"
        )
    impressions, clicked = _impressions(sample.frame, label)
    late = np.maximum.accumulate(time.known) - time.known
    return TableGuess(
        sample,
        time,
        label,
        ids,
        ids.user,
        item,
        stream,
        impressions,
        clicked,
        bool((late <= _WINDOW_MS).all()) and len(sample.files) == 1,
        found,
        joined,
    )


def _joined_label(joined: Apart, found: Found) -> LabelReading:
    """The label of impressions whose clicks are rows of their own."""
    where = "" if joined.clicks is None else f" of {joined.clicks.sample.label}"
    decision = f"clicks{where} are joined by {joined.field}"
    found.add(
        "label",
        joined.column,
        decision,
        "sure",
        f"{joined.why}; {joined.clicked.mean():.1%} of the impressions are clicked",
    )
    used = [joined.column] if joined.action is None else [joined.column, joined.action[0]]
    return LabelReading(None, None, used, joined.clicked)


def _columns(profiles: Sequence[Profile]) -> str:
    kinds = {
        "text": "texts",
        "integer": "whole numbers",
        "number": "numbers",
        "boolean": "booleans",
        "list": "lists",
        "time": "times",
        "empty": "nothing",
        "other": "other",
    }
    shown = [f"{p.name} ({_few_values(p) or f'{p.distinct:,} {kinds[p.kind]}'})" for p in profiles[:30]]
    return f"its columns are {', '.join(shown)}{', ...' if len(profiles) > 30 else ''}"


def _few_values(profile: Profile) -> str | None:
    """The values of a column that has two or three short ones."""
    if profile.kind not in ("text", "integer", "boolean") or not 1 < profile.distinct <= 3:
        return None
    texts = sorted(str(v).lower() if isinstance(v, bool) else str(v) for v in profile.values.unique())
    return "/".join(texts) if max(map(len, texts)) <= 20 else None


def _impressions(frame: pl.DataFrame, label: LabelReading) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    if label.expansion is None:
        assert label.clicked is not None
        return frame, label.clicked
    few = frame.head(max(200, round(_MOST_IMPRESSIONS / max(1.0, label.rows_each))))
    parts: list[pl.DataFrame] = []
    for part in label.expansion.expand(few):
        parts.append(part.frame)
        if sum(map(len, parts)) > _MOST_IMPRESSIONS:
            break
    out = pl.concat(parts, how="vertical_relaxed")
    return out, out["@clicked"].fill_null(np.nan).to_numpy().astype(np.float64)


def _span_ms(tables: Sequence[TableGuess]) -> int:
    """Event time that the sampled rows cover, without the few whose clock was wrong."""
    low, high = np.quantile(np.concatenate([t.time.known for t in tables]), (0.005, 0.995))
    return round(float(high - low) / 0.99)


def _identities_as_features(tables: Sequence[TableGuess]) -> list[Feature]:
    """User and item, and hour and weekday if the times have them."""
    out: list[Feature] = []
    rows = sum(t.rows for t in tables)
    for role in ("user", "item"):
        texts: list[pl.Series] = []
        for t in tables:
            name = t.user if role == "user" else t.item
            profile = Profile(t.impressions[name], text_numbers=False)
            texts.append(profile.column.cast(pl.String, strict=False))
        both = Profile(pl.concat(texts).alias(role), text_numbers=False)
        total = expected_distinct(both.codes[both.codes >= 0], rows)
        spec = FeatureSpec(name=role, field=f"{role}_id", buckets=buckets_for(total), tpm=True)
        out.append(
            Feature(
                FeatureGuess(
                    spec, None, "sure", f"{both.distinct:,} in the sample, about {total:,} in the log"
                ),
                {},
            )
        )
    finest = min(t.time.resolution for t in tables)
    if finest < DAY_MS:
        out.append(
            Feature(
                FeatureGuess(
                    FeatureSpec(name="hour", field="@hour", buckets=24), None, "sure", "computed from ts, UTC"
                ),
                {},
            )
        )
    if _span_ms(tables) > 7 * DAY_MS:
        out.append(
            Feature(
                FeatureGuess(
                    FeatureSpec(name="weekday", field="@weekday", buckets=7),
                    None,
                    "sure",
                    "computed from ts, UTC",
                ),
                {},
            )
        )
    return out


def _features(tables: Sequence[TableGuess], names: Sequence[str], found: Found) -> list[Feature]:
    out: list[Feature] = []
    taken = {"user", "item", "hour", "weekday", *_OWN}
    rows = sum(t.rows for t in tables)
    for name in names:
        inside = [
            (i, t) for i, t in enumerate(tables) if name in t.impressions.columns and name not in t.used
        ]
        reason = None
        for _, t in inside:
            item = Profile(t.impressions[t.item])
            profile = Profile(t.impressions[name], text_numbers=t.sample.text_numbers)
            reason = reason or leak(profile, t.clicked, item)
        if reason is not None:
            found.add(
                "leak",
                name,
                "left out",
                reason[0],
                reason[1],
                "add it as a feature if it is known before the impression" if reason[0] != "sure" else None,
            )
            continue
        if found.of("left out") and any(f.column == name for f in found.of("left out")):
            continue
        if any(name in t.sample.mixed for _, t in inside):
            found.add("left out", name, "no feature", "sure", "it is a list or an object in some files only")
            continue
        merged = Profile(
            _merged([t.values(name) for _, t in inside]),
            text_numbers=all(t.sample.text_numbers for _, t in inside),
        )
        live = any(not t.sample.files for _, t in inside)
        if live and "." in name:
            found.add(
                "left out",
                name,
                "no feature",
                "sure",
                "a nested field: a worker reads the fields of the message itself",
            )
            continue
        key = name if live else _free(re.sub(r"\W+", "_", name).strip("_") or "column", taken)
        guess = guess_feature(merged, key, rows)
        if isinstance(guess, LeftOut):
            found.add("left out", name, "no feature", guess.confidence, guess.why, guess.look)
        elif len(out) >= _MOST_FEATURES:
            found.add(
                "left out",
                name,
                "no feature",
                "likely",
                f"there are {_MOST_FEATURES} features already",
                "is it better than one of them?",
            )
        else:
            taken.add(key)
            out.append(Feature(guess, {i: name for i, _ in inside}))
            found.add("feature", name, _described(guess.spec), guess.confidence, guess.why, guess.look)
    return out


def _described(spec: FeatureSpec) -> str:
    if spec.kind == "numeric":
        return "numeric, log1p" if spec.transform == "log1p" else "numeric"
    return f"{spec.kind}, {spec.buckets:,} buckets"


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _merged(columns: Sequence[pl.Series]) -> pl.Series:
    if len(columns) == 1:
        return columns[0]
    try:
        return pl.concat([pl.DataFrame([c]) for c in columns], how="vertical_relaxed").to_series()
    except pl.exceptions.PolarsError:
        texts = [
            pl.Series(c.name, [None if v is None else str(v) for v in c.to_list()], dtype=pl.String)
            for c in columns
        ]
        return pl.concat(texts)
