"""``MappedTables``: any tables as a source, described by a mapping file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import polars as pl

from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import duration_ms
from ecdctr.replay.sources.event_files import find_files
from ecdctr.replay.sources.files import FileColumns, count_rows, format_of, read_chunks
from ecdctr.replay.sources.mapping import BagMap, TableMap, TimeMap, label_expression, read_mapping
from ecdctr.replay.sources.merge import EventOrder, Stream
from ecdctr.replay.sources.sort import runs
from ecdctr.state.errors import DataError

__all__ = ["MappedTables"]

_HEAD_ROWS = 100
_OWN = ("domain", "event_id", "ts", "user_id", "item_id", "label", "list_id")


class MappedTables:
    """Tables of events in event order, read as described by a mapping file.

    Sorted tables are read in chunks and reordered within their window; tables in any order are sorted first, on disk
    if they are large. A feature whose column is absent from a table is missing in all of its rows; a column that no table
    has is an error.

    Parameters
    ----------
    path
        The mapping file, see docs/replay.md.

    Attributes
    ----------
    stragglers
        Rows of sorted tables that came later than the window allows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.mapping = read_mapping(self.path)
        self.stragglers = 0
        self.tables = [_Table(self.path, table, self.mapping.features) for table in self.mapping.tables]
        for spec in self.mapping.features:
            if not spec.field.startswith("@") and not any(t.has(spec.field) for t in self.tables):
                raise DataError(
                    f"mapping {self.path}: feature {spec.name!r} reads the column {spec.field!r}, which no table has; "
                    f"they have {'; '.join(t.header_text for t in self.tables)}"
                )

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.mapping.name or self.path.stem

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features of the mapping file."""
        return self.mapping.features

    @property
    def extra_fields(self) -> tuple[str, ...]:
        """Columns other than the features."""
        return ("list_id",) if any(t.spec.columns.list_id for t in self.tables) else ()

    def count(self) -> int | None:
        """Rows of all tables; None if they would have to be read for it."""
        counts = [count_rows(file) for table in self.tables for file in table.files]
        return None if None in counts else sum(c for c in counts if c is not None)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Event frames in event order; each call restarts ``stragglers`` at 0."""
        order = EventOrder(max(t.window_ms for t in self.tables))
        self.stragglers = 0
        with tempfile.TemporaryDirectory(prefix="ecdctr-sort-") as folder:
            streams: list[Stream] = []
            for number, table in enumerate(self.tables):
                place = Path(folder) / str(number)
                place.mkdir()
                streams += table.streams(place)
            for frame in order.merge(streams):
                self.stragglers = order.stragglers
                yield frame


class _Table:
    """One table of the mapping, its files found and their columns checked."""

    def __init__(self, mapping: Path, spec: TableMap, features: tuple[FeatureSpec, ...]) -> None:
        self.spec, self.features = spec, features
        self.window_ms = duration_ms(spec.window) if spec.order == "sorted" else 0
        self.files = find_files(str(mapping.parent / Path(spec.path).expanduser())).files
        self.header = next((chunk.columns for chunk in read_chunks(self.files[0], 1)), [])
        self.events = self._expressions()
        for name, expression in self.events.items():
            missing = [c for c in expression.meta.root_names() if c not in self.header]
            if missing:
                raise DataError(
                    f"mapping {mapping}: {name} of {spec.path} reads the column {missing[0]!r}; {self.header_text}"
                )

    @property
    def header_text(self) -> str:
        return f"{self.files[0]} has {', '.join(self.header)}"

    def has(self, field: str) -> bool:
        return field in self.events

    def streams(self, folder: Path) -> list[Stream]:
        if self.spec.order == "any":
            return runs(chain.from_iterable(map(self._read, self.files)), folder)
        return [Stream(self._start(file), partial(self._read, file)) for file in self.files]

    def _start(self, file: Path) -> int:
        for frame in self._read(file, _HEAD_ROWS):
            first = frame["ts"].min()
            if first is not None:
                return int(first)  # type: ignore[arg-type]
        return -(2**62)

    def _read(self, file: Path, rows: int | None = None) -> Iterator[pl.DataFrame]:
        columns = FileColumns(str(file), {}, self.features, text=format_of(file) == "csv")
        fields = dict.fromkeys(s.field for s in self.features if not s.field.startswith("@"))
        absent = [pl.lit(None, pl.String).alias(field) for field in fields if not self.has(field)]
        for chunk in read_chunks(file, rows):
            frame = chunk.select(*(e.alias(name) for name, e in self.events.items()), *absent)
            yield columns.events(frame)

    def _expressions(self) -> dict[str, pl.Expr]:
        """By event field, the expression that computes it."""
        spec, columns = self.spec, self.spec.columns
        domain = pl.lit(spec.domain) if isinstance(spec.domain, str) else spec.domain.expression()
        out = {
            "domain": domain,
            "ts": columns.ts.expression() if isinstance(columns.ts, TimeMap) else pl.col(columns.ts),
            "user_id": pl.col(columns.user_id),
            "item_id": pl.col(columns.item_id),
            "label": label_expression(columns.label),
        }
        for name in ("event_id", "list_id"):
            column = getattr(columns, name)
            if column is not None:
                out[name] = pl.col(column)
        for feature in self.features:
            if feature.field.startswith("@") or feature.field in _OWN:
                continue
            source = spec.fields.get(feature.field, feature.field)
            if isinstance(source, BagMap):
                text = pl.col(source.column)
                out[feature.field] = pl.when(text.str.len_bytes() > 0).then(text.str.split(source.separator))
            elif feature.field in spec.fields or source in self.header:
                out[feature.field] = pl.col(source)
        return out
