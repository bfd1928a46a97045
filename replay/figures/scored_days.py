"""Scored rows, one event day at a time, so that a report needs no complete log in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.time import DAY_MS
from ecdctr.state.row_logs import ScoreLog

__all__ = [
    "ORACLE",
    "Columns",
    "ScoredDays",
    "ScoredRows",
    "Shape",
    "common_rows",
    "days_of",
    "survey",
]

ORACLE = "oracle"
"""Name of the arm that holds a simulator's true probabilities."""

Columns = Mapping[str, NDArray[Any]]


@runtime_checkable
class ScoredDays(Protocol):
    """Scored rows by event day; :meth:`days` may be called repeatedly."""

    def days(self) -> Iterator[tuple[int, Columns]]:
        """Each event day (``ts // DAY_MS``), oldest first, with the columns of its rows."""
        ...


class _InMemory:
    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def days(self) -> Iterator[tuple[int, Columns]]:
        day = self._columns["ts"] // DAY_MS
        order = np.argsort(day, kind="stable")
        edge = np.flatnonzero(np.diff(day[order])) + 1
        for rows in np.split(order, edge) if len(order) else ():
            yield int(day[rows[0]]), {name: values[rows] for name, values in self._columns.items()}


class _OfLog:
    def __init__(self, log: ScoreLog) -> None:
        self._log = log

    def days(self) -> Iterator[tuple[int, Columns]]:
        for day in self._log.sizes():
            yield day, self._log.read(first_day=day, last_day=day)


def days_of(rows: Columns | ScoreLog | ScoredDays) -> ScoredDays:
    """Columns in any order, or a score log, day by day."""
    if isinstance(rows, ScoreLog):
        return _OfLog(rows)
    return rows if isinstance(rows, ScoredDays) else _InMemory(rows)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRows:
    """Rows of one domain that every arm scored; ``notes``: further columns of the score log."""

    ts: NDArray[np.int64]
    user: NDArray[Any]
    item: NDArray[Any] | None
    label: NDArray[Any]
    list_id: NDArray[Any] | None
    scores: dict[str, NDArray[Any]]
    notes: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> ScoredRows:
        return ScoredRows(
            self.ts[rows],
            self.user[rows],
            None if self.item is None else self.item[rows],
            self.label[rows],
            None if self.list_id is None else self.list_id[rows],
            {arm: p[rows] for arm, p in self.scores.items()},
            {name: values[rows] for name, values in self.notes.items()},
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """Which columns a domain's scored rows have.

    Attributes
    ----------
    domain
        0 natural, 1 ad.
    arms
        Arms that scored any row, in the requested order.
    rows
        Rows that at least one arm scored.
    oracle, lists
        Whether the true probability of every such row is known; whether any row names its list.
    """

    domain: int
    arms: tuple[str, ...]
    rows: int
    oracle: bool
    lists: bool


def survey(source: ScoredDays, arms: Sequence[str]) -> list[Shape]:
    """The shape of each domain, from one pass over the rows; domains without scored rows are left out."""
    found = {d: {"rows": 0, "oracle": True, "lists": False} for d in range(len(DOMAIN_NAMES))}
    present: dict[int, set[str]] = {d: set() for d in found}
    for _, columns in source.days():
        for domain, so_far in found.items():
            here = columns["domain"] == domain
            scored = {a: ~np.isnan(columns[f"p_{a}"][here]) for a in arms if f"p_{a}" in columns}
            present[domain] |= {arm for arm, rows in scored.items() if rows.any()}
            some = np.logical_or.reduce([*scored.values(), np.zeros(int(here.sum()), bool)])
            so_far["rows"] += int(some.sum())
            known = "oracle" in columns and not np.isnan(columns["oracle"][here][some]).any()
            so_far["oracle"] = bool(so_far["oracle"] and known)
            so_far["lists"] = bool(
                so_far["lists"] or ("list_id" in columns and columns["list_id"][here][some].any())
            )
    return [
        Shape(d, tuple(a for a in arms if a in present[d]), f["rows"], bool(f["oracle"]), bool(f["lists"]))
        for d, f in found.items()
        if present[d]
    ]


def common_rows(columns: Columns, shape: Shape, notes: Sequence[str] = ()) -> tuple[ScoredRows, int]:
    """The rows of a domain that all of its arms scored, with the named further columns, and the number of rows that only some of them scored."""
    here = columns["domain"] == shape.domain
    nothing = np.full(int(here.sum()), np.nan, np.float32)
    scores = {a: columns[f"p_{a}"][here] if f"p_{a}" in columns else nothing for a in shape.arms}
    scored = [~np.isnan(p) for p in scores.values()]
    common, some = np.logical_and.reduce(scored), np.logical_or.reduce(scored)
    if shape.oracle:
        scores[ORACLE] = columns["oracle"][here]
    rows = ScoredRows(
        columns["ts"][here],
        columns["user"][here],
        columns["item"][here] if "item" in columns else None,
        columns["label"][here],
        columns["list_id"][here] if shape.lists else None,
        scores,
        {name: columns[name][here] for name in notes},
    )
    return rows.take(common), int(some.sum() - common.sum())
