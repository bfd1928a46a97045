"""``Dataset``: common code of the data sets that are published as CSV: files, headers, rows in event order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources.files import read_chunks
from ecdctr.replay.sources.sort import by_time
from ecdctr.state.errors import DataError

__all__ = ["Dataset", "text_bag"]


class Dataset:
    """A folder of CSV files of a published data set.

    Subclasses define the name of the data set and where it is published (``title``, ``published``), the features of its
    events, and how chunks of its files become event frames (:meth:`chunks`).

    Parameters
    ----------
    folder
        Where the files were unpacked; they may also be in one of its ``subfolders``.
    """

    title = ""
    published = ""
    subfolders: tuple[str, ...] = ()
    extra_fields: tuple[str, ...] = ()

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise self.error(f"there is no folder {self.folder}")
        self.find_files()

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.title

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features of its events."""
        raise NotImplementedError

    def find_files(self) -> None:
        """Find the files, and check that they have their columns."""
        raise NotImplementedError

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Event frames in the order of the files, all with the same columns."""
        raise NotImplementedError

    def count(self) -> int | None:
        """Unknown before the CSV files are read."""
        return None

    def frames(self) -> Iterator[pl.DataFrame]:
        """Event frames by ``ts``; the files are sorted by user, so the rows are sorted here, on disk if there are many."""
        yield from by_time(self.chunks())

    # -- for subclasses

    def error(self, what: str) -> DataError:
        """An error that names where the data set is published."""
        return DataError(f"{self.title}: {what}. It is published as {self.published}")

    def files(self, pattern: str, columns: Sequence[str]) -> list[Path]:
        """Files by a pattern (``*.csv`` also finds ``.csv.gz``), each with these columns, sorted by name."""
        for place in (self.folder, *(self.folder / name for name in self.subfolders)):
            found = sorted(
                {*place.glob(pattern), *place.glob(f"{pattern}.gz"), *place.glob(f"{pattern}.zst")}
            )
            if found:
                break
        else:
            raise self.error(f"{pattern} is missing in {self.folder}")
        for path in found:
            header = self._header(path)
            missing = [name for name in columns if name not in header]
            if missing:
                raise self.error(f"{path} has no column {', '.join(missing)}; it has {', '.join(header)}")
        return found

    def read(self, path: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Chunks of a file: these columns as text, and ``row``, the number of the row in the file."""
        row = 0
        for chunk in read_chunks(path):
            frame = chunk.rename({name: name.strip() for name in chunk.columns}).select(columns)
            yield frame.with_columns(row=pl.int_range(row, row + frame.height, dtype=pl.Int64))
            row += frame.height

    def table(self, paths: Sequence[Path], columns: Sequence[str]) -> pl.DataFrame:
        """Complete files as text: tables of users or items, with which rows are joined."""
        chunks = [chunk.drop("row") for path in paths for chunk in self.read(path, columns)]
        return pl.concat(chunks) if chunks else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))

    def _header(self, path: Path) -> list[str]:
        try:
            names = pl.scan_csv(path, infer_schema=False, glob=False).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError) as e:
            raise self.error(f"{path} cannot be read as CSV ({' '.join(str(e).split())[:200]})") from e
        return [name.strip() for name in names]


def text_bag(column: str, separator: str) -> pl.Expr:
    """A column of ids with a separator between them, as lists; an empty text is a missing list."""
    text = pl.col(column)
    return pl.when(text.str.len_bytes() > 0).then(text.str.split(separator)).alias(column)
