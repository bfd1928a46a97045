"""Event files decoded chunk by chunk, each row by the rule for live messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import Decoded, EventDecoder
from ecdctr.events.text_lists import ids_of_text
from ecdctr.replay.sources.files.ahead import AHEAD, NumberedRows, without_rows_ahead
from ecdctr.replay.sources.files.columns import FileColumns, check_names
from ecdctr.replay.sources.files.formats import format_of, read_chunks, read_lines
from ecdctr.replay.sources.read_ahead import read_ahead
from ecdctr.replay.sources.rejects import Rejects
from ecdctr.state.errors import DataError

__all__ = ["decoded_file"]

_HEAD_ROWS = 100


def decoded_file(
    file: Path,
    constants: Mapping[str, str],
    decoder: EventDecoder,
    rejects: Rejects,
    rows: int | None = None,
) -> Iterator[Batch]:
    """Yield the accepted rows of a file, in its order; batches have at least one row.

    Parameters
    ----------
    constants
        Values of fields that the file does not have.
    rejects
        Receives the other rows with file and row number, and what a live message would not be accepted with.
    rows
        Stop after this many rows.

    Raises
    ------
    DataError
        The file cannot be read, or lacks a column that every event has.
    """
    read = _json if format_of(file) == "json" else _table
    parts = read(file, constants, decoder, rejects, rows)
    if decoder.max_ahead_ms is None:
        yield from (batch for batch, _ in parts)
        return
    what = "line" if format_of(file) == "json" else "row"

    def note(number: int, ts: int) -> None:
        rejects.note("ts", f"ts is {ts}, {AHEAD}", f"{file}, {what} {number}")

    yield from (batch for batch, _ in without_rows_ahead(parts, decoder.max_ahead_ms, note))


def _json(
    file: Path, constants: Mapping[str, str], decoder: EventDecoder, rejects: Rejects, rows: int | None
) -> Iterator[NumberedRows]:
    defaults = _typed(file, constants, decoder)
    checked = False
    read = read_lines(file, rows)
    for numbers, lines in read if rows is not None else read_ahead(read):
        checked = checked or _check(file, lines[:_HEAD_ROWS], constants)
        decoded = decoder.from_lines(lines, defaults=defaults, differs=rejects.differs)
        _note(rejects, decoded, file, "line", numbers)
        if len(decoded.batch):
            yield decoded.batch, np.array(numbers, np.int64)[decoded.index]


def _table(
    file: Path, constants: Mapping[str, str], decoder: EventDecoder, rejects: Rejects, rows: int | None
) -> Iterator[NumberedRows]:
    columns = FileColumns(
        str(file), constants, decoder.schema.specs, text=format_of(file) == "csv", convert=False
    )
    if decoder.oracle_field is not None:
        columns.kinds[decoder.oracle_field] = "numeric"
    read = read_chunks(file, rows, {*decoder.fields, "domain"})
    first = 1
    for chunk in read if rows is not None else read_ahead(read):
        frame = columns.events(chunk)
        decoded = decoder.from_frame(frame, columns.faults)
        _note(rejects, decoded, file, "row", range(first, first + len(frame)))
        numbers = first + decoded.index
        first += len(frame)
        if len(decoded.batch):
            for name in columns.texts:
                rejects.differs[f"{name} is text"] += len(decoded.batch)
            if "event_id" not in chunk.columns:
                rejects.differs["event_id is absent"] += len(decoded.batch)
            yield decoded.batch, numbers


def _note(rejects: Rejects, decoded: Decoded, file: Path, what: str, numbers: Sequence[int]) -> None:
    for reject in decoded.rejects:
        where = f"{file}, {what} {numbers[reject.index]}"
        rejects.note(reject.reason, reject.detail, where, reject.rows)


def _check(file: Path, lines: Sequence[bytes], constants: Mapping[str, str]) -> bool:
    """Whether the first lines hold an object; a field that each event has must be in one of them."""
    names = dict.fromkeys(constants)
    found = False
    for line in lines:
        try:
            content = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(content, dict):
            names.update(dict.fromkeys(content))
            found = True
    if found:
        check_names(str(file), list(names))
    return found


def _typed(file: Path, constants: Mapping[str, str], decoder: EventDecoder) -> dict[str, Any]:
    """Values of fields from the names of folders, in the types of the fields."""
    kinds = {spec.field: spec.kind for spec in decoder.schema.specs}
    out: dict[str, Any] = {}
    for name, text in constants.items():
        try:
            if name in ("ts", "label"):
                out[name] = int(text)
            elif kinds.get(name) == "numeric":
                out[name] = float(text)
            elif kinds.get(name) == "bag":
                out[name] = ids_of_text(text)
            elif name == "domain" or name in decoder.fields:
                out[name] = text
        except ValueError as error:
            raise DataError(f"{file}: the folder's name gives {name}={text!r}, expected a number") from error
    return out
