"""Comparison of two replays: paired, on the days whose rows both have scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ecdctr.replay.figures import Columns, ScoredDays
from ecdctr.replay.play import MergedScores
from ecdctr.replay.report.meta import Report
from ecdctr.state.errors import DataError
from ecdctr.state.row_logs import ScoreLog

__all__ = ["Pair", "is_report", "read_report", "scores_of"]

_ROW = ("ts", "user", "item", "domain", "label")


def read_report(folder: Path) -> Report:
    """The report in a folder.

    Raises
    ------
    DataError
        There is none, or its JSON is damaged.
    """
    path = Path(folder) / "report.json"
    try:
        found: Report = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(found, dict) and {"title", "meta", "result"} <= set(found)):
            raise ValueError("it is no report of a replay")
    except OSError as error:
        raise DataError(
            f"there is no report in {folder} ({error.strerror}): name the --out folder of an `ecdctr replay`"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return found


def is_report(folder: Path) -> bool:
    """Whether a folder contains a report, which this or an earlier version wrote."""
    try:
        read_report(folder)
    except DataError:
        return False
    return True


def scores_of(folder: Path) -> ScoredDays | None:
    """The scored rows of a replay with those of its further arms; None if the folder does not hold them."""
    state = Path(folder) / "state"
    if not (state / "scores" / "schema.json").is_file():
        return None
    beside = {path.parent.name: path for path in sorted(state.glob("arms/*/scores"))}
    logs = {name: ScoreLog(path, read_only=True) for name, path in beside.items()}
    return MergedScores(ScoreLog(state / "scores", read_only=True), logs)


class Pair:
    """One arm of two replays, as arms ``A`` and ``B`` of one table.

    Days on which the two have not scored the same rows are left out.

    Parameters
    ----------
    a, b
        Scored rows of the two replays.
    arm
        An arm that both of them have.

    Attributes
    ----------
    left_out
        Rows of ``a`` and ``b`` on the days that the last complete pass of :meth:`days` left out.
    """

    def __init__(self, a: ScoredDays, b: ScoredDays, arm: str) -> None:
        self._a, self._b, self._column = a, b, f"p_{arm}"
        self.left_out = (0, 0)

    def days(self) -> Iterator[tuple[int, Columns]]:
        """See :class:`ecdctr.replay.figures.ScoredDays`."""
        lone = [0, 0]
        for day, ours, theirs in _in_step(self._a.days(), self._b.days()):
            same = (
                ours is not None
                and theirs is not None
                and all(np.array_equal(ours[name], theirs[name]) for name in _ROW)
            )
            if same and ours is not None and theirs is not None:
                rows = {name: values for name, values in ours.items() if not name.startswith("p_")}
                yield day, rows | {"p_A": ours[self._column], "p_B": theirs[self._column]}
                continue
            for side, columns in enumerate((ours, theirs)):
                lone[side] += 0 if columns is None else len(columns["ts"])
        self.left_out = (lone[0], lone[1])


def _in_step(
    a: Iterator[tuple[int, Columns]], b: Iterator[tuple[int, Columns]]
) -> Iterator[tuple[int, Columns | None, Columns | None]]:
    """Days of both, oldest first; None where one has no such day."""
    left, right = next(a, None), next(b, None)
    while left is not None or right is not None:
        day = min(entry[0] for entry in (left, right) if entry is not None)
        ours = left[1] if left is not None and left[0] == day else None
        theirs = right[1] if right is not None and right[0] == day else None
        yield day, ours, theirs
        left = left if ours is None else next(a, None)
        right = right if theirs is None else next(b, None)
