"""Bounded samples of files: which files belong to one table, and some of their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ecdctr.replay.guesses.names import hint
from ecdctr.replay.sources import (
    count_rows,
    field_names,
    find_files,
    format_of,
    frame_of_objects,
    is_empty,
    object_names,
    read_chunks,
    read_slice,
)
from ecdctr.state.errors import DataError

__all__ = ["Sample", "frame_of_rows", "sample_files", "stream_of_name"]

_MOST_FILES = 12
_MOST_FIELDS = 400


@dataclass(eq=False)
class Sample:
    """Some rows of the files of one table.

    Attributes
    ----------
    label
        Its name in messages.
    files
        Its files, sorted by name.
    stream
        ``ad`` or ``natural``, if the names of the files or their folder say so.
    table_rows
        Of rows that were chosen from a table with others: the rows of the table that were read, and of the whole table.
    others
        The other rows of the table, in words: ``351 clicks``.
    paired
        Whether names say ``ad`` of some files and ``natural`` of others.
    frame
        The sampled rows, in the order of the files; names with dots are nested values.
    rows
        Number of rows of all files, estimated if they were not all read.
    complete
        Whether the sample is the whole table.
    text_numbers
        Whether text that is a number is one.
    mixed
        Columns that are lists or objects in some files, and something else in others.
    """

    label: str
    files: list[Path]
    stream: str | None
    frame: pl.DataFrame
    rows: int
    complete: bool
    text_numbers: bool = True
    mixed: frozenset[str] = frozenset()
    paired: bool = True
    table_rows: tuple[int, int] | None = None
    others: str = ""

    def __str__(self) -> str:
        """What was read, as one sentence."""
        read, rows = self.table_rows or (len(self.frame), self.rows)
        chosen = f": {len(self.frame):,} impressions, {self.others}" if self.table_rows else ""
        all_of = "all" if self.complete else f"{read:,} of about"
        return f"{self.label}: {all_of} {rows:,} rows were read{chosen}; {len(self.frame.columns)} columns"


def sample_files(texts: Sequence[str], rows: int) -> tuple[list[Sample], list[str]]:
    """Find the files, group them into tables, and read about ``rows`` rows of each.

    Files belong to one table if they have mostly the same columns, and their names or folders say the same stream.

    Returns
    -------
    The samples, and sentences about what was passed over.

    Raises
    ------
    DataError
        There is no file, or one cannot be read.
    """
    files: dict[Path, Path] = {}
    remarks: list[str] = []
    for text in texts:
        found = find_files(str(Path(text).expanduser()))
        # Of several folders, the name of each is a part of what tells their files apart.
        above = len(texts) > 1 and Path(text).expanduser().is_dir()
        files.update((file, found.root.absolute().parent if above else found.root) for file in found.files)
        remarks += found.remarks
    unreadable_files: list[Path] = []
    groups: list[tuple[str | None, set[str], list[Path]]] = []
    for file, root in files.items():
        names = field_names(file)
        if not names:
            if not is_empty(file):
                unreadable_files.append(file)
            continue
        _check_header(file, names)
        unreadable = [name for name in names if re.match(r"\*(\.|$)|\^", name)]
        if unreadable:
            remarks.append(
                f"{file}: the column {unreadable[0]!r}, whose name is a pattern: rename it to use it"
            )
            names = [name for name in names if name not in unreadable]
        stream = stream_of_path(file, root)
        for said, columns, members in groups:
            alike = len(columns & set(names)) >= 0.7 * len(columns | set(names))
            if said == stream and alike:
                columns |= set(names)
                members.append(file)
                break
        else:
            groups.append((stream, set(names), [file]))
    if unreadable_files and not groups:
        raise DataError(
            f"{unreadable_files[0]}: none of its first lines is a JSON object. If it has another format, give it the suffix of that format"
        )
    if unreadable_files:
        remarks.append(f"{unreadable_files[0]}: none of its first lines is a JSON object")
    if not groups:
        raise DataError(f"{', '.join(texts)}: {'the file is' if len(files) == 1 else 'the files are'} empty")
    samples = [_sample(stream, columns, sorted(members), rows) for stream, columns, members in groups]
    for sample in samples:
        sample.paired = {"ad", "natural"} <= {other.stream for other in samples}
    return samples, remarks


def stream_of_path(file: Path, root: Path) -> str | None:
    """The stream that the name of a file says, or that of a folder below ``root``.

    >>> stream_of_path(Path("log/ads/day-1.csv"), Path("log")), stream_of_path(Path("log/organic.csv"), Path("log"))
    ('ad', 'natural')
    """
    full = file.absolute() if root.is_absolute() else file
    below = full.relative_to(root).parts if full.is_relative_to(root) else (file.name,)
    for part in reversed(below):
        found = stream_of_name(part.split(".")[0] if part == file.name else part)
        if found is not None:
            return found
    return None


def stream_of_name(name: str) -> str | None:
    """The stream that a name says.

    >>> stream_of_name("ad-clicks"), stream_of_name("domain=natural"), stream_of_name("uploads")
    ('ad', 'natural', None)
    """
    said = [stream for stream in ("ad", "natural") if hint(stream, name)]
    return said[0] if len(said) == 1 else None


def frame_of_rows(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows of messages as a table; nested values have names with dots."""
    fields = sorted({name for row in rows for name in object_names(row)})[:_MOST_FIELDS]
    return frame_of_objects(rows, fields)


def _check_header(file: Path, names: Sequence[str]) -> None:
    if format_of(file) != "csv":
        return
    values = sum(bool(re.fullmatch(r"-?\d+([.:/-]\d+)*|[0-9a-f]{8,}|", name)) for name in names)
    if values > len(names) / 2:
        names = [re.sub(r"_duplicated_\d+$", "", name) for name in names]
        raise DataError(
            f"{file} has no header: its first line is {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}. Put a line with the "
            "names of the columns in front of it"
        )


def _sample(stream: str | None, columns: set[str], files: list[Path], rows: int) -> Sample:
    chosen = (
        files
        if len(files) <= _MOST_FILES
        else [files[i * (len(files) - 1) // (_MOST_FILES - 1)] for i in range(_MOST_FILES)]
    )
    fields = set(sorted(columns)[:_MOST_FIELDS])
    each = max(1, rows // len(chosen))
    parts: list[pl.DataFrame] = []
    read = known = 0
    size = 0.0
    for file in chosen:
        part = _read(file, each, fields)
        total = count_rows(file)
        parts.append(part)
        read += len(part)
        share = 1.0 if total is None and len(part) < each else _share_read(file, part, total)
        known += round(len(part) / max(share, 1e-9))
        size += file.stat().st_size
    everything = sum(file.stat().st_size for file in files)
    frame = _joined(parts)
    total = known if len(chosen) == len(files) else round(known * everything / max(size, 1))
    label = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1:,} more"
    nested = [{n for n, dtype in part.schema.items() if dtype.is_nested()} for part in parts]
    others = [set(part.columns) - names for part, names in zip(parts, nested, strict=True)]
    mixed = frozenset(set().union(*nested) & set().union(*others))
    complete = total <= read and len(chosen) == len(files)
    return Sample(label, files, stream, frame, max(total, read), complete, mixed=mixed)


def _read(file: Path, rows: int, fields: set[str]) -> pl.DataFrame:
    """Up to ``rows`` rows from the start of a file; of a table with types, from its start, middle and end."""
    total = count_rows(file)
    if total is None or total <= rows:
        return _joined(list(read_chunks(file, rows, fields)))
    third = max(1, rows // 3)
    starts = [0, (total - third) // 2, total - third]
    return _joined([read_slice(file, first, third, fields) for first in starts])


def _share_read(file: Path, part: pl.DataFrame, total: int | None) -> float:
    if total is not None:
        return len(part) / max(1, total)
    # Text: by the bytes of the values that were read; packed files are about five times as large when read.
    width = (
        part.select(
            pl.concat_str(pl.all().cast(pl.String, strict=False), separator=",", ignore_nulls=True)
            .str.len_bytes()
            .sum()
        )
        if _flat(part)
        else None
    )
    if width is None or not width.item():
        return 1.0
    names = sum(len(name) + 6 for name in part.columns) * len(part) if format_of(file) == "json" else 0
    packed = 5 if file.suffix.lower() in (".gz", ".zst") else 1
    return min(1.0, float(width.item() + names) / (file.stat().st_size * packed))


def _flat(frame: pl.DataFrame) -> bool:
    return not any(dtype.is_nested() for dtype in frame.schema.values())


def _joined(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """The rows of all parts; a column whose types cannot be joined is text."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return pl.DataFrame()
    try:
        return pl.concat(parts, how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        seen: dict[str, set[object]] = {}
        for part in parts:
            for name, dtype in part.schema.items():
                seen.setdefault(name, set()).add(dtype)
        mixed = {name for name, dtypes in seen.items() if len(dtypes) > 1}
        return pl.concat([_as_text(part, mixed) for part in parts], how="diagonal_relaxed")


def _as_text(part: pl.DataFrame, names: set[str]) -> pl.DataFrame:
    columns = []
    for column in part:
        if column.name in names:
            column = pl.Series(
                column.name, [None if v is None else str(v) for v in column.to_list()], dtype=pl.String
            )
        columns.append(column)
    return pl.DataFrame(columns)
