"""What stands in the fields of sampled messages, and which messages the worker would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from ecdctr.events.arrow import PackedError, unpack
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.fields import REQUIRED
from ecdctr.events.plausible_time import TimeRule
from ecdctr.events.records import decode_records, is_packed
from ecdctr.streams.doctor.sample import Records

__all__ = ["FieldFinding", "Refusal", "Sampled", "examine_records", "rows_of"]

_MOST_ROWS = 20_000
"""Rows of which fields are counted; packed messages may hold many more."""
_MOST_FIELDS = 200
_EXAMPLE = 40


@dataclass(frozen=True, slots=True)
class FieldFinding:
    """One field of the sampled events.

    Attributes
    ----------
    used_as
        ``required``, the features that read it, or empty: not used.
    present, null
        Shares of the rows that have the field, and that have it with null.
    types
        JSON types that occur, the most frequent first; null left out.
    distinct
        Number of different values.
    example
        One value, shortened.
    """

    name: str
    used_as: str
    present: float
    null: float
    types: tuple[str, ...]
    distinct: int
    example: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Events that would become dead letters for one reason: how many, and where one of them is."""

    reason: str
    detail: str
    events: int
    partition: int
    offset: int


@dataclass
class Sampled:
    """What was found in the last messages of a topic.

    Attributes
    ----------
    messages, rows
        Messages that were read, and rows that a worker would learn from them.
    clicks
        Rows with a click.
    """

    messages: int = 0
    rows: int = 0
    clicks: int = 0
    fields: list[FieldFinding] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Number of events that would become dead letters."""
        return sum(refusal.events for refusal in self.refusals)


@dataclass(frozen=True, slots=True)
class Times:
    """Time stamps of records and events, in ms since the epoch.

    Attributes
    ----------
    newest_record
        Largest time stamp of a record; 0: there is none.
    ahead_of_record
        Event time minus the time stamp of its record, one value a row.
    """

    newest_record: int
    ahead_of_record: np.ndarray[Any, np.dtype[np.int64]]


def examine_records(
    decoder: EventDecoder, topic: str, domain: int, records: Records
) -> tuple[Sampled, Times]:
    """Decode sampled records as a worker does, and count what stands in their fields.

    Parameters
    ----------
    domain
        0 natural, 1 ad.
    records
        Records of each partition, in offset order.
    """
    out, times = Sampled(), TimeRule(decoder.max_ahead_ms)
    refusals: dict[tuple[str, str], Refusal] = {}
    ahead: list[Any] = []
    newest = 0
    harmless: list[Any] = []
    for partition, found in sorted(records.items()):
        if not found:
            continue
        out.messages += len(found)
        chunk, rejects = decode_records(decoder, topic, partition, found[0].offset, found, domain)
        stamps = {record.offset: record.timestamp or 0 for record in found}
        newest = max(newest, *stamps.values())
        of_rows = np.fromiter((stamps[int(offset)] for offset in chunk.offset), np.int64, len(chunk.offset))
        ahead.append(chunk.batch.ts - of_rows)
        chunk, rejects, _ = times.apply(chunk, rejects, found)
        out.rows += len(chunk.batch)
        out.clicks += int(np.count_nonzero(chunk.batch.label))
        for reject in rejects:
            key = (reject.reason, _without_values(reject.detail))
            known = refusals.get(key)
            refusals[key] = Refusal(
                reject.reason,
                known.detail if known else reject.detail,
                (known.events if known else 0) + reject.rows,
                known.partition if known else partition,
                known.offset if known else reject.record.offset,
            )
        crashed = {reject.record.offset for reject in rejects if reject.reason == "crash"}
        harmless += [record for record in found if record.offset not in crashed]
    out.refusals = sorted(refusals.values(), key=lambda refusal: -refusal.events)
    out.fields = _fields(decoder, harmless)
    return out, Times(newest, np.concatenate(ahead) if ahead else np.empty(0, np.int64))


def _without_values(detail: str) -> str:
    """The detail without digits, so that the same fault in different messages is one refusal."""
    return "".join("0" if letter.isdigit() else letter for letter in detail)


def _fields(decoder: EventDecoder, records: Sequence[Any]) -> list[FieldFinding]:
    uses = _uses(decoder)
    counts: dict[str, _Counts] = {name: _Counts() for name in uses}
    rows = 0
    for row in rows_of(records):
        rows += 1
        for name, value in row.items():
            if name not in counts:
                if len(counts) >= _MOST_FIELDS:
                    continue
                counts[name] = _Counts()
            counts[name].add(value)
        if rows >= _MOST_ROWS:
            break
    return [count.finding(name, uses.get(name, ""), rows) for name, count in counts.items()]


def _uses(decoder: EventDecoder) -> dict[str, str]:
    """``{field: what it is used for}``, required fields first."""
    out: dict[str, list[str]] = {name: ["required"] for name in REQUIRED}
    for spec in decoder.schema.specs:
        if not spec.field.startswith("@"):
            out.setdefault(spec.field, []).append(f"feature {spec.name} ({spec.kind})")
    for name, use in ((decoder.list_field, "list"), (decoder.oracle_field, "oracle")):
        if name is not None:
            out.setdefault(name, []).append(use)
    return {name: ", ".join(uses) for name, uses in out.items()}


def rows_of(records: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    """The events of messages that can be read at all, as they stand there."""
    for record in records:
        try:
            if is_packed(record):
                yield from unpack(record.value or b"").head(_MOST_ROWS).to_dicts()
                continue
            row = msgspec.json.decode(record.value or b"")
        except (PackedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "text"),
    ((list, tuple), "list"),
    (dict, "object"),
)


class _Counts:
    """Counts of one field."""

    def __init__(self) -> None:
        self.rows = self.nulls = 0
        self.types: Counter[str] = Counter()
        self.values: set[Any] = set()
        self.example: Any = None

    def add(self, value: Any) -> None:
        self.rows += 1
        if value is None:
            self.nulls += 1
            return
        self.types[
            next((name for kind, name in _TYPES if isinstance(value, kind)), type(value).__name__)
        ] += 1
        self.values.add(value if isinstance(value, int | float | str) else _text(value))
        if self.example is None:
            self.example = value

    def finding(self, name: str, used_as: str, rows: int) -> FieldFinding:
        share: Callable[[int], float] = lambda n: n / rows if rows else 0.0  # noqa: E731
        types = tuple(kind for kind, _ in self.types.most_common())
        example = "" if self.example is None else _text(self.example)
        short = example if len(example) <= _EXAMPLE else example[: _EXAMPLE - 3] + "..."
        return FieldFinding(
            name, used_as, share(self.rows), share(self.nulls), types, len(self.values), short
        )


def _text(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode(errors="replace")
    except (TypeError, ValueError, RecursionError):
        return str(value)
