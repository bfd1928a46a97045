"""``MappedTables``: any tables as a source, described by a mapping file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.join import KEY_FIELDS, JoinSettings, read_keys
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import duration_ms
from ecdctr.events.values import show
from ecdctr.replay.sources.batch_frames import batch_of_frame, frame_of_batch
from ecdctr.replay.sources.decoded_rows import DecodedRows
from ecdctr.replay.sources.event_files import find_files
from ecdctr.replay.sources.expansion import LABEL, Expanded
from ecdctr.replay.sources.files import (
    AHEAD,
    NUMBER_NULL_WORDS,
    Fault,
    FileColumns,
    NumberedRows,
    count_rows,
    field_names,
    format_of,
    read_chunks,
    without_rows_ahead,
)
from ecdctr.replay.sources.join_rows import check_policy, join_rows, with_key
from ecdctr.replay.sources.mapping import (
    BagMap,
    DomainMap,
    EventMap,
    NumberMap,
    TableMap,
    TimeMap,
    read_mapping,
)
from ecdctr.replay.sources.merge import EventOrder, Stream
from ecdctr.replay.sources.rejects import Rejects
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
    join
        How impressions and clicks that are apart are joined.

    Attributes
    ----------
    stragglers
        Rows of sorted tables that came later than the window allows.
    """

    def __init__(self, path: str | Path, *, join: JoinSettings | None = None) -> None:
        self.path = Path(path)
        self.mapping = read_mapping(self.path)
        self.join = join or JoinSettings()
        self.joined = any(table.event is not None for table in self.mapping.tables)
        if self.joined:
            check_policy(self.join)
        self.stragglers = 0
        self.tables = [
            _Table(self.path, table, self.mapping.features, event, joined=self.joined)
            for table in self.mapping.tables
            for event in _events_of(table)
        ]
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
        if self.joined or any(table.spec.expansion for table in self.tables):
            return None
        counts = [count_rows(file) for table in self.tables for file in table.files]
        return None if None in counts else sum(c for c in counts if c is not None)

    def batches(self, decoder: EventDecoder, rejects: Rejects) -> Iterator[Batch]:
        """Decoded rows in event order, joined where impressions and clicks are apart; each call restarts ``stragglers`` at 0."""
        if not self.joined:
            return self._merged(decoder, rejects)
        return join_rows(self._merged(decoder, rejects), self.join, rejects)

    def _merged(self, decoder: EventDecoder, rejects: Rejects) -> Iterator[Batch]:
        """The decoded rows of all tables in event order."""
        order = EventOrder(max(t.window_ms for t in self.tables))
        self.stragglers = 0
        rows = DecodedRows()
        with tempfile.TemporaryDirectory(prefix="ecdctr-sort-") as folder:
            streams: list[Stream] = []
            for number, table in enumerate(self.tables):
                for remark in table.remarks:
                    rejects.remark(remark)
                place = Path(folder) / str(number)
                place.mkdir()
                streams += table.places(place, decoder, rejects, rows)
            for frame in order.merge(streams):
                self.stragglers = order.stragglers
                yield rows.take(frame)

    def head(self, decoder: EventDecoder, rejects: Rejects, rows: int) -> Iterator[Batch]:
        """Decoded rows from the start of the first file of each table, about ``rows`` of each, in the order of the file."""
        for table in self.tables:
            yield from table.head(decoder, rejects, rows)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Event frames in event order, to be sent to topics; each call restarts ``stragglers`` at 0."""
        if self.joined:
            raise DataError(
                f"mapping {self.path} describes impressions and clicks that are apart: they are joined when they are replayed or trained on, "
                "but cannot be sent to topics of labelled events yet"
            )
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


def _events_of(table: TableMap) -> tuple[str | None, ...]:
    """Events of a table: a table of both is read twice."""
    return ("impression", "click") if isinstance(table.event, EventMap) else (table.event,)


class _Table:
    """One table of the mapping, its files found and their columns checked; of a table of impressions and clicks, one of both."""

    def __init__(
        self,
        mapping: Path,
        spec: TableMap,
        features: tuple[FeatureSpec, ...],
        event: str | None,
        *,
        joined: bool,
    ) -> None:
        self.spec, self.features, self.event, self.joined = spec, features, event, joined
        self.key = next(
            key for key in KEY_FIELDS if event is None or getattr(spec.columns, key[0]) is not None
        )
        self.window_ms = duration_ms(spec.window) if spec.order == "sorted" else 0
        found = [find_files(str(mapping.parent / Path(path).expanduser())) for path in spec.paths]
        self.files = [file for one in found for file in one.files]
        self.remarks = [remark for one in found for remark in one.remarks]
        self.label = ", ".join(spec.paths)
        self.header = field_names(self.files[0])
        self.events = self._expressions()
        self.read = self._columns_read(mapping)

    def _columns_read(self, mapping: Path) -> set[str]:
        """Names of the columns that are read; a DataError if the file lacks one."""
        expansion = self.spec.expansion
        used = {name: expression.meta.root_names() for name, expression in self.events.items()}
        if expansion is not None:
            used = {"lists" if self.spec.lists else "counts": expansion.columns} | used
        if isinstance(self.spec.event, EventMap):
            used["event"] = [self.spec.event.column]
        for name, columns in used.items():
            missing = [c for c in columns if c not in self.header and c != LABEL]
            if missing:
                raise DataError(
                    f"mapping {mapping}: {name} of {self.label} reads the column {missing[0]!r}; {self.header_text}"
                )
        return {column for columns in used.values() for column in columns} - {LABEL}

    @property
    def header_text(self) -> str:
        return f"{self.files[0]} has {', '.join(self.header)}"

    def has(self, field: str) -> bool:
        return field in self.events

    def streams(self, folder: Path) -> list[Stream]:
        if self.spec.order == "any":
            return runs(chain.from_iterable(map(self._read, self.files)), folder)
        return [Stream(self._start(file), partial(self._read, file)) for file in self.files]

    def places(
        self, folder: Path, decoder: EventDecoder, rejects: Rejects, rows: DecodedRows
    ) -> list[Stream]:
        """Streams of frames that stand for the decoded rows."""

        def put(batches: Iterable[Batch]) -> Iterator[pl.DataFrame]:
            return (rows.put(batch) for batch in batches)

        def start(file: Path) -> int:
            head = self._decoded(file, decoder, Rejects(), _HEAD_ROWS)
            return next((int(batch.ts.min()) for batch, _ in head), -(2**62))

        def read(file: Path) -> Iterator[pl.DataFrame]:
            return put(self._in_reach(self._decoded(file, decoder, rejects), decoder, rejects, file))

        if self.spec.order == "sorted":
            return [Stream(start(file), partial(read, file)) for file in self.files]
        everything = chain.from_iterable(self._decoded(f, decoder, rejects) for f in self.files)
        made = runs((frame_of_batch(batch) for batch, _ in everything), folder)

        def unpack(run: Stream) -> Iterator[pl.DataFrame]:
            batches = (batch_of_frame(frame) for frame in run.open() if len(frame))
            if len(made) > 1:  # several runs on disk: only their merge is in order
                return put(batches)
            numbered = ((batch, np.full(len(batch), -1, np.int64)) for batch in batches)
            return put(self._in_reach(numbered, decoder, rejects, self.files[0]))

        return [Stream(run.start, partial(unpack, run)) for run in made]

    def head(self, decoder: EventDecoder, rejects: Rejects, rows: int) -> Iterator[Batch]:
        """Decoded rows from the start of the first file."""
        file = self.files[0]
        return self._in_reach(self._decoded(file, decoder, rejects, rows), decoder, rejects, file)

    def _in_reach(
        self, parts: Iterator[NumberedRows], decoder: EventDecoder, rejects: Rejects, file: Path
    ) -> Iterator[Batch]:
        def note(number: int, ts: int) -> None:
            where = f"{file}, row {number}" if number > 0 else self.label
            rejects.note("ts", f"ts is {ts}, {AHEAD}", where)

        limit = decoder.max_ahead_ms
        kept = parts if limit is None else without_rows_ahead(parts, limit, note)
        return (batch for batch, _ in kept)

    def _decoded(
        self, file: Path, decoder: EventDecoder, rejects: Rejects, rows: int | None = None
    ) -> Iterator[NumberedRows]:
        nothing = foreign = others = 0
        for frame, part, numbers in self._frames(file, rows, convert=False):
            keys, faults = (None, []) if self.event is None else read_keys(frame, self.key)
            decoded = decoder.from_frame(frame, [*part.faults, *faults])
            for reject in decoded.rejects:
                where = f"{file}, row {numbers[reject.index]}"
                rejects.note(reject.reason, reject.detail, where, reject.rows)
            nothing, foreign, others = nothing + part.nothing, foreign + part.foreign, others + part.others
            if len(decoded.batch):
                batch = decoded.batch
                if self.joined:
                    batch = with_key(batch, None if keys is None else keys[decoded.index], self.event)
                yield batch, numbers[decoded.index]
        if nothing:
            rejects.remark(f"{file}: {nothing:,} {'row shows' if nothing == 1 else 'rows show'} nothing")
        if others:
            rejects.remark(
                f"{file}: {others:,} {'row is' if others == 1 else 'rows are'} neither impressions nor clicks"
            )
        if foreign:
            rejects.remark(
                f"{file}: {foreign:,} {'click was' if foreign == 1 else 'clicks were'} on an item that its row does not show; not counted"
            )

    def _start(self, file: Path) -> int:
        for frame in self._read(file, _HEAD_ROWS):
            first = frame["ts"].min()
            if first is not None:
                return int(first)  # type: ignore[arg-type]
        return -(2**62)

    def _read(self, file: Path, rows: int | None = None) -> Iterator[pl.DataFrame]:
        return (frame for frame, _, _ in self._frames(file, rows, convert=True))

    def _frames(
        self, file: Path, rows: int | None, *, convert: bool
    ) -> Iterator[tuple[pl.DataFrame, Expanded, NDArray[np.int64]]]:
        """The events of a file with the numbers of their rows, and the faults: what the mapping cannot read."""
        separators = {f: s.separator for f, s in self.spec.fields.items() if isinstance(s, BagMap)}
        columns = FileColumns(
            str(file),
            {},
            self.features,
            text=format_of(file) == "csv",
            convert=convert,
            separators=separators,
        )
        fields = dict.fromkeys(s.field for s in self.features if not s.field.startswith("@"))
        absent = [pl.lit(None, pl.String).alias(field) for field in fields if not self.has(field)]
        first = 1
        for read in read_chunks(file, rows, self.read):
            chunk = self._with_absent(file, read)
            for part in self._expanded(file, chunk):
                try:
                    mapped = part.frame.select(
                        *(e.alias(n) for n, e in self._for(part.frame).items()), *absent
                    )
                except pl.exceptions.PolarsError as error:
                    raise DataError(
                        f"{file} cannot be read by the mapping: {' '.join(str(error).split())[:300]}"
                    ) from error
                frame = columns.events(mapped)
                part.faults = [
                    *self._faults(part.frame, frame, text=columns.text),
                    *part.faults,
                    *columns.faults,
                ]
                yield frame, part, first + part.source
            first += len(chunk)

    def _with_absent(self, file: Path, chunk: pl.DataFrame) -> pl.DataFrame:
        """The chunk with all columns of the mapping: a key that no object of a chunk of JSON has is null."""
        lacking = sorted(self.read - set(chunk.columns))
        if lacking and format_of(file) != "json":
            raise DataError(f"{file} lacks a column of the mapping: {lacking[0]}")
        return chunk.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)

    def _expanded(self, file: Path, chunk: pl.DataFrame) -> Iterator[Expanded]:
        if isinstance(self.spec.event, EventMap) and self.event is not None:
            chosen, other = (
                chunk.select(self.spec.event.chosen(name).fill_null(False)).to_series()
                for name in (self.event, "click" if self.event == "impression" else "impression")
            )
            others = int((~chosen & ~other).sum()) if self.event == "impression" else 0
            yield Expanded(chunk.filter(chosen), np.flatnonzero(chosen.to_numpy()), others=others)
            return
        if self.spec.expansion is None:
            yield Expanded(chunk, np.arange(len(chunk)))
            return
        try:
            yield from self.spec.expansion.expand(chunk)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{file} cannot be read by the mapping: {' '.join(str(error).split())[:300]}"
            ) from error

    def _for(self, chunk: pl.DataFrame) -> dict[str, pl.Expr]:
        """The expressions for the types of a chunk: a bag that is a list already is not split, and only text is read as a label."""
        lists = {
            field: pl.col(source.column)
            for field, source in self.spec.fields.items()
            if field in self.events and isinstance(source, BagMap) and chunk.schema[source.column].is_nested()
        }
        label = self.spec.columns.label
        typed = {}
        if label in chunk.columns and self.spec.expansion is None and chunk.schema[label] != pl.String:
            typed["label"] = pl.col(label)  # the decoder judges each value
        return self.events | lists | typed

    def _faults(self, chunk: pl.DataFrame, frame: pl.DataFrame, *, text: bool) -> Iterator[Fault]:
        for name in ("ts", "label", "domain"):
            bad = frame[name].is_null()
            roots = self.events[name].meta.root_names()
            if not roots or not bad.any():
                continue
            source = chunk[roots[0]]
            given = source.is_not_null()
            if text and source.dtype == pl.String:  # such words are no value, as in a file without a mapping
                given &= ~source.str.strip_chars().is_in(NUMBER_NULL_WORDS)
            yield (bad & given).to_numpy(), "type", self._detail(name, source)

    def _detail(self, name: str, source: pl.Series) -> Callable[[int], str]:
        how = self.spec.columns.ts if name == "ts" else None
        by = ""
        if isinstance(how, TimeMap):
            by = f" in {how.unit}" if how.unit is not None else f" by the format {how.format}"
        return lambda row: f"{name} cannot be read from {source.name} = {show(source[row])}{by}"

    def _expressions(self) -> dict[str, pl.Expr]:
        """By event field, the expression that computes it."""
        spec, columns = self.spec, self.spec.columns
        out = {"ts": columns.ts.expression() if isinstance(columns.ts, TimeMap) else pl.col(columns.ts)}
        if self.event is not None:
            out |= {name: pl.col(getattr(columns, name)) for name in self.key}
        if (
            self.event == "click"
        ):  # only what joins it is read; the rest is that of an event which the decoder accepts
            fixed = {"domain": "natural", "user_id": "-", "item_id": "-", "label": 1}
            return {name: pl.lit(value) for name, value in fixed.items()} | out
        domain = pl.lit(spec.domain) if not isinstance(spec.domain, DomainMap) else spec.domain.expression()
        out |= {
            "domain": domain,
            "user_id": pl.col(columns.user_id or ""),
            "item_id": pl.col(spec.item_column),
            "label": spec.label_column if self.event is None else pl.lit(0),
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
                out[feature.field] = pl.col(source.column).cast(pl.String)
            elif isinstance(source, NumberMap):
                out[feature.field] = source.expression()
            elif feature.field in spec.fields or source in self.header:
                out[feature.field] = pl.col(source)
        return out
