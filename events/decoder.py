"""``EventDecoder``: decodes and validates many raw events at once; returns a ``Batch`` and the rejected events.

An event has the fields ``event_id, ts, user_id, item_id, label`` and the configured feature fields. It is one JSON object,
one row of an Arrow IPC stream (a packed message), or a row of a data frame; the same events give the same batch, bit for
bit, in all three forms.

=================  ==========================================================================
field              content
=================  ==========================================================================
event_id           string or integer; required, but not read by the models
ts                 integer, milliseconds since the epoch; or a date-time in ISO 8601 as a string
user_id, item_id   string or integer; the integer 7 and the string "7" are the same id
label              0 or 1, false or true
categorical        string, integer, or null (missing)
numeric            number, or null (missing)
bag                list of strings or integers, or null (missing)
list_id            optional id of the impression list (slate), string or integer
=================  ==========================================================================

:mod:`ecdctr.events.values` lists the values of other types that are converted because they leave no choice, such as 12.0 as an id.
A configured feature field must be present; null marks a missing value. Other fields are ignored.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.arrow import CONTINUATION, PackedError, Unpacked, pack, unpack, unpack_many
from ecdctr.events.batch import DOMAIN_NAMES, Batch
from ecdctr.events.decoded import (
    ARROW_CONTENT_TYPE,
    CONTENT_TYPE_HEADER,
    REASONS,
    Decoded,
    PackedReader,
    Reject,
)
from ecdctr.events.encode import Columns, Limits, encode
from ecdctr.events.fields import REQUIRED, EventFields, FrameReader, bag_of_lists, strings
from ecdctr.events.json_limits import beyond_limits
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.values import show
from ecdctr.state.errors import DataError

__all__ = [
    "ARROW_CONTENT_TYPE",
    "CONTENT_TYPE_HEADER",
    "REASONS",
    "Decoded",
    "EventDecoder",
    "PackedReader",
    "Reject",
    "to_arrow_message",
    "to_json_messages",
]

_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
_ABSENT = "\x00absent"
_DOMAINS = {"natural": 0, "ad": 1, 0: 0, 1: 1}
_DETAIL = 200  # maximum length of a detail in characters, because it may quote untrusted input


class EventDecoder:
    """Decodes events with a fixed set of features.

    Parameters
    ----------
    specs
        The features, or their schema.
    max_string
        Longest id or category, bytes of UTF-8.
    ts_min_ms, ts_max_ms
        Bounds of the event time. The defaults (years 2000 to 2100) detect timestamps in seconds.
    list_field
        Name of the optional field with the id of the impression list; None: ``Batch.list_id`` is None.
    oracle_field
        Name of the optional field with the true click probability; None: ``Batch.oracle`` is None.
    max_ahead_ms
        How far an event may be ahead of the rows beside it in a file; the readers of files apply it. None: without limit.

    Attributes
    ----------
    text_notes
        Names of id or categorical fields whose original strings are stored in ``Batch.notes`` as ``text:<field>``. Empty by
        default, because one Python string per row is too slow for live training; only reports need the original values of
        hashed ids.
    packed_reader
        Decodes packed messages in another process; None: :meth:`read_packed` does it here. See :mod:`ecdctr.events.isolation`.

    Examples
    --------
    >>> from ecdctr.events.settings import FeatureSpec
    >>> decoder = EventDecoder([FeatureSpec(name="site")])
    >>> good = b'{"event_id":1,"ts":1700000000000,"user_id":"u","item_id":7,"label":1,"site":"a"}'
    >>> decoded = decoder.from_json([good, b"{", good.replace(b":1,", b":3,")], domain=0)
    >>> decoded.batch.label, decoded.index
    (array([1.], dtype=float32), array([0]))
    >>> [(r.index, r.reason) for r in decoded.rejects]
    [(1, 'json'), (2, 'label')]
    """

    def __init__(
        self,
        specs: Sequence[FeatureSpec] | FeatureSchema,
        *,
        max_string: int = 1024,
        ts_min_ms: int = 946_684_800_000,
        ts_max_ms: int = 4_102_444_800_000,
        list_field: str | None = "list_id",
        oracle_field: str | None = None,
        max_ahead_ms: int | None = None,
    ) -> None:
        self.schema = specs if isinstance(specs, FeatureSchema) else FeatureSchema(specs, dim=1)
        self.limits = Limits(max_string, ts_min_ms, ts_max_ms)
        self.list_field = list_field
        self.oracle_field = oracle_field
        self.max_ahead_ms = max_ahead_ms
        self.text_notes: tuple[str, ...] = ()
        self.packed_reader: PackedReader | None = None
        fields = EventFields(self.schema, list_field, oracle_field)
        self._fields = fields
        self._struct = fields.struct()
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._struct).decode
        self._decode_wide = msgspec.json.Decoder(fields.wide_struct()).decode
        self._get = {name: attrgetter(python_name) for python_name, name in fields.python_names()}

    def from_json(self, values: Sequence[bytes | None], domain: int) -> Decoded:
        """Decode messages with one JSON object each; ``index`` and ``Reject.index`` are positions in ``values``.

        Each message is decoded separately, so that a damaged message cannot affect others.
        """
        decode = self._decode
        events: list[Any] = []
        index: list[int] = []
        rejects: list[Reject] = []
        for i, value in enumerate(values):
            if value and (beyond := beyond_limits(value)) is not None:
                rejects.append(Reject(i, "json", f"the event {beyond}"))
                continue
            try:
                events.append(decode(value))  # type: ignore[arg-type]
            except msgspec.ValidationError:
                event = self._wide(self._decode_wide, i, value, rejects)
                if event is None:
                    continue
                events.append(event)
            except _NOT_JSON as error:
                rejects.append(Reject(i, "json", _not_json(value, error)))
                continue
            index.append(i)
        columns = self._columns(events, np.full(len(events), domain, dtype=np.uint8))
        return self._finish(columns, np.array(index, dtype=np.int64), rejects)

    def from_lines(
        self,
        lines: Sequence[bytes],
        *,
        defaults: Mapping[str, Any] | None = None,
        differs: Counter[str] | None = None,
    ) -> Decoded:
        """Decode lines of a file with one JSON object each, by the rule of :meth:`from_json`; ``index`` and ``Reject.index`` are
        positions in ``lines``.

        An event has a field ``domain``, as in :meth:`from_frame`. It may lack ``event_id``, which no model reads.

        Parameters
        ----------
        defaults
            Values of fields, ``domain`` included, for the lines that do not have them.
        differs
            Receives the number of accepted lines that :meth:`from_json` would reject, by the cause.
        """
        given = dict(defaults or {})
        own = "domain" in self._fields.names
        default_domain = given.get("domain") if own else given.pop("domain", None)
        absent = ({"event_id": _ABSENT} | given, () if own else ("domain",))
        decode = msgspec.json.Decoder(self._fields.struct(*absent)).decode
        decode_wide = msgspec.json.Decoder(self._fields.wide_struct(*absent)).decode
        read_domain = self._get["domain"] if own else attrgetter("domain")
        events: list[Any] = []
        index: list[int] = []
        rejects: list[Reject] = []
        event: Any
        for i, line in enumerate(lines):
            if (beyond := beyond_limits(line)) is not None:
                rejects.append(Reject(i, "json", f"the event {beyond}"))
                continue
            try:
                event = decode(line)
            except (msgspec.ValidationError, *_NOT_JSON):
                event = self._wide(decode_wide, i, line, rejects)
                if event is None:
                    continue
            events.append(event)
            index.append(i)
        named = [_DOMAINS.get(_key(default_domain if d is None else d), -1) for d in map(read_domain, events)]
        domain = np.array(named, dtype=np.int64)
        columns = self._columns(events, np.maximum(domain, 0).astype(np.uint8))
        columns.faults.mark(domain < 0, "type", 'domain is neither "natural" nor "ad"')
        decoded = self._finish(columns, np.array(index, dtype=np.int64), rejects)
        if differs is not None:
            without = sum(value is _ABSENT for value in map(self._get["event_id"], events))
            if without:
                differs["event_id is absent"] += without
        return decoded

    def _wide(
        self, decode: Callable[[bytes], Any], i: int, value: bytes | None, rejects: list[Reject]
    ) -> Any | None:
        """The event of a message that may have values to convert; None, and a reject, if it has none."""
        try:
            event = decode(value)  # type: ignore[arg-type]
        except (msgspec.ValidationError, *_NOT_JSON) as error:
            rejects.append(Reject(i, *self._explain(value, error)))
            return None
        fault = self._fields.convert(event)
        if fault is not None:
            rejects.append(Reject(i, *fault))
            return None
        return event

    def _columns(self, events: list[Any], domain: NDArray[np.uint8]) -> Columns:
        fields, get = self._fields, self._get
        return Columns(
            n=len(events),
            domain=domain,
            ts=np.fromiter(map(get["ts"], events), dtype=np.int64, count=len(events)),
            label=np.fromiter(map(get["label"], events), dtype=np.float64, count=len(events)),
            text={name: strings(list(map(get[name], events))) for name in fields.text},
            numbers={
                name: pl.Series(list(map(get[name], events)), dtype=pl.Float64) for name in fields.numbers
            },
            bags={name: bag_of_lists(map(get[name], events), width) for name, width in fields.bags.items()},
        )

    def from_arrow(self, value: bytes, domain: int) -> Decoded:
        """Decode one packed message; ``index`` and ``Reject.index`` are row numbers within it.

        An invalid row gives a reject with its row number; a message that cannot be read gives a single reject with index 0 and
        reason ``arrow``.
        """
        try:
            frame = unpack(value, self.fields)
        except PackedError as error:
            refused = Reject(0, "arrow", str(error)[:_DETAIL], rows=error.rows)
            return Decoded(self.empty(), np.empty(0, dtype=np.int64), [refused])
        return self._from_columns(frame, np.full(len(frame), domain, dtype=np.uint8))

    def read_packed(self, values: Sequence[bytes | None], domain: int) -> Decoded:
        """Decode as :meth:`from_packed` does, by the ``packed_reader`` if there is one."""
        if self.packed_reader is None:
            return self.from_packed(values, domain)
        return self.packed_reader.read(values, domain, self.text_notes)

    def from_packed(self, values: Sequence[bytes | None], domain: int) -> Decoded:
        """Decode many packed messages; ``index`` and ``Reject.index`` are positions in ``values``.

        Messages with the same schema are decoded together, because the fixed cost per data frame would dominate for messages
        of 64 rows. A column that is absent, or in which every value has the same fault, is one reject for each message.
        """
        bad: list[tuple[int, PackedError]] = []
        rejects: list[Reject] = []
        groups = unpack_many(values, self.fields, bad)
        parts = [self._from_unpacked(group, domain, rejects) for group in groups]
        rejects += [Reject(i, "arrow", str(why)[:_DETAIL], rows=why.rows) for i, why in bad]
        rejects.sort(key=lambda r: (r.index, r.row))
        if not parts:
            return Decoded(self.empty(), np.empty(0, dtype=np.int64), rejects)
        return Decoded(*(parts[0] if len(parts) == 1 else _merge(parts)), rejects)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are read."""
        return tuple(self._fields.names)

    def from_frame(
        self, frame: pl.DataFrame, faults: Sequence[tuple[NDArray[np.bool_], str, Callable[[int], str]]] = ()
    ) -> Decoded:
        """Decode the rows of a frame with a column ``domain``: "natural", "ad", or their numbers 0 and 1.

        ``faults``: rows that are known to be invalid, as masks with a reason and the detail of each row.
        """
        if "domain" not in frame.columns:
            raise DataError(
                f'events need a column "domain" ("natural" or "ad"); the columns are {frame.columns}'
            )
        column = frame["domain"]
        if column.dtype.is_integer():
            domain = column.cast(pl.Int64)
        else:
            names = column.cast(pl.String, strict=False)
            domain = names.replace_strict(
                dict(zip(DOMAIN_NAMES, (0, 1), strict=True)), default=None, return_dtype=pl.Int64
            )
        valid = domain.is_in([0, 1]).fill_null(False).to_numpy()
        return self._from_columns(frame, domain.fill_null(0).to_numpy(), ~valid, faults)

    def empty(self) -> Batch:
        """A batch without rows that has the columns of this decoder's batches."""
        return self.from_json([], 0).batch

    def _from_unpacked(
        self, group: Unpacked, domain: int, rejects: list[Reject]
    ) -> tuple[Batch, NDArray[np.int64]]:
        lengths = np.array(group.lengths, dtype=np.int64)
        index = np.repeat(np.array(group.positions, dtype=np.int64), lengths)
        within = np.arange(len(index)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        frame = group.frame
        decoded = self._from_columns(frame, np.full(len(frame), domain, dtype=np.uint8), message=index)
        rejects.extend(
            Reject(int(index[r.index]), r.reason, r.detail, -1 if r.row < 0 else int(within[r.index]), r.rows)
            for r in decoded.rejects
        )
        return decoded.batch, index[decoded.index]

    def _from_columns(
        self,
        frame: pl.DataFrame,
        domain: NDArray[Any],
        unknown_domain: NDArray[np.bool_] | None = None,
        known: Sequence[tuple[NDArray[np.bool_], str, Callable[[int], str]]] = (),
        message: NDArray[np.int64] | None = None,
    ) -> Decoded:
        """``message``: number of the message of each row; None: they are rows of one frame."""
        reader = FrameReader(frame)
        fields = self._fields
        bags = {name: reader.bag(name, width) for name, width in fields.bags.items()}
        columns = Columns(
            n=len(frame),
            ts=reader.integers("ts"),
            label=reader.numbers("label").fill_null(float("nan")).to_numpy(),
            domain=domain.astype(np.uint8),
            text={name: reader.text(name, optional=name == self.list_field) for name in fields.text},
            numbers={
                name: reader.numbers(name, optional=name == self.oracle_field) for name in fields.numbers
            },
            bags=bags,
        )
        if unknown_domain is not None:
            columns.faults.mark(unknown_domain, "type", 'domain is neither "natural" nor "ad"')
        for bad, reason, detail in (*known, *reader.faults):
            columns.faults.mark(bad, reason, detail)
        rows = np.arange(len(frame), dtype=np.int64)
        if message is None:
            return self._finish(columns, rows, [], np.zeros_like(rows))
        return self._finish(columns, rows, [], message, packed=True)

    def _explain(self, value: bytes | None, error: Exception) -> tuple[str, str]:
        """Reason and detail of a message that could not be decoded."""
        if not value or not isinstance(error, msgspec.ValidationError):
            return "json", _not_json(value, error)
        content: Any = {}
        try:  # the typed decoder stops at the first invalid field: parse the whole message to find out whether it is JSON at all
            content = msgspec.json.decode(value)
        except msgspec.ValidationError:
            pass  # a number that no float can represent
        except _NOT_JSON as broken:
            return "json", str(broken)[:_DETAIL]
        message = str(error)[:_DETAIL]
        if message.startswith("Object missing required field"):
            return "missing", "there is no field " + message.split("`")[1]
        at = message.rpartition("`$.")[2].rstrip("`")
        if at in REQUIRED and message.endswith(f"got `null` - at `$.{at}`"):
            return "missing", f"{at} is null"
        if message.startswith("Number out of range"):
            return "label" if at == "label" else "nan", message
        name = at.removesuffix("[...]")
        if not isinstance(content, dict):
            return "type", "the message is JSON, but not one object"
        if name not in content or name not in self._fields.names:
            return "type", message
        found = f"{name} is {show(content[name])}, expected {self._fields.wanted(name)}"
        return "type", found[:_DETAIL]

    def _finish(
        self,
        columns: Columns,
        index: NDArray[np.int64],
        rejects: list[Reject],
        message: NDArray[np.int64] | None = None,
        *,
        packed: bool = False,
    ) -> Decoded:
        """``message``: number of the message of each row; None: each row is a message. ``packed``: rejects have row numbers."""
        batch = encode(columns, self.schema, self.limits, self.list_field, self.oracle_field, self.text_notes)
        faults = columns.faults.items(message, together=packed)
        if faults:
            rejects.extend(
                Reject(int(index[f.row]), f.reason, f.detail, f.row if packed and not f.whole else -1, f.rows)
                for f in faults
            )
            rejects.sort(key=lambda r: r.index)
            index = index[columns.faults.good()]
        return Decoded(batch, index, rejects)


def _merge(parts: Sequence[tuple[Batch, NDArray[np.int64]]]) -> tuple[Batch, NDArray[np.int64]]:
    """Concatenate batches and sort their rows by index (stable)."""
    batch = Batch.concat([b for b, _ in parts])
    index = np.concatenate([i for _, i in parts])
    order = np.argsort(index, kind="stable")
    return batch.take(order), index[order]


def to_json_messages(frame: pl.DataFrame) -> list[tuple[bytes, bytes]]:
    """Return ``(key, value)`` for each row: the user id and the row as a JSON object without the column ``domain``.

    Raises
    ------
    DataError
        A number is NaN or infinite, which JSON cannot represent; null means that the value is missing.
    """
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    for name in floats:
        if not frame[name].is_finite().fill_null(True).all():
            raise DataError(
                f'column "{name}" contains NaN or infinity, which JSON cannot represent: replace these values by null'
            )
    plain = frame.drop("domain", strict=False).with_columns(pl.col(floats).cast(pl.Float64))
    out = io.BytesIO()
    plain.write_ndjson(out)
    values = out.getvalue().split(b"\n")[: len(frame)]
    keys = [str(key).encode() for key in frame["user_id"].to_list()]
    return list(zip(keys, values, strict=True))


def to_arrow_message(frame: pl.DataFrame) -> bytes:
    """All rows as one packed message; without the column ``domain``."""
    return pack(frame.drop("domain", strict=False))


def _key(value: Any) -> Any:
    """A domain as a key of ``_DOMAINS``: true is not 1, and a list is no key."""
    return value if type(value) in (str, int) else None


def _not_json(value: bytes | None, error: Exception) -> str:
    if not value:
        return "the message is empty"
    if value.startswith(CONTINUATION):
        return f"this is an Arrow stream: send it with the header {CONTENT_TYPE_HEADER}: {ARROW_CONTENT_TYPE.decode()}"
    return str(error)[:_DETAIL]
