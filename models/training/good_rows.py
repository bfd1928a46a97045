"""Which rows of a step can be learned, if the step as a whole cannot: found by bisection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["good_rows"]

Rows = NDArray[np.intp]

FEW = 8
"""Of so few rows, each one is left out in turn: batch norm hides the fault of a row that is alone."""
GROUPS = 16
"""If each of so many groups has a bad row, the step is not searched further."""
BASE = 64
"""Rows without a fault that are learned with those in question, so that batch norm has a normal batch."""
TRIES_PER_LEVEL = 8
"""Limit of the further tries, in units of log2 of the number of rows."""


def good_rows(n: int, works: Callable[[Rows], bool]) -> Rows:
    """The rows that can be learned together, ascending; all rows that are not among them are bad, or could not be told from bad ones.

    1. Few rows: leave out each in turn. If exactly one of the remainders works, the one that is left out is bad.
    2. Divide the rows into 2, 4, ... groups until some of them work.
    3. Halve the other groups. A half that works together with some of the good rows is good; the other one is halved again, down to
       single rows. After a number of tries proportional to log2(n), what has not been decided is bad.
    4. Make sure that all good rows work together. If not, none is good: no single row is the cause.

    The result depends on ``works`` alone.

    Parameters
    ----------
    n
        Number of rows, which do not work together.
    works
        Whether the step can be learned with these rows only. It must not change anything.

    Examples
    --------
    >>> good_rows(100, lambda rows: 41 not in rows).tolist() == [i for i in range(100) if i != 41]
    True
    >>> good_rows(100, lambda rows: False).tolist()
    []
    """
    if n <= FEW:
        return _leaving_one_out(n, works)
    good, suspects = _base(n, works)
    if not good:
        return np.empty(0, np.intp)
    base = np.concatenate(good)[:BASE]
    left = TRIES_PER_LEVEL * n.bit_length()

    def is_good(rows: Rows) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and works(np.sort(np.concatenate([base, rows])))

    while suspects:  # each is known to hold a bad row
        rows = suspects.pop()
        if len(rows) == 1 or left <= 0:
            continue
        first, second = np.array_split(rows, 2)
        if is_good(first):
            good.append(first)
            suspects.append(second)
            continue
        suspects.append(first)
        if is_good(second):
            good.append(second)
        else:
            suspects.append(second)
    found = np.sort(np.concatenate(good))
    return found if works(found) else np.empty(0, np.intp)


def _leaving_one_out(n: int, works: Callable[[Rows], bool]) -> Rows:
    rows = np.arange(n)
    remainders = [np.delete(rows, i) for i in range(n)] if n > 1 else []
    found = [rest for rest in remainders if works(rest)]
    return found[0] if len(found) == 1 else np.empty(0, np.intp)


def _base(n: int, works: Callable[[Rows], bool]) -> tuple[list[Rows], list[Rows]]:
    """Groups that work, and those that do not; nothing works if each of :data:`GROUPS` groups has a bad row."""
    count = 2
    while count <= min(GROUPS, n):
        groups = np.array_split(np.arange(n), count)
        verdicts = [works(group) for group in groups]
        if any(verdicts):
            pairs = list(zip(groups, verdicts, strict=True))
            return [g for g, fine in pairs if fine], [g for g, fine in pairs if not fine]
        count *= 2
    return [], []
