"""Columns of events to ``Batch``: vectorised value checks and hashing, shared by all input formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl
import polars_hash as plh
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.schema import ColumnGroup, FeatureSchema
from ecdctr.events.time import DAY_MS, HOUR_MS

__all__ = ["MOST_NAMED", "TEXT_NOTE", "Columns", "Faults", "FaultyRows", "Limits", "encode", "hash_ids"]

TEXT_NOTE = "text:"
"""Prefix of the notes that hold a field's text: ``text:site``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a well-formed event.

    Attributes
    ----------
    max_string
        Longest id or category, bytes of UTF-8.
    ts_min_ms, ts_max_ms
        First and last allowed event time, milliseconds since the epoch.
    """

    max_string: int
    ts_min_ms: int
    ts_max_ms: int


MOST_NAMED = 200
"""Rows of one message that are named for one fault: the further ones are only counted, so that a refused message costs no more than it
contains."""


class FaultyRows(NamedTuple):
    """Rows of one message that are rejected for the same reason.

    Attributes
    ----------
    row
        The first of them.
    detail
        The fault of that row.
    rows
        Their number.
    whole
        Whether they are all rows of the message, and have exactly the same fault.
    """

    row: int
    reason: str
    detail: str
    rows: int = 1
    whole: bool = False


class Faults:
    """The first fault of each row; later faults of the same row are ignored.

    >>> faults = Faults(3)
    >>> faults.mark(np.array([False, True, True]), "ts", "ts is out of bounds")
    >>> faults.mark(np.array([False, False, True]), "label", "label is 2")
    >>> [(fault.row, fault.reason) for fault in faults.items()]
    [(1, 'ts'), (2, 'ts')]
    """

    def __init__(self, n: int) -> None:
        self._kind = np.zeros(n, dtype=np.int32)  # 0: none, otherwise 1 + position in _reasons
        self._reasons: list[tuple[str, str | Callable[[int], str]]] = []

    def mark(self, bad: NDArray[np.bool_], reason: str, detail: str | Callable[[int], str]) -> None:
        """Mark the rows where ``bad`` is true, ``(n,)``, unless they already have a fault; ``detail`` may depend on the row."""
        if not bad.any():
            return
        self._reasons.append((reason, detail))
        self._kind[bad & (self._kind == 0)] = len(self._reasons)

    def good(self) -> NDArray[np.bool_]:
        """Rows without a fault."""
        return np.equal(self._kind, 0)

    def items(self, message: NDArray[np.int64] | None = None, *, together: bool = False) -> list[FaultyRows]:
        """The faulty rows, ascending.

        Parameters
        ----------
        message
            Number of the message (or file) of each row, ascending, int64 ``(n,)``. Of each message, the first
            :data:`MOST_NAMED` rows with the same fault are named, and the others are counted. None: each row is a message.
        together
            Whether rows are not named if all rows of a message have exactly the same fault.
        """
        bad = np.flatnonzero(self._kind)
        kind = self._kind[bad].astype(np.int64)
        rank, rows = np.zeros(len(bad), np.int64), np.ones(len(bad), np.int64)
        whole = np.zeros(len(bad), np.bool_)
        if message is not None and len(bad):
            group = message[bad] * (len(self._reasons) + 1) + kind
            order = np.argsort(group, kind="stable")
            _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
            rank[order] = np.arange(len(bad)) - np.repeat(starts, sizes)
            size = np.empty(len(bad), np.int64)
            size[order] = np.repeat(sizes, sizes)
            of_message = np.bincount(message - message[0])[message[bad] - message[0]]
            constant = np.array([isinstance(detail, str) for _, detail in self._reasons])[kind - 1]
            whole = (size == of_message) & constant & together
            last = np.where(whole, 0, MOST_NAMED)
            rows = np.where(rank == last, size - last, 1)
            keep = rank <= last
            bad, kind, rows, whole = bad[keep], kind[keep], rows[keep], whole[keep]
        out = []
        for row, number, count, every in zip(
            bad.tolist(), kind.tolist(), rows.tolist(), whole.tolist(), strict=True
        ):
            reason, detail = self._reasons[number - 1]
            text = detail if isinstance(detail, str) else detail(row)
            out.append(FaultyRows(row, reason, text, count, every))
        return out


@dataclass(slots=True)
class Columns:
    """Events as typed columns of ``n`` rows whose values are not checked yet.

    Attributes
    ----------
    ts
        int64; rows that already have a fault hold any value.
    label
        float64.
    text
        Ids and categories by field, String, null where missing.
    numbers
        Numeric fields, Float64, null where missing.
    bags
        By field: the number of ids of each row, int64 ``(n,)``, and all ids in row order, String.
    """

    n: int
    domain: NDArray[np.uint8]
    ts: NDArray[np.int64]
    label: NDArray[np.float64]
    text: dict[str, pl.Series]
    numbers: dict[str, pl.Series]
    bags: dict[str, tuple[NDArray[np.int64], pl.Series]]
    faults: Faults = field(init=False)

    def __post_init__(self) -> None:
        self.faults = Faults(self.n)


def hash_ids(columns: dict[str, pl.Series]) -> dict[str, NDArray[np.uint64]]:
    """XXH64 (seed 0) of each string's UTF-8 bytes, by column name; null gives 0.

    Hashing a whole column is cheaper than finding its distinct values first.

    >>> [hex(h) for h in hash_ids({"x": pl.Series(["", "a"])})["x"]]
    ['0xef46db3751d8e999', '0xd24ec4f1a98c6e5b']
    """
    out: dict[str, NDArray[np.uint64]] = {}
    for _, names in _by_length(columns):
        frame = pl.DataFrame([columns[name].alias(name) for name in names])
        hashed = frame.select([plh.col(name).nchash.xxhash64().fill_null(0) for name in names])
        out.update((name, hashed[name].to_numpy()) for name in names)
    return out


def encode(
    columns: Columns,
    schema: FeatureSchema,
    limits: Limits,
    list_field: str | None,
    oracle_field: str | None,
    text_notes: Sequence[str] = (),
) -> Batch:
    """Check every value, hash the ids, and return the rows without fault as a ``Batch``.

    Faults are marked in ``columns.faults``; the batch contains the other rows, in their original order. Each field in
    ``text_notes`` becomes the note ``text:<field>``: its strings as Python objects, None where missing.
    """
    _check(columns, limits)
    dense = _dense(columns, schema)
    ids = hash_ids(columns.text)
    bag_ids = hash_ids({name: flat for name, (_, flat) in columns.bags.items()})
    features = np.zeros((columns.n, schema.n_features), dtype=np.int32)
    for group in schema.categorical:
        if group.is_bag:
            lengths, _ = columns.bags[group.spec.field]
            _fill_bag(features[:, group.columns], group, lengths, bag_ids[group.spec.field])
        else:
            features[:, group.first_col] = _categorical(group, columns, ids)
    with np.errstate(over="ignore"):  # such a label is a fault already
        label = columns.label.astype(np.float32)
    oracle = None
    if oracle_field is not None:
        oracle = columns.numbers[oracle_field].fill_null(float("nan")).to_numpy().astype(np.float64)
    batch = Batch(
        ts=columns.ts,
        domain=columns.domain,
        user=ids["user_id"],
        item=ids["item_id"],
        features=features,
        dense=dense,
        label=label,
        list_id=None if list_field is None else ids[list_field],
        oracle=oracle,
        notes={TEXT_NOTE + name: columns.text[name].to_numpy() for name in text_notes}
        if text_notes
        else None,
    )
    good = columns.faults.good()
    return batch if good.all() else batch.take(good)


def _check(columns: Columns, limits: Limits) -> None:
    mark = columns.faults.mark
    mark(
        (columns.ts < limits.ts_min_ms) | (columns.ts > limits.ts_max_ms),
        "ts",
        lambda row: _explain_time(int(columns.ts[row]), limits),
    )
    mark(
        (columns.label != 0) & (columns.label != 1),
        "label",
        lambda row: f"label is {columns.label[row]:g}, neither 0 nor 1",
    )
    for name, too_long in _too_long(columns.text, limits.max_string):
        mark(too_long, "long", f"{name} has more than {limits.max_string} bytes")
    flats = {name: flat for name, (_, flat) in columns.bags.items()}
    for name, flat in flats.items():
        if flat.null_count():
            mark(_rows_of(columns, name, flat.is_null().to_numpy()), "type", f"{name} contains a null")
    for name, too_long in _too_long(flats, limits.max_string):
        bad = _rows_of(columns, name, too_long)
        mark(bad, "long", f"{name} contains an id of more than {limits.max_string} bytes")


def _explain_time(ts: int, limits: Limits) -> str:
    """Why an event time is refused, with the unit in which it would be a plausible one."""
    text = f"ts is {ts}, not within {limits.ts_min_ms} .. {limits.ts_max_ms} ms"
    for unit, factor in (("seconds", 1000.0), ("microseconds", 1e-3), ("nanoseconds", 1e-6)):
        if limits.ts_min_ms <= ts * factor <= limits.ts_max_ms:
            return f"{text}; it looks like {unit} since the epoch"
    return text


def _too_long(columns: dict[str, pl.Series], limit: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """Names of the columns with a string of more than ``limit`` bytes, and the mask of such rows."""
    found = []
    for _, names in _by_length(columns):
        frame = pl.DataFrame([columns[name].alias(name) for name in names])
        longest = frame.select(pl.all().str.len_bytes().max()).row(0)
        for name, size in zip(names, longest, strict=True):
            if size is not None and size > limit:
                found.append((name, (frame[name].str.len_bytes() > limit).fill_null(False).to_numpy()))
    return found


def _by_length(columns: dict[str, pl.Series]) -> list[tuple[int, list[str]]]:
    """Names of columns by length: columns of one length share a query, because its set-up dominates its cost."""
    out: dict[int, list[str]] = {}
    for name, column in columns.items():
        out.setdefault(len(column), []).append(name)
    return list(out.items())


def _rows_of(columns: Columns, bag: str, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of the rows with an invalid id in this bag."""
    out = np.zeros(columns.n, dtype=np.bool_)
    out[np.repeat(np.arange(columns.n), columns.bags[bag][0])[bad]] = True
    return out


def _dense(columns: Columns, schema: FeatureSchema) -> NDArray[np.float32]:
    """Numeric features after their transform, float32 ``(n, D)``; values that float32 cannot represent are faults."""
    dense = np.zeros((columns.n, schema.n_dense), dtype=np.float32)
    for name, spec, col in schema.numeric:
        values = columns.numbers[spec.field].fill_null(0.0).to_numpy()
        if spec.transform == "log1p":
            values = np.sign(values) * np.log1p(np.abs(values))
        with np.errstate(over="ignore"):
            dense[:, col] = values
        bad = ~np.isfinite(dense[:, col])
        columns.faults.mark(bad, "nan", _not_finite(name, columns.numbers[spec.field]))
    return dense


def _not_finite(name: str, values: pl.Series) -> Callable[[int], str]:
    return lambda row: f"{name} is {values[row]:g}, not a finite number (float32)"


def _categorical(
    group: ColumnGroup, columns: Columns, ids: dict[str, NDArray[np.uint64]]
) -> NDArray[np.int32]:
    source = group.spec.field
    if source == "@hour":
        return group.encode((columns.ts // HOUR_MS % 24).astype(np.uint64))
    if source == "@weekday":  # the epoch was a Thursday, weekday 3
        return group.encode(((columns.ts // DAY_MS + 3) % 7).astype(np.uint64))
    encoded = group.encode(ids[source])
    if columns.text[source].null_count():
        encoded[columns.text[source].is_null().to_numpy()] = 0
    return encoded


def _fill_bag(
    out: NDArray[np.int32], group: ColumnGroup, lengths: NDArray[np.int64], ids: NDArray[np.uint64]
) -> None:
    """Write the first ``group.width`` ids of each row from the left; the rest stays 0."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    within = np.arange(len(ids)) - np.repeat(starts, lengths)
    fits = within < group.width
    out[rows[fits], within[fits]] = group.encode(ids[fits])
