"""``Spill``: rows in partitions that each fit into memory, on disk if there is more than one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import DataError

__all__ = ["Spill"]


class Spill:
    """Rows of a structured dtype, each in one of ``parts`` parts; a part comes back in the order added.

    Parameters
    ----------
    path
        Prefix of the files, ``<path>-<part>``. The caller removes the folder.
    dtype
        Dtype of a row.
    parts
        Number of partitions; a single one stays in memory.

    Examples
    --------
    >>> spill = Spill(Path("unused"), np.dtype([("x", "i8")]), 1)
    >>> spill.add(np.array([(3,), (1,)], spill.dtype), np.zeros(2, int))
    >>> spill.read(0)["x"].tolist()
    [3, 1]
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], parts: int) -> None:
        self.dtype, self.parts = np.dtype(dtype), parts
        self._path = path
        self._rows: list[NDArray[Any]] = []

    def add(self, rows: NDArray[Any], part: NDArray[np.integer[Any]]) -> None:
        """Add rows, each to its partition ``part``; both of shape ``(n,)``."""
        if self.parts == 1:
            self._rows.append(rows)
            return
        order = np.argsort(part, kind="stable")
        edge = np.searchsorted(part[order], np.arange(self.parts + 1))
        rows = rows[order]
        try:
            for k in range(self.parts):
                if edge[k] < edge[k + 1]:
                    with self._file(k).open("ab") as file:
                        file.write(rows[edge[k] : edge[k + 1]].view(np.uint8).data)
        except OSError as error:
            raise DataError(
                f"{self._path.parent} cannot store {rows.nbytes:,} bytes of scored rows: {error.strerror}; free some "
                "disk space"
            ) from error

    def read(self, k: int) -> NDArray[Any]:
        """Rows of one partition, in the order in which they were added."""
        if self.parts == 1:
            self._rows = [np.concatenate(self._rows)] if self._rows else [np.empty(0, self.dtype)]
            return self._rows[0]
        return np.fromfile(self._file(k), self.dtype) if self._file(k).is_file() else np.empty(0, self.dtype)

    def remove(self) -> None:
        """Delete the rows."""
        self._rows = []
        for k in range(self.parts if self.parts > 1 else 0):
            self._file(k).unlink(missing_ok=True)

    def _file(self, k: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{k:05d}")
