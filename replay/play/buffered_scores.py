"""``BufferedScores``: a score log that writes the rows of many steps at once, since a replay's steps are small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.row_logs import ScoreLog

__all__ = ["BufferedScores"]

BUFFER_ROWS = 16_384


class BufferedScores(ScoreLog):
    """A :class:`ScoreLog` that buffers rows in memory until there are ``BUFFER_ROWS``, or until rows are read.

    Buffered rows are lost when the process dies. A checkpoint calls :meth:`sizes`, which writes the buffer, so it never
    names rows that are not in the file.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._buffer: list[dict[str, NDArray[Any]]] = []
        self._rows = 0

    def append(self, columns: Mapping[str, NDArray[Any] | None]) -> None:
        rows = len(columns["ts"])  # type: ignore[arg-type]
        missing = np.full(rows, np.nan, np.float32)
        whole = {f"p_{arm}": missing for arm in self.arms}
        self._buffer.append(whole | {k: v for k, v in columns.items() if v is not None})
        self._rows += rows
        if self._rows >= BUFFER_ROWS:
            self._write()

    def read(self, *args: Any, **kwargs: Any) -> dict[str, NDArray[Any]]:
        self._write()
        return super().read(*args, **kwargs)

    def sizes(self) -> dict[int, int]:
        self._write()
        return super().sizes()

    def truncate(self, sizes: Mapping[int, int]) -> None:
        self._buffer, self._rows = [], 0
        super().truncate(sizes)

    def flush(self, fsync: bool = False) -> None:
        if not fsync:
            self._write()
        # With fsync this runs in the thread that saves a checkpoint. The rows that the checkpoint names have been written
        # when it took their number; the buffer belongs to the thread that appends.
        super().flush(fsync)

    def close(self) -> None:
        self._write()
        super().close()

    def _write(self) -> None:
        parts, self._buffer, self._rows = self._buffer, [], 0
        if parts:
            super().append({k: np.concatenate([part[k] for part in parts]) for k in parts[0]})
