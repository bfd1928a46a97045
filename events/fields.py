"""Fields of an event: their types, and how they are read from JSON objects and from frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.schema import OUTCOME_FIELDS, FeatureSchema
from ecdctr.events.text_lists import BAG_TEXT, UNREADABLE, ids_of_text, split_lists
from ecdctr.events.values import id_text, show, time_of_text, times, whole
from ecdctr.state.errors import ConfigError

__all__ = ["IDS", "REQUIRED", "EventFields", "FrameReader", "bag_of_lists", "strings"]

IDS = ("event_id", "user_id", "item_id")
REQUIRED = ("event_id", "ts", "user_id", "item_id", "label")


class EventFields:
    """Fields that the decoder reads, by type.

    Parameters
    ----------
    schema
        The features.
    list_field, oracle_field
        Optional fields with the impression list and the true click probability.

    Raises
    ------
    ConfigError
        A field is read with two types, or a feature reads the label, ``ts``, the list or the oracle.
    """

    def __init__(self, schema: FeatureSchema, list_field: str | None, oracle_field: str | None) -> None:
        kinds: dict[str, tuple[str, str]] = dict.fromkeys(IDS, ("categorical", "ids"))
        self.bags: dict[str, int] = {}
        for spec in schema.specs:
            if spec.field.startswith("@"):
                continue
            if spec.field in (list_field, oracle_field, "ts", *OUTCOME_FIELDS):
                raise ConfigError(f'feature "{spec.name}" reads "{spec.field}", which is never a feature')
            kind, by = kinds.setdefault(spec.field, (spec.kind, spec.name))
            if kind != spec.kind:
                raise ConfigError(
                    f'field "{spec.field}" is read as {kind} ({by}) and as {spec.kind} ({spec.name}): choose one'
                )
            if spec.kind == "bag":
                self.bags[spec.field] = max(self.bags.get(spec.field, 0), spec.max_length)
        self.optional = [name for name in (list_field, oracle_field) if name is not None]
        self.text = [name for name, (kind, _) in kinds.items() if kind == "categorical"]
        self.numbers = [name for name, (kind, _) in kinds.items() if kind == "numeric"]
        if list_field is not None:
            self.text.append(list_field)
        if oracle_field is not None:
            self.numbers.append(oracle_field)
        self.names = ["ts", "label", *self.text, *self.numbers, *self.bags]
        if len(set(self.names)) != len(self.names):
            raise ConfigError(
                f"list_field {list_field!r} or oracle_field {oracle_field!r} is read as something else too"
            )

    def python_names(self) -> list[tuple[str, str]]:
        """``(attribute of the struct, field of the event)``; fields that may be absent come last."""
        return [
            (f"f{i}", name) for i, name in enumerate(sorted(self.names, key=lambda n: n in self.optional))
        ]

    def struct(
        self, defaults: Mapping[str, Any] | None = None, more: Sequence[str] = ()
    ) -> type[msgspec.Struct]:
        """The type to which a JSON event is decoded; it rejects event times beyond 64 bits.

        Parameters
        ----------
        defaults
            Values of fields that an event does not have.
        more
            Further fields of any type, which are read as attributes of their own name and may be absent.
        """
        types: dict[str, Any] = dict.fromkeys(self.text, str | int | None)
        types.update(dict.fromkeys(self.numbers, float | bool | None))
        types.update(dict.fromkeys(self.bags, list[str | int] | None))
        types.update(dict.fromkeys(IDS, str | int), ts=_BITS64, label=float | bool)
        return self._define(types, defaults or {}, more)

    def wide_struct(
        self, defaults: Mapping[str, Any] | None = None, more: Sequence[str] = ()
    ) -> type[msgspec.Struct]:
        """The type of events with values that :meth:`convert` may convert; the parameters are those of :meth:`struct`."""
        types: dict[str, Any] = dict.fromkeys(self.text, str | int | float | bool | None)
        types.update(dict.fromkeys(self.numbers, float | bool | None))
        types.update(dict.fromkeys(self.bags, list[str | int | float] | str | None))
        types.update(dict.fromkeys(IDS, str | int | float), ts=int | float | str, label=float | bool)
        return self._define(types, defaults or {}, more)

    def _define(
        self, types: Mapping[str, Any], defaults: Mapping[str, Any], more: Sequence[str]
    ) -> type[msgspec.Struct]:
        values = dict.fromkeys(self.optional) | dict(defaults)
        names = sorted(self.python_names(), key=lambda pair: pair[1] in values)
        fields = [
            (python, types[name], values[name]) if name in values else (python, types[name])
            for python, name in names
        ]
        fields += [(name, Any, None) for name in more]
        return msgspec.defstruct("Event", fields, rename=dict(self.python_names()), gc=False)

    def convert(self, event: Any) -> tuple[str, str] | None:
        """Replace the values of a ``wide_struct`` by those of a ``struct``; reason and detail if one has no such meaning.

        The rule is that of :class:`FrameReader`, which applies it to columns.
        """
        for python, name in self.python_names():
            value = getattr(event, python)
            kind = type(value)
            if name == "ts":
                found = value if kind is int else time_of_text(value) if kind is str else _whole(value)
                if found is None:
                    return "type", f"ts is {show(value)}, expected {_WANTED['ts']}"
                if not -(2**63) <= found < 2**63:
                    return "ts", f"ts is {show(value)}, which is beyond 64 bits"
            elif name in self.bags and kind is str:
                found = ids_of_text(value)
                if found is UNREADABLE:
                    return "type", f"{name} is {show(value)}, expected {BAG_TEXT}"
            elif name in self.bags:
                if not value or float not in set(map(type, value)):
                    continue
                found = [whole(v) if type(v) is float else v for v in value]
                if None in found:
                    return (
                        "type",
                        f"{name} contains {show(value[found.index(None)])}, expected {_WANTED['bag']}",
                    )
            elif kind is float and name in self.text:
                found = whole(value)
                if found is None:
                    return "type", f"{name} is {show(value)}, expected {_WANTED['text']}"
            elif kind is bool and name in self.text:
                found = int(value)
            else:
                continue
            setattr(event, python, found)
        return None

    def wanted(self, name: str) -> str:
        """What a field must hold, as text for messages."""
        if name in ("ts", "label"):
            return _WANTED[name]
        return _WANTED["bag" if name in self.bags else "text" if name in self.text else "number"]


_BITS64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_WANTED = {
    "ts": "milliseconds since the epoch, or a date-time in ISO 8601",
    "label": "0 or 1",
    "text": "a string or an integer",
    "number": "a number",
    "bag": "a list of strings or integers",
}


def _whole(value: float) -> int | None:
    return int(value) if value.is_integer() else None


def _nulls(name: str, n: int) -> pl.Series:
    """A column without values."""
    return pl.repeat(None, n, dtype=pl.Null, eager=True).alias(name)


class FrameReader:
    """Typed columns of a frame; values of another type are recorded in ``faults`` and read as null."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame.rechunk()
        self.names = frozenset(frame.columns)
        self.faults: list[tuple[NDArray[np.bool_], str, str | Callable[[int], str]]] = []

    def text(self, name: str, *, optional: bool = False) -> pl.Series:
        column = self._present(name, optional)
        if column.dtype not in (pl.String, pl.Null) and not _is_text(column.dtype):
            column = self._converted(column, id_text(column, booleans=name not in IDS), _WANTED["text"])
        return self._required(name, column if column.dtype == pl.String else column.cast(pl.String))

    def numbers(self, name: str, *, optional: bool = False) -> pl.Series:
        column = self._present(name, optional)
        dtype = column.dtype
        if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
            column = self._converted(column, None, _WANTED["label" if name == "label" else "number"])
        return self._required(name, column if dtype == pl.Float64 else column.cast(pl.Float64))

    def integers(self, name: str) -> NDArray[np.int64]:
        column = self._present(name, optional=False)
        if not (column.dtype.is_integer() or column.dtype == pl.Null):
            column = self._converted(column, times(column), _WANTED["ts"])
        column = self._required(name, column)
        return column.cast(pl.Int64, strict=False).fill_null(-(2**63)).to_numpy()

    def bag(self, name: str, width: int) -> tuple[NDArray[np.int64], pl.Series]:
        column = self._present(name, optional=False)
        if isinstance(column.dtype, pl.Array):
            column = column.arr.to_list()
        if isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum):
            texts = column.cast(pl.String)
            column, bad = split_lists(texts)
            self._fault(bad, "type", lambda row: f"{name} is {show(texts[row])}, expected {BAG_TEXT}")
        if column.dtype != pl.Null and not _is_bag(column.dtype):
            column = self._converted(column, None, _WANTED["bag"])
        if column.dtype == pl.Null:
            return np.zeros(len(column), dtype=np.int64), pl.Series([], dtype=pl.String)
        lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
        text = _is_text(column.dtype.inner)  # type: ignore[attr-defined]
        if (
            not text or (lengths > width).any()
        ):  # a row is judged by all of its ids, and its first ones are taken
            flat = column.filter(pl.Series(lengths > 0)).explode()
            values = flat if text else id_text(flat, booleans=False)
            bad = np.ones(len(flat), np.bool_) if values is None else values.is_null().to_numpy()
            if bad.any():
                rows = np.zeros(len(column), np.bool_)
                rows[np.repeat(np.arange(len(column)), lengths)[bad]] = True
                self._fault(
                    rows, "type", f"{name} contains a value that is not an id, expected {_WANTED['bag']}"
                )
            if not text:
                values = pl.Series([None] * len(flat), dtype=pl.String) if values is None else values
                numbers = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
                return np.minimum(lengths, width), values.filter(pl.Series(numbers < width)).fill_null("")
        column = column.list.head(width)
        flat = column.filter(pl.Series(lengths > 0)).explode()
        return np.minimum(lengths, width), flat.cast(pl.String)

    def _present(self, name: str, optional: bool) -> pl.Series:
        """The column; one of nulls if there is none, which is a fault of every row unless the field is optional."""
        if name in self.names:
            return self.frame[name]
        n = len(self.frame)
        if not optional:
            self._fault(np.ones(n, dtype=np.bool_), "missing", f"there is no field {name}")
        return _nulls(name, n)

    def _converted(self, column: pl.Series, converted: pl.Series | None, wanted: str) -> pl.Series:
        """The converted values; those without meaning are faults, and null."""
        name, n = column.name, len(column)
        given = column.is_not_null().to_numpy()
        if converted is None:
            self._fault(given, "type", f"{name} is {column.dtype}, expected {wanted}")
            return _nulls(name, n)
        bad = converted.is_null().to_numpy() & given
        self._fault(bad, "type", lambda row: f"{name} is {show(column[row])}, expected {wanted}")
        if bad.any() and name in REQUIRED:  # the fault is known: the value is not absent
            fill = "" if converted.dtype == pl.String else -(2**63)
            return converted.set(pl.Series(bad), fill)
        return converted

    def _required(self, name: str, column: pl.Series) -> pl.Series:
        if name in REQUIRED and column.null_count():
            self._fault(column.is_null().to_numpy(), "missing", f"{name} is null")
        return column

    def _fault(self, bad: NDArray[np.bool_], reason: str, detail: str | Callable[[int], str]) -> None:
        self.faults.append((bad, reason, detail))


def _is_text(dtype: Any) -> bool:
    return dtype.is_integer() or isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _is_bag(dtype: pl.DataType) -> bool:
    if not isinstance(dtype, pl.List):
        return False
    inner = dtype.inner
    return isinstance(inner, pl.DataType) and not (inner.is_nested() or inner == pl.Boolean)


def strings(values: list[Any]) -> pl.Series:
    """Strings, integers and None as one String column; a list of one type is converted fastest."""
    for dtype in (pl.String, pl.Int64):
        try:
            column = pl.Series(values, dtype=dtype)
            return column if dtype == pl.String else column.cast(pl.String)
        except (TypeError, OverflowError):  # values of another type; an integer beyond 128 bits
            continue
    return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)


def bag_of_lists(values: Iterable[list[Any] | None], width: int) -> tuple[NDArray[np.int64], pl.Series]:
    """Number of ids of each row ``(n,)``, at most ``width``, and all ids in row order."""
    bags = [v[:width] if v else () for v in values]
    lengths = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
    return lengths, strings([v for bag in bags for v in bag])
