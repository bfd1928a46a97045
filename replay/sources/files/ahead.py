"""Rows of a file whose event time is far ahead of the rows beside them: one clock that is wrong must not move the log's time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import Batch

__all__ = ["AHEAD", "NumberedRows", "ahead_of_neighbours", "without_rows_ahead"]

NumberedRows = tuple[Batch, NDArray[np.int64]]
"""Rows, and their numbers in the file."""

AHEAD = "more than events.max_ahead after the rows beside it"
"""Why such a row is rejected."""

LOOK = 32
"""Rows after a row that are compared with it."""
RARE = 100
"""Only one row of so many may be found: more of them are a log that is not in the order of time."""


def without_rows_ahead(
    parts: Iterator[NumberedRows], max_ahead_ms: int, note: Callable[[int, int], None]
) -> Iterator[NumberedRows]:
    """Leave out the rows that are ahead of their neighbours.

    Parameters
    ----------
    parts
        Rows of one file in its order.
    max_ahead_ms
        See :func:`ahead_of_neighbours`.
    note
        Called with the number and the time of each row that is left out.
    """
    reach: int | None = None
    first: int | None = None
    before = 0
    here = next(parts, None)
    while here is not None:
        following = next(parts, None)
        batch, numbers = here
        after = batch.ts[:0] if following is None else following[0].ts[:LOOK]
        first = int(batch.ts[0]) if first is None else first
        bad = ahead_of_neighbours(
            batch.ts, after, max_ahead_ms, reach=reach, first=first, before=before, last=following is None
        )
        if bad.any():
            for row in np.flatnonzero(bad).tolist():
                note(int(numbers[row]), int(batch.ts[row]))
            batch, numbers = batch.take(~bad), numbers[~bad]
        if len(batch):
            reach = max(int(batch.ts.max()), -(2**62) if reach is None else reach)
            before += len(batch)
            yield batch, numbers
        here = following


def ahead_of_neighbours(
    ts: NDArray[np.int64],
    after: NDArray[np.int64],
    max_ahead_ms: int,
    *,
    reach: int | None = None,
    first: int | None = None,
    before: int = 0,
    last: bool = True,
) -> NDArray[np.bool_]:
    """Which rows are more than ``max_ahead_ms`` later than the rows before them, although the rows after them are not.

    1. A row is suspect if its time is more than ``max_ahead_ms`` after every earlier row.
    2. It is ahead if fewer than half of the next 32 rows are as late as it is. After a gap in the log they are.
    3. At the end of a file no rows follow: the last rows are ahead if there are at least a hundred times as many before them, and
       the gap is longer than the time that these cover.
    4. If more than a hundredth of the rows were ahead, or more than that far behind earlier ones, the file is not in the order of
       time, and none is.

    Parameters
    ----------
    ts, after
        Times of the rows, and of the next ones.
    reach, first, before
        Latest and first time, and number of the earlier rows.
    last
        Whether the file ends after ``after``.

    Examples
    --------
    >>> ts = np.arange(1000) * 1000
    >>> ts[[0, 500]] = 4_000_000_000_000
    >>> np.flatnonzero(ahead_of_neighbours(ts, ts[:0], 86_400_000)).tolist()
    [0, 500]
    """
    bad = np.zeros(len(ts), np.bool_)
    behind = np.concatenate([[ts[0] if reach is None else reach], ts[:-1]])
    jumps = ts - np.maximum.accumulate(behind) > max_ahead_ms
    start = reach is None and bool(
        ts[0] - np.concatenate([ts[1 : LOOK + 1], after]).min(initial=ts[0]) > max_ahead_ms
    )
    if not start and not jumps.any():
        return bad
    both = np.concatenate([ts, after])
    first = int(ts[0]) if first is None else first
    for row, t in enumerate(ts.tolist()):
        if reach is not None and t <= reach + max_ahead_ms:
            reach = max(reach, t)
            continue
        later = both[row + 1 : row + 1 + LOOK]
        plausible = 2 * int((later >= t - max_ahead_ms).sum()) >= len(later)
        if plausible and last and len(later) < LOOK and reach is not None:
            known = before + row - int(bad[:row].sum())
            plausible = known < RARE * (len(later) + 1) or t - reach <= reach - first
        if plausible:
            first = min(first, t) if reach is None else first
            reach = t
        else:
            if reach is None and row + 1 < len(ts):
                first = int(ts[row + 1])
            bad[row] = True
    rest = ts[~bad]
    disorder = int((np.maximum.accumulate(rest) - rest > max_ahead_ms).sum())
    if max(int(bad.sum()), disorder) > max(3, len(ts) // RARE):
        bad[:] = False
    return bad
