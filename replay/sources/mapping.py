"""The mapping file: a TOML file that describes how the columns of any table become events."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
from pydantic import Field, ValidationError, field_validator, model_validator

from ecdctr.events.schema import OUTCOME_FIELDS
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import duration_ms
from ecdctr.events.values import time_of_text
from ecdctr.replay.sources.expansion import LABEL, CountsMap, ListsMap
from ecdctr.replay.sources.files import LABEL_WORDS
from ecdctr.state.errors import DataError
from ecdctr.state.settings import Section

__all__ = [
    "ColumnsMap",
    "DomainMap",
    "EventMap",
    "Mapping",
    "NumberMap",
    "TableMap",
    "TimeMap",
    "label_expression",
    "read_mapping",
]

_OPERATORS = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_BRANCH = re.compile(r"TimeMap|DomainMap|EventMap|BagMap|NumberMap|str")
KEYS = ("impression_id", "request_id")
_MS = {"us": 0.001, "ms": 1, "s": 1000}


class TimeMap(Section):
    """How a column represents the event time."""

    column: str
    clock: str | None = Field(
        default=None,
        description="Column with the time of day, if it is apart: the format is that of both texts with a blank between them.",
    )
    unit: Literal["ns", "us", "ms", "s"] | None = Field(
        default=None, description="Unit of a number since the epoch."
    )
    format: str | None = Field(default=None, description="Format of a text, as '%Y-%m-%d %H:%M:%S'.")
    zone: str = Field(default="UTC", description="Time zone of texts that do not name one.")
    origin: str = Field(
        default="1970-01-01",
        description="Date or date-time (UTC) at which a number is 0, as in logs with relative times.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> TimeMap:
        if (self.unit is None) == (self.format is None):
            raise ValueError("give either unit (ns, us, ms, s) or format")
        if self.clock is not None and self.format is None:
            raise ValueError("clock needs a format, as '%Y-%m-%d %H:%M:%S'")
        return self

    @field_validator("origin")
    @classmethod
    def _origin_reads(cls, text: str) -> str:
        if time_of_text(text) is None:
            raise ValueError(f"{text!r} is not a date: write it as 2026-01-31")
        return text

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{name!r} is no time zone: write it as Europe/Berlin or UTC") from error
        return name

    def expression(self) -> pl.Expr:
        """The column as milliseconds since the epoch; a value that cannot be parsed is null."""
        column = pl.col(self.column)
        if self.unit is not None:
            origin = time_of_text(self.origin) or 0
            if self.unit == "ns":  # a float would not be exact
                return column.cast(pl.Int64, strict=False).floordiv(1_000_000) + origin
            number = column.cast(pl.Float64, strict=False)
            return (number * _MS[self.unit]).round(0).cast(pl.Int64, strict=False) + origin
        assert self.format is not None
        text, form = column.cast(pl.String), self.format
        if self.clock is not None:  # 930 is half past nine
            text = pl.concat_str(text, pl.col(self.clock).cast(pl.String).str.zfill(4), separator=" ")
        if re.search("%[HI]", form) and not re.search("%[MTXRrcs+]", form):  # a time needs minutes
            text, form = text + ":00", form + ":%M"
        if re.search(r"%:?z|%Z", form):
            return text.str.to_datetime(form, strict=False, time_zone="UTC").dt.epoch("ms")
        moment = text.str.to_datetime(form, strict=False, ambiguous="null")
        return moment.dt.replace_time_zone(self.zone, ambiguous="null", non_existent="null").dt.epoch("ms")


class DomainMap(Section):
    """A column that determines the domain; a row whose value is in neither list is rejected."""

    column: str
    ad: list[str | int | bool]
    natural: list[str | int | bool]

    def expression(self) -> pl.Expr:
        text = pl.col(self.column).cast(pl.String)
        ad, natural = ([_text(v) for v in values] for values in (self.ad, self.natural))
        return pl.when(text.is_in(ad)).then(pl.lit("ad")).when(text.is_in(natural)).then(pl.lit("natural"))


class EventMap(Section):
    """A column that tells impressions from clicks; rows with another value are passed over."""

    column: str
    impression: list[str | int | bool] = Field(min_length=1)
    click: list[str | int | bool] = Field(min_length=1)

    def chosen(self, event: str) -> pl.Expr:
        """The rows that are such events."""
        return pl.col(self.column).cast(pl.String).is_in([_text(v) for v in getattr(self, event)])


class BagMap(Section):
    """A column of ids with a separator between them."""

    column: str
    separator: str = Field(min_length=1)


class NumberMap(Section):
    """A column of numbers in texts with a decimal comma; points between thousands are passed over."""

    column: str
    decimal: Literal[","]

    def expression(self) -> pl.Expr:
        """The numbers as texts with a decimal point."""
        text = pl.col(self.column).cast(pl.String)
        return text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)


class ColumnsMap(Section):
    """The columns from which the fields of an event are read."""

    ts: str | TimeMap
    user_id: str | None = Field(default=None, description="Not needed for clicks.")
    item_id: str | None = Field(
        default=None, description="Not needed with [tables.lists], nor for clicks with an impression_id."
    )
    label: str | None = Field(
        default=None,
        description="A column of 0 and 1, or a condition as 'dwell > 10' or 'action in [\"buy\"]'. Not needed with "
        "[tables.lists] and [tables.counts], nor with event.",
    )
    event_id: str | None = None
    list_id: str | None = None
    impression_id: str | None = Field(default=None, description="What an impression and its clicks share.")
    request_id: str | None = Field(
        default=None, description="What they share together with item_id, instead of impression_id."
    )

    @field_validator("label")
    @classmethod
    def _label_reads(cls, text: str | None) -> str | None:
        if text is not None:
            label_expression(text)
        return text


class TableMap(Section):
    """One table: its files, its domain, its columns."""

    path: str | tuple[str, ...] = Field(
        description="File, folder or glob, or a list of them; relative to the mapping file."
    )
    event: Literal["impression", "click"] | EventMap | None = Field(
        default=None, description="For impressions and clicks that are logged apart; they are joined."
    )
    domain: Literal["natural", "ad"] | DomainMap | None = Field(
        default=None, description="Not needed for clicks: they have the domain of their impression."
    )
    order: Literal["sorted", "any"] = Field(
        default="sorted",
        description="Whether the rows are sorted by time; with any, they are sorted when read.",
    )
    window: str = Field(default="10m", description="How far the rows of a sorted table may be out of order.")
    columns: ColumnsMap
    lists: ListsMap | None = Field(default=None, description="For rows that are a list of shown items.")
    counts: CountsMap | None = Field(default=None, description="For rows that count views and clicks.")
    fields: dict[str, str | BagMap | NumberMap] = Field(
        default_factory=dict, description="Columns of feature fields that have another name in this table."
    )

    @property
    def wrong_keys(self) -> list[str]:
        """What is wrong with the keys: each kind of table needs some, and gives others itself."""
        if self.event is not None:
            return self._wrong_for_events
        out = [
            f"{{table}}.columns.{key} is given, but {{table}}.event is not"
            for key in KEYS
            if getattr(self.columns, key) is not None
        ]
        out += [
            f"the key {{table}}.{name} is missing"
            for name, value in (("domain", self.domain), ("columns.user_id", self.columns.user_id))
            if value is None
        ]
        return out + self._wrong_for_labels

    @property
    def _wrong_for_labels(self) -> list[str]:
        """An expansion gives the label, that of lists the item, too."""
        if self.lists is not None and self.counts is not None:
            return ["{table}.lists and {table}.counts are both given"]
        section = "lists" if self.lists is not None else "counts"
        by_expansion = {"item_id": self.lists is not None, "label": self.expansion is not None}
        given = {key: getattr(self.columns, key) is not None for key in by_expansion}
        out = [
            f"the key {{table}}.columns.{key} is missing"
            for key in given
            if not given[key] | by_expansion[key]
        ]
        return out + [
            f"{{table}}.columns.{key} is given, but {{table}}.{section} gives it, too"
            for key in given
            if given[key] & by_expansion[key]
        ]

    @property
    def _wrong_for_events(self) -> list[str]:
        """Impressions need what a row has, but the label; clicks need what joins them."""
        columns = self.columns
        given = [key for key in KEYS if getattr(columns, key) is not None]
        if len(given) != 1:
            return [f"{{table}}.columns needs one of {' and '.join(KEYS)}"]
        needed: dict[str, Any] = {"columns.item_id": columns.item_id} if given == ["request_id"] else {}
        if self.event != "click":
            needed |= {
                "domain": self.domain,
                "columns.user_id": columns.user_id,
                "columns.item_id": columns.item_id,
            }
        out = [f"the key {{table}}.{key} is missing" for key, value in needed.items() if value is None]
        extra = {"columns.label": columns.label, "lists": self.lists, "counts": self.counts}
        return out + [
            f"{{table}}.{key} is given, but the clicks of the join give the label"
            for key, value in extra.items()
            if value is not None
        ]

    @property
    def paths(self) -> tuple[str, ...]:
        """Its paths."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def expansion(self) -> ListsMap | CountsMap | None:
        """How a row becomes several impressions; None if it is one."""
        return self.lists or self.counts

    @property
    def item_column(self) -> str:
        """Column of the item, after the expansion."""
        column = self.columns.item_id if self.lists is None else self.lists.items
        assert column is not None
        return column

    @property
    def label_column(self) -> pl.Expr:
        """The label, after the expansion."""
        return pl.col(LABEL) if self.columns.label is None else label_expression(self.columns.label)

    @field_validator("window")
    @classmethod
    def _window_reads(cls, text: str) -> str:
        duration_ms(text)
        return text


class Mapping(Section):
    """The whole file."""

    name: str | None = None
    tables: tuple[TableMap, ...]
    features: tuple[FeatureSpec, ...]

    @model_validator(mode="after")
    def _features_fit(self) -> Mapping:
        if not self.tables or not self.features:
            raise ValueError("at least one of [[tables]] and one of [[features]] is needed")
        known = {spec.field for spec in self.features}
        for spec in self.features:
            if spec.field in ("ts", *OUTCOME_FIELDS):
                raise ValueError(f"feature {spec.name!r} reads {spec.field!r}, which is never a feature")
        for number, table in enumerate(self.tables):
            for wrong in table.wrong_keys:
                raise ValueError(wrong.format(table=f"tables.{number}"))
            unread = sorted(set(table.fields) - known)
            if unread:
                raise ValueError(
                    f"fields {', '.join(unread)} of {', '.join(table.paths)} are read by no feature"
                )
        self._check_events()
        return self

    def _check_events(self) -> None:
        """Impressions and clicks must both be there, and share their key."""
        apart = [table for table in self.tables if table.event is not None]
        both = any(isinstance(table.event, EventMap) for table in apart)
        kinds = {table.event for table in apart if isinstance(table.event, str)}
        if apart and not both and len(kinds) < 2:
            other = ({"impression", "click"} - kinds).pop()
            raise ValueError(f'no table has event = "{other}": impressions and clicks are joined')
        for spec in self.features:
            if apart and spec.field in KEYS:
                raise ValueError(
                    f"feature {spec.name!r} reads {spec.field!r}, which joins and is never a feature"
                )
        keys = {key for table in apart for key in KEYS if getattr(table.columns, key) is not None}
        if len(keys) > 1:
            raise ValueError(
                f"some tables have {' and others '.join(sorted(keys))}: impressions and clicks are joined by one of them"
            )


def read_mapping(path: Path) -> Mapping:
    """Read and validate a mapping file.

    Raises
    ------
    DataError
        A key is unknown, missing or invalid; the message names every one.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"mapping {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"mapping {path} is not valid TOML: {error}") from error
    try:
        return Mapping(**content)
    except ValidationError as error:
        wrong = "; ".join(_explain(error))
        raise DataError(f"mapping {path}: {wrong}. The keys are described in docs/replay.md") from None


def label_expression(text: str) -> pl.Expr:
    """A label as a column of 0 and 1.

    >>> frame = pl.DataFrame({"dwell": ["3", "30"], "act": ["see", "buy"], "clicked": ["1", "x"]})
    >>> frame.select(label_expression("dwell > 10")).to_series().to_list()
    [0.0, 1.0]
    >>> frame.select(label_expression('act in ["buy", "cart"]')).to_series().to_list()
    [0.0, 1.0]
    >>> frame.select(label_expression("clicked")).to_series().to_list()
    [1.0, None]
    """
    among = re.fullmatch(r"\s*(\S+)\s+in\s+(\[.*\])\s*", text)
    compared = re.fullmatch(r"\s*(\S+)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*", text)
    try:
        if among:
            values = [_text(v) for v in json.loads(among[2])]
            return pl.col(among[1]).cast(pl.String).is_in(values).cast(pl.Float64)
        if compared:
            value = json.loads(compared[3])
            if isinstance(value, str) and compared[2] not in ("==", "!="):
                raise ValueError("texts can be compared by == and != only")
            column = pl.col(compared[1])
            column = (
                column.cast(pl.String) if isinstance(value, str) else column.cast(pl.Float64, strict=False)
            )
            found: pl.Expr = _OPERATORS[compared[2]](column, value)
            return found.cast(pl.Float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{text!r} is not a condition ({error}): write it as 'dwell > 10'") from error
    if re.search(r"[<>=!\[\]]", text):
        raise ValueError(f"{text!r} is neither a column nor a condition as 'dwell > 10'")
    column = pl.col(text)
    return pl.coalesce(
        column.cast(pl.Float64, strict=False),
        column.cast(pl.String).str.strip_chars().str.to_lowercase().replace_strict(LABEL_WORDS, default=None),
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explain(error: ValidationError) -> list[str]:
    """One line for each invalid key; for a key that may be a text or a table, the problem with the table."""
    lines: dict[str, tuple[bool, str]] = {}
    for item in error.errors():
        # Keys are in lower case or numbers; other parts name the branch of a union that pydantic tried.
        parts = [
            str(p) for p in item["loc"] if re.fullmatch(r"\w+", str(p)) and not _BRANCH.fullmatch(str(p))
        ]
        path, text = ".".join(parts), item["type"] in ("string_type", "literal_error")
        message = item["msg"].removeprefix("Value error, ")
        line = f"{path}: {message}" if path else message
        if item["type"] == "extra_forbidden":
            line = f"unknown key {path}"
        elif item["type"] == "missing":
            line = f"the key {path} is missing"
        if path not in lines or (lines[path][0] and item["type"] != "model_type"):
            lines[path] = (text, line)
    return [
        line
        for path, (text, line) in lines.items()
        if not (text and any(other.startswith(f"{path}.") for other in lines))
    ]
