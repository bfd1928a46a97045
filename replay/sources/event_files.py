"""Event files on disk as a source: JSON lines, Parquet, CSV; one file, a folder, a glob."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import duration_ms
from ecdctr.replay.sources.decoded_rows import DecodedRows
from ecdctr.replay.sources.files import (
    FORMATS,
    FileColumns,
    count_rows,
    decoded_file,
    format_of,
    is_empty,
    read_chunks,
)
from ecdctr.replay.sources.merge import EventOrder, Stream
from ecdctr.replay.sources.rejects import Rejects
from ecdctr.state.errors import DataError

__all__ = ["EventFiles", "find_files"]

_HEAD_ROWS = 100


class EventFiles:
    """Rows of event files in event order, read in chunks.

    Files are merged by ``ts``, and a file is opened only when the merge reaches its first row, so a folder of hourly files
    needs the memory of a few. Within a file rows may be out of order by less than ``window``; later rows are counted in
    ``stragglers`` and still yielded. Folders named ``key=value`` provide columns that the files lack.

    Parameters
    ----------
    path
        A file, a folder (searched recursively) or a glob.
    window
        How far rows may be out of order, as "10m"; that much event time is held in memory.
    domain
        "natural" or "ad", for files without a column ``domain``.
    features
        The configured features, if known; they determine the types of CSV columns.

    Raises
    ------
    DataError
        There is no file, its suffix is unknown, a column is missing, or a file cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        window: str = "10m",
        domain: str | None = None,
        features: Sequence[FeatureSpec] | None = None,
    ) -> None:
        if domain not in (None, "natural", "ad"):
            raise DataError(f"{path}: domain={domain!r} is neither natural nor ad")
        self.name = str(path)
        self.window_ms = duration_ms(window)
        found = find_files(str(path))
        self.root, self.files, self.remarks = found.root, found.files, found.remarks
        self.domain, self.features = domain, features
        self.stragglers = 0
        self._names: tuple[str, ...] | None = None

    @property
    def extra_fields(self) -> tuple[str, ...]:
        """Which of ``list_id`` and ``oracle`` the first file has."""
        if self._names is None:
            self._names = tuple(next(self._read(self.files[0], _HEAD_ROWS), pl.DataFrame()).columns)
        return tuple(name for name in ("list_id", "oracle") if name in self._names)

    def count(self) -> int | None:
        """Rows of all files; None if they would have to be read for it."""
        counts = [count_rows(f) for f in self.files]
        return None if None in counts else sum(c for c in counts if c is not None)

    def batches(self, decoder: EventDecoder, rejects: Rejects) -> Iterator[Batch]:
        """Decoded rows in event order; each call restarts ``stragglers`` at 0.

        A row is decoded by itself, where it is read, so that what it means depends on no other row or file.
        """
        for remark in self.remarks:
            rejects.remark(remark)
        order = EventOrder(self.window_ms)
        self.stragglers = 0
        rows = DecodedRows()

        def places(file: Path) -> Iterator[pl.DataFrame]:
            for batch in decoded_file(file, self._constants(file), decoder, rejects):
                yield rows.put(batch)

        def start(file: Path) -> int:
            head = decoded_file(file, self._constants(file), decoder, Rejects(), _HEAD_ROWS)
            return next((int(batch.ts.min()) for batch in head), -(2**62))

        for frame in order.merge([Stream(start(f), partial(places, f)) for f in self.files]):
            self.stragglers = order.stragglers
            yield rows.take(frame)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Event frames in event order, to be sent to topics; each call restarts ``stragglers`` at 0."""
        order = EventOrder(self.window_ms)
        self.stragglers = 0
        streams = [Stream(self._start(f), partial(self._read, f)) for f in self.files]
        for frame in order.merge(streams):
            self.stragglers = order.stragglers
            yield frame

    def _start(self, file: Path) -> int:
        """Time of the first rows; a file without rows is opened at once."""
        for frame in self._read(file, _HEAD_ROWS):
            first: Any = frame["ts"].min()
            if first is not None:
                return int(first)
        return -(2**62)

    def _read(self, file: Path, rows: int | None = None) -> Iterator[pl.DataFrame]:
        columns = FileColumns(str(file), self._constants(file), self.features, text=format_of(file) == "csv")
        for chunk in read_chunks(file, rows):
            yield columns.events(chunk)

    def _constants(self, file: Path) -> dict[str, str]:
        """Values of fields by the names of the file's folders, and the domain."""
        folders = file.relative_to(self.root).parts[:-1] if file.is_relative_to(self.root) else ()
        constants = dict(part.split("=", 1) for part in folders if "=" in part)
        if self.domain is not None:
            constants["domain"] = self.domain
        return constants


class FoundFiles(NamedTuple):
    """The folder in which the search started, the files sorted by name, and what was passed over, as sentences."""

    root: Path
    files: list[Path]
    remarks: list[str]


def find_files(text: str) -> FoundFiles:
    """Find event files; in folders, names that begin with ``.`` or ``_`` are not data (``_date=1`` is), and empty files are passed over."""
    path = Path(text)
    closed: list[str] = []
    hidden: list[Path] = []
    if path.is_file():
        root, found = path.parent, [path]
    elif path.is_dir():
        walked = os.walk(path, onerror=lambda error: closed.append(str(error.filename)))
        below = (Path(folder) / name for folder, _, names in walked for name in names)
        root, found = path, [file for file in below if format_of(file) and file.is_file()]
        found, hidden = _visible(root, found)
    else:
        fixed = re.split(r"[*?\[]", text, maxsplit=1)[0]
        root = Path(fixed) if fixed.endswith("/") else Path(fixed).parent
        found = [Path(f) for f in glob.glob(text, recursive=True) if Path(f).is_file()]  # noqa: PTH207 - absolute patterns
        named = {part for part in Path(text).parts if _is_hidden(part)}
        found, hidden = _visible(root, found, named)
    if not found:
        if closed:
            raise DataError(f"{closed[0]}: the folder cannot be read: give this user the right to read it")
        what = (
            "this is a folder, and there are no event files there, which have the suffixes"
            if path.is_dir()
            else "no such file or folder; the suffixes of event files are"
        )
        raise DataError(f"{text}: {what} ({', '.join(FORMATS)})")
    for file in found:
        if format_of(file) is None:
            raise DataError(
                f"{file}: the suffix is none of {', '.join(FORMATS)} (JSON lines and CSV also with .gz, .zst): rename the file, or make "
                f"a link to it, with the suffix of its format, for example {file.stem}.jsonl"
            )
    remarks = [f"{folder}: the folder cannot be read by this user" for folder in sorted(closed)]
    if hidden:
        remarks.append(
            f"{len(hidden):,} {'file was' if len(hidden) == 1 else 'files were'} passed over, because names that begin with . or _ "
            f"are not data: {min(hidden)}"
        )
    full = [file for file in found if not is_empty(file)]
    if full and len(full) < len(found):
        empty = sorted(set(found) - set(full))
        remarks.append(
            f"{len(empty):,} empty {'file was' if len(empty) == 1 else 'files were'} passed over: {empty[0]}"
        )
    return FoundFiles(root, sorted(full or found), remarks)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _visible(root: Path, files: list[Path], named: Collection[str] = ()) -> tuple[list[Path], list[Path]]:
    """Files whose path below the root has no hidden name, except those that the user named; and the others."""
    visible: list[Path] = []
    hidden: list[Path] = []
    for file in files:
        parts = file.relative_to(root).parts if file.is_relative_to(root) else file.parts
        (hidden if any(_is_hidden(p) and p not in named for p in parts) else visible).append(file)
    return visible, hidden
