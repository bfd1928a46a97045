"""A score log that writes many steps' rows at once: a replay's steps are small, and a write costs as much as a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.row_logs import ScoreLog

__all__ = ["BufferedScores"]

BUFFER_ROWS = 16_384


class BufferedScores(ScoreLog):
    """As :class:`ScoreLog`; rows wait in memory until there are ``BUFFER_ROWS``, or until somebody asks for any.

    What waits is lost when the process dies; a checkpoint asks for :meth:`sizes`, so it never names rows that wait.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: list[dict[str, NDArray[Any]]] = []
        self._rows = 0

    def append(self, columns: Mapping[str, NDArray[Any] | None]) -> None:
        rows = len(columns["ts"])  # type: ignore[arg-type]
        nothing = np.full(rows, np.nan, np.float32)
        whole = {f"p_{arm}": nothing for arm in self.arms}
        self._waiting.append(whole | {k: v for k, v in columns.items() if v is not None})
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
        self._waiting, self._rows = [], 0
        super().truncate(sizes)

    def flush(self, fsync: bool = False) -> None:
        if not fsync:
            self._write()
        # Else it is a checkpoint's thread that asks, for rows that were written when their number was taken: those that
        # wait are of the thread that appends.
        super().flush(fsync)

    def close(self) -> None:
        self._write()
        super().close()

    def _write(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        if waiting:
            super().append({k: np.concatenate([w[k] for w in waiting]) for k in waiting[0]})
