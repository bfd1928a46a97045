"""``Spill``: rows in parts that each fit into memory, on disk when there is more than one."""

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
        Files are made beside it: ``<path>-<part>``. Whoever gives the folder removes it.
    dtype
        Of a row.
    parts
        One part is kept in memory.

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
        self._held: list[NDArray[Any]] = []

    def add(self, rows: NDArray[Any], part: NDArray[np.integer[Any]]) -> None:
        """Add rows, each to the part named, ``(n,)`` both."""
        if self.parts == 1:
            self._held.append(rows)
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
                f"{self._path.parent} cannot take {rows.nbytes:,} bytes of scored rows: {error.strerror}; free some "
                "space there"
            ) from error

    def read(self, k: int) -> NDArray[Any]:
        """Rows of one part."""
        if self.parts == 1:
            self._held = [np.concatenate(self._held)] if self._held else [np.empty(0, self.dtype)]
            return self._held[0]
        return np.fromfile(self._file(k), self.dtype) if self._file(k).is_file() else np.empty(0, self.dtype)

    def remove(self) -> None:
        """Forget the rows."""
        self._held = []
        for k in range(self.parts if self.parts > 1 else 0):
            self._file(k).unlink(missing_ok=True)

    def _file(self, k: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{k:05d}")
