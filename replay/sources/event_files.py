"""Event files on disk as a source: JSON lines, Parquet, CSV; one file, a folder, a glob."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from ecdctr.events.settings import FeatureSpec
from ecdctr.events.time import duration_ms
from ecdctr.replay.sources.file_columns import FileColumns
from ecdctr.replay.sources.file_formats import FORMATS, count_rows, format_of, read_chunks
from ecdctr.replay.sources.merge import EventOrder, Stream
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
        self.root, self.files = find_files(str(path))
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

    def frames(self) -> Iterator[pl.DataFrame]:
        """Event frames in event order; each call restarts ``stragglers`` at 0."""
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
        folders = file.relative_to(self.root).parts[:-1] if file.is_relative_to(self.root) else ()
        constants = dict(part.split("=", 1) for part in folders if "=" in part)
        if self.domain is not None:
            constants["domain"] = self.domain
        columns = FileColumns(str(file), constants, self.features, text=format_of(file) == "csv")
        for chunk in read_chunks(file, rows):
            yield columns.events(chunk)


def find_files(text: str) -> tuple[Path, list[Path]]:
    """The folder in which the search starts, and the files, sorted by name."""
    path = Path(text)
    if path.is_file():
        root, found = path.parent, [path]
    elif path.is_dir():
        root, found = path, [f for f in path.rglob("*") if f.is_file() and format_of(f)]
    else:
        fixed = re.split(r"[*?\[]", text, maxsplit=1)[0]
        root = Path(fixed) if fixed.endswith("/") else Path(fixed).parent
        found = [Path(f) for f in glob.glob(text, recursive=True) if Path(f).is_file()]  # noqa: PTH207 - absolute patterns
    if not found:
        raise DataError(f"{text}: no such file, and no event files there ({', '.join(FORMATS)})")
    for file in found:
        if format_of(file) is None:
            raise DataError(
                f"{file}: the suffix is none of {', '.join(FORMATS)} (JSON lines and CSV also with .gz, .zst)"
            )
    return root, sorted(found)
