"""Fields of an event: their types, and how they are read from JSON objects and from frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.schema import OUTCOME_FIELDS, FeatureSchema
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

    def struct(self) -> type[msgspec.Struct]:
        """The type to which a JSON event is decoded; it rejects event times beyond 64 bits."""
        bits64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
        types: dict[str, Any] = dict.fromkeys(self.text, str | int | None)
        types.update(dict.fromkeys(self.numbers, float | None))
        types.update(dict.fromkeys(self.bags, list[str | int] | None))
        types.update(dict.fromkeys(IDS, str | int), ts=bits64, label=float)
        fields = [
            (python, types[name], None) if name in self.optional else (python, types[name])
            for python, name in self.python_names()
        ]
        return msgspec.defstruct("Event", fields, rename=dict(self.python_names()), gc=False)


def _nulls(name: str, n: int) -> pl.Series:
    """A column without values."""
    return pl.repeat(None, n, dtype=pl.Null, eager=True).alias(name)


class FrameReader:
    """Typed columns of a frame; values of another type are recorded in ``faults`` and read as null."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame.rechunk()
        self.names = frozenset(frame.columns)
        self.faults: list[tuple[NDArray[np.bool_], str, str]] = []

    def text(self, name: str, *, optional: bool = False) -> pl.Series:
        column = self._column(name, _is_text, "a string or an integer", optional)
        return self._required(name, column if column.dtype == pl.String else column.cast(pl.String))

    def numbers(self, name: str, *, optional: bool = False) -> pl.Series:
        column = self._column(name, _is_number, "a number", optional)
        return self._required(name, column if column.dtype == pl.Float64 else column.cast(pl.Float64))

    def integers(self, name: str) -> NDArray[np.int64]:
        column = self._required(name, self._column(name, _is_integer, "an integer", optional=False))
        return column.cast(pl.Int64, strict=False).fill_null(-(2**63)).to_numpy()

    def bag(self, name: str, width: int) -> tuple[NDArray[np.int64], pl.Series]:
        column = self._column(name, _is_bag, "a list of strings or integers", optional=False)
        if column.dtype == pl.Null:
            return np.zeros(len(column), dtype=np.int64), pl.Series([], dtype=pl.String)
        if isinstance(column.dtype, pl.Array):
            column = column.arr.to_list()
        column = column.list.head(width)
        lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
        flat = column.filter(pl.Series(lengths > 0)).explode()
        return lengths, flat.cast(pl.String)

    def _column(
        self, name: str, fits: Callable[[pl.DataType], bool], wanted: str, optional: bool
    ) -> pl.Series:
        n = len(self.frame)
        if name not in self.names:
            if not optional:
                self._fault(np.ones(n, dtype=np.bool_), "missing", f"there is no field {name}")
            return _nulls(name, n)
        column = self.frame[name]
        if column.dtype == pl.Null or fits(column.dtype):
            return column
        self._fault(column.is_not_null().to_numpy(), "type", f"{name} is {column.dtype}, expected {wanted}")
        return _nulls(name, n)

    def _required(self, name: str, column: pl.Series) -> pl.Series:
        if name in REQUIRED and column.null_count():
            self._fault(column.is_null().to_numpy(), "missing", f"{name} is null")
        return column

    def _fault(self, bad: NDArray[np.bool_], reason: str, detail: str) -> None:
        self.faults.append((bad, reason, detail))


def _is_text(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _is_integer(dtype: pl.DataType) -> bool:
    return dtype.is_integer()


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric()


def _is_bag(dtype: pl.DataType) -> bool:
    if not isinstance(dtype, pl.List | pl.Array):
        return False
    inner = dtype.inner
    return isinstance(inner, pl.DataType) and (isinstance(inner, pl.Null) or _is_text(inner))


def strings(values: list[Any]) -> pl.Series:
    """Strings, integers and None as one String column; a list of one type is converted fastest."""
    for dtype in (pl.String, pl.Int64):
        try:
            column = pl.Series(values, dtype=dtype)
            return column if dtype == pl.String else column.cast(pl.String)
        except TypeError:
            continue
    return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)


def bag_of_lists(values: Iterable[list[Any] | None], width: int) -> tuple[NDArray[np.int64], pl.Series]:
    """Number of ids of each row ``(n,)``, at most ``width``, and all ids in row order."""
    bags = [v[:width] if v else () for v in values]
    lengths = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
    return lengths, strings([v for bag in bags for v in bag])
