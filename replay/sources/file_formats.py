"""JSON lines, Parquet and CSV read in chunks, compressed or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from ecdctr.state.errors import DataError

__all__ = ["FORMATS", "count_rows", "format_of", "read_chunks"]

CHUNK_ROWS = 65_536

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
}
"""Known file suffixes; JSON lines and CSV may be followed by ``.gz`` or ``.zst``."""


def format_of(path: Path) -> str | None:
    """ "json", "parquet" or "csv" by the file's suffix; None for any other.

    >>> format_of(Path("day-1.jsonl.gz")), format_of(Path("notes.txt"))
    ('json', None)
    """
    suffixes = [s.lower() for s in path.suffixes]
    packed = suffixes[-1:] in ([".gz"], [".zst"])
    known = FORMATS.get(suffixes[-2] if packed and len(suffixes) > 1 else (suffixes[-1] if suffixes else ""))
    return None if packed and known == "parquet" else known


def read_chunks(path: Path, rows: int | None = None) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in their order, at most 65,536 at a time, with the columns of the file.

    CSV columns are all strings. A line that is not a JSON object becomes a row of nulls, so that the
    decoder counts it as a reject.

    Parameters
    ----------
    rows
        Stop after this many rows.
    """
    read = {"json": _json, "parquet": _parquet, "csv": _csv}[format_of(path) or ""]
    try:
        yield from read(path, rows)
    except (pl.exceptions.PolarsError, OSError) as e:
        raise DataError(
            f"{path} cannot be read as {format_of(path)}: {' '.join(str(e).split())[:300]}"
        ) from e


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet file, from its footer; None for formats that would have to be read completely."""
    if format_of(path) != "parquet":
        return None
    try:
        return int(pl.scan_parquet(path, hive_partitioning=False).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as e:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(e).split())[:300]}") from e


def _parquet(path: Path, rows: int | None) -> Iterator[pl.DataFrame]:
    # Slices are cut by row group and hold one chunk; a streaming collect reads ahead of a slow reader.
    frame = pl.scan_parquet(path, hive_partitioning=False)
    total = count_rows(path) or 0
    end = total if rows is None else min(total, rows)
    for first in range(0, end, CHUNK_ROWS):
        yield frame.slice(first, min(CHUNK_ROWS, end - first)).collect()


def _csv(path: Path, rows: int | None) -> Iterator[pl.DataFrame]:
    separator = "\t" if ".tsv" in path.suffixes else ","
    frame = pl.scan_csv(path, separator=separator, infer_schema=False, n_rows=rows, glob=False)
    yield from frame.collect_batches(chunk_size=CHUNK_ROWS, lazy=True)


def _json(path: Path, rows: int | None) -> Iterator[pl.DataFrame]:
    lines = pl.scan_lines(path, n_rows=rows, glob=False).filter(pl.col("line").str.contains(r"\S"))
    for chunk in lines.collect_batches(chunk_size=CHUNK_ROWS, lazy=True):
        if chunk.height:
            yield _parse("\n".join(chunk["line"].fill_null("").to_list()).encode(), chunk.height)


def _parse(text: bytes, rows: int) -> pl.DataFrame:
    try:
        frame = pl.read_ndjson(text, infer_schema_length=None)
        if frame.height == rows:
            return frame
    except pl.exceptions.PolarsError:
        pass
    # Something in the chunk is not a JSON object, or a field changes its kind: one line at a time.
    objects = [_object(line) for line in text.split(b"\n")]
    names = dict.fromkeys(name for o in objects for name in o)
    return pl.DataFrame([_column(n, [o.get(n) for o in objects]) for n in names or ("ts",)])


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _column(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {int, float} or len(kinds) == 1:
        try:
            return pl.Series(name, values, strict=False)
        except (pl.exceptions.PolarsError, TypeError, OverflowError):
            pass
    text = [v if v is None or isinstance(v, str) else msgspec.json.encode(v).decode() for v in values]
    return pl.Series(name, text, dtype=pl.String)
