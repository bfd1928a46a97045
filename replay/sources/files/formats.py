"""JSON lines, Parquet, Arrow and CSV read in chunks, compressed or not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from ecdctr.events.values import MAX_WHOLE, whole
from ecdctr.replay.sources.files.nested import column_names, object_names, selected, value_at
from ecdctr.replay.sources.files.opening import DAMAGED, check_contents, open_bytes
from ecdctr.state.errors import DataError

__all__ = [
    "FORMATS",
    "count_rows",
    "field_names",
    "format_of",
    "is_empty",
    "read_chunks",
    "read_lines",
    "read_slice",
]

CHUNK_ROWS = 65_536
_BLOCK = 1 << 20
_MAX_LINE = 256 << 20

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
}
"""Known file suffixes; JSON lines and CSV may be followed by ``.gz`` or ``.zst``."""


def format_of(path: Path) -> str | None:
    """ "json", "parquet", "arrow" or "csv" by the file's suffix; None for any other.

    >>> format_of(Path("day-1.jsonl.gz")), format_of(Path("notes.txt"))
    ('json', None)
    """
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes[-1:] in ([".gz"], [".zst"])
    known = FORMATS.get(suffixes[-2] if packed and len(suffixes) > 1 else (suffixes[-1] if suffixes else ""))
    return None if packed and known in ("parquet", "arrow") else known


def read_chunks(
    path: Path, rows: int | None = None, fields: Collection[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in their order, at most 65,536 at a time, with the columns of the file.

    CSV columns are all strings. A line that is not a JSON object becomes a row of nulls, so that the
    decoder counts it as a reject.

    Parameters
    ----------
    rows
        Stop after this many rows.
    fields
        Read only these columns, as far as the file has them. A name with dots that is no column is a path into nested values:
        ``user.id`` is the key ``id`` of the object ``user``, and the list of these keys if ``user`` is a list of objects.
    """
    read = {"json": _json, "parquet": _table, "arrow": _table, "csv": _csv}[format_of(path) or ""]
    if is_empty(path):
        return
    check_contents(path, format_of(path))
    try:
        yield from read(path, rows, fields)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as e:
        raise _unreadable(path, e) from e


def read_slice(path: Path, first: int, rows: int, fields: Collection[str]) -> pl.DataFrame:
    """Some consecutive rows of a Parquet or Arrow file; see :func:`read_chunks`."""
    try:
        return _chosen(_scan(path), fields).slice(first, rows).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, error: BaseException) -> DataError:
    text = " ".join(str(error).split())[:300]
    if "utf-8" in text.lower():
        text += ". If it is text, convert it to UTF-8, for example with iconv -f latin1 -t utf-8; if it is not, give it the suffix of its format"
    return DataError(f"{path} cannot be read as {format_of(path)}: {text}")


def field_names(path: Path, rows: int = 1000) -> list[str]:
    """Names of the columns of a file, and with dots those of nested values; in JSON lines, of its first rows.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    if is_empty(path):
        return []
    check_contents(path, format_of(path))
    if format_of(path) == "json":
        names: dict[str, None] = {}
        for _, lines in read_lines(path, rows):
            for line in lines:
                names.update(dict.fromkeys(object_names(_object(line))))
        return list(names)
    try:
        return column_names((_csv_scan if format_of(path) == "csv" else _scan)(path).collect_schema())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as e:
        raise _unreadable(path, e) from e


def is_empty(path: Path) -> bool:
    """Whether a file holds nothing at all: no byte, or only blanks in its first megabyte if it is text."""
    try:
        size = path.stat().st_size
        if size > 1 << 16 or format_of(path) in ("parquet", "arrow"):
            return size == 0
        with open_bytes(path) as file:
            return not file.read(1 << 20).removeprefix(b"\xef\xbb\xbf").strip()
    except DAMAGED:
        return False  # reading it names the error


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet or Arrow file, from its footer; None for formats that would have to be read completely."""
    if format_of(path) not in ("parquet", "arrow"):
        return None
    try:
        return int(_scan(path).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as e:
        raise _unreadable(path, e) from e


def _chosen(frame: pl.LazyFrame, fields: Collection[str] | None) -> pl.LazyFrame:
    return frame if fields is None else frame.select(selected(frame.collect_schema(), fields))


def _scan(path: Path) -> pl.LazyFrame:
    if format_of(path) == "arrow":
        return pl.scan_ipc(path, hive_partitioning=False)
    return pl.scan_parquet(path, hive_partitioning=False)


def _table(path: Path, rows: int | None, fields: Collection[str] | None) -> Iterator[pl.DataFrame]:
    # Slices are cut by row group and hold one chunk; a streaming collect reads ahead of a slow reader.
    frame = _chosen(_scan(path), fields)
    total = count_rows(path) or 0
    end = total if rows is None else min(total, rows)
    for first in range(0, end, CHUNK_ROWS):
        yield frame.slice(first, min(CHUNK_ROWS, end - first)).collect()


def _csv(path: Path, rows: int | None, fields: Collection[str] | None) -> Iterator[pl.DataFrame]:
    yield from _chosen(_csv_scan(path, rows), fields).collect_batches(chunk_size=CHUNK_ROWS, lazy=True)


def _csv_scan(path: Path, rows: int | None = None) -> pl.LazyFrame:
    return pl.scan_csv(path, separator=_separator(path), infer_schema=False, n_rows=rows, glob=False)


def _separator(path: Path) -> str:
    """The character between the columns: a tab in .tsv; in .csv the comma, or what the header has where it has no comma."""
    if ".tsv" in [s.lower() for s in path.suffixes]:
        return "\t"
    try:
        with open_bytes(path) as file:
            header = file.read(1 << 16).split(b"\n", 1)[0]
    except DAMAGED:
        return ","  # reading it names the error
    return next((c for c in ",;\t|" if c.encode() in header), ",")


def _json(path: Path, rows: int | None, fields: Collection[str] | None) -> Iterator[pl.DataFrame]:
    for _, lines in read_lines(path, rows):
        objects = [_object(line) for line in lines]
        yield frame_of_objects(objects, fields)


def frame_of_objects(
    objects: Sequence[dict[str, Any]], fields: Collection[str] | None = None
) -> pl.DataFrame:
    """JSON objects as rows: their keys, or these fields as far as an object has them; see :func:`read_chunks`."""
    names = dict.fromkeys(name for o in objects for name in o if fields is None or name in fields)
    paths = sorted(n for n in fields or () if "." in n and n not in names)
    columns = {n: [value_at(o, n) for o in objects] for n in (*names, *paths)}
    used = {n: values for n, values in columns.items() if n in names or any(v is not None for v in values)}
    return pl.DataFrame([_column(n, v) for n, v in (used or {"ts": [None] * len(objects)}).items()])


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _column(name: str, values: list[Any]) -> pl.Series:
    """Values as a column that keeps each of them; of several types, all become text."""
    kinds = {type(v) for v in values if v is not None}
    exact = kinds != {int, float} or all(abs(v) <= MAX_WHOLE for v in values if type(v) is int)
    if (kinds <= {int, float} and exact) or len(kinds) == 1:
        try:
            return pl.Series(name, values, strict=False)
        except (pl.exceptions.PolarsError, TypeError, OverflowError):
            pass
    return pl.Series(
        name, [v if v is None or isinstance(v, str) else _json_text(v) for v in values], dtype=pl.String
    )


def _json_text(value: Any) -> str:
    found = whole(value) if isinstance(value, float) else None
    return msgspec.json.encode(value if found is None else found).decode()


def read_lines(path: Path, rows: int | None = None) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield the lines of a file that are not blank, at most 65,536 at a time, with their numbers, from 1.

    A byte order mark at the start is removed.

    Raises
    ------
    DataError
        The file cannot be read, is one JSON array, is not what its name says, or has a line of more than 256 MiB.
    """
    check_contents(path, format_of(path))
    try:
        yield from _lines(path, CHUNK_ROWS if rows is None else rows, rows)
    except DAMAGED as e:
        raise DataError(f"{path} cannot be read as {format_of(path)}: {e}") from e


def _lines(path: Path, size: int, rows: int | None) -> Iterator[tuple[list[int], list[bytes]]]:
    numbers: list[int] = []
    lines: list[bytes] = []
    for number, line in enumerate(_split(path), start=1):
        if not line or line.isspace():
            continue
        numbers.append(number)
        lines.append(line)
        if len(lines) >= size:
            yield numbers, lines
            numbers, lines = [], []
            if rows is not None:
                return
    if lines:
        yield numbers, lines


def _split(path: Path) -> Iterator[bytes]:
    """Lines of a file, compressed or not, without their ends."""
    rest, first = b"", True
    with open_bytes(path) as file:
        while block := file.read(_BLOCK):
            if first:
                block, first = _check_start(path, block), False
            parts = (rest + block).split(b"\n")
            rest = parts.pop()
            yield from parts
            if len(rest) > _MAX_LINE:
                raise DataError(
                    f"{path} has a line of more than {_MAX_LINE >> 20} MiB: one object a line is needed"
                )
    if rest:
        yield rest


def _check_start(path: Path, block: bytes) -> bytes:
    """The first bytes of a file without its byte order mark."""
    block = block.removeprefix(b"\xef\xbb\xbf")
    if block.lstrip()[:1] == b"[":
        raise DataError(
            f"{path} is a JSON array, and one object a line is needed: convert it with jq -c '.[]'"
        )
    return block
