"""``SideBySide``: several engines that run the same steps, and their scores row by row in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD
from ecdctr.models.training import Engine
from ecdctr.replay.figures import Columns
from ecdctr.replay.play.frozen import FrozenArm
from ecdctr.state.errors import StateError
from ecdctr.state.row_logs import ScoreLog

__all__ = ["MergedScores", "SideBySide"]


class MergedScores:
    """The score log of an engine and those of the arms beside it, merged row by row.

    Parameters
    ----------
    scores
        The engine's score log; its columns keep their names.
    beside
        Score logs by arm name. Column ``p_<name>`` of the result is their ``p_actr`` on ads and their ``p_cpm`` on natural rows.
    """

    def __init__(self, scores: ScoreLog, beside: Mapping[str, ScoreLog]) -> None:
        self._scores, self._beside = scores, beside

    def days(self) -> Iterator[tuple[int, Columns]]:
        """See :class:`ecdctr.replay.figures.ScoredDays`."""
        for day in self._scores.sizes():
            yield day, self._day(day)

    def _day(self, day: int) -> dict[str, NDArray[Any]]:
        columns = self._scores.read(first_day=day, last_day=day)
        for name, log in self._beside.items():
            found = log.read(first_day=day, last_day=day)
            # A second Ctrl-C may end a step after some of the arms have scored its rows.
            rows = min(len(columns["ts"]), len(found["ts"]))
            columns = {k: v[:rows] for k, v in columns.items()}
            for key in ("ts", "user", "item"):
                if not np.array_equal(columns[key], found[key][:rows]):
                    raise StateError(
                        f"arm {name} has not scored the same rows as the other arms: replay the log again, without --resume"
                    )
            both = (found[f"p_{served}"][:rows] for served in ("actr", "cpm"))
            columns[f"p_{name}"] = np.where(columns["domain"] == AD, *both)
        return columns


class SideBySide:
    """The engine of the configuration and further arms, all of which score the same rows in the same order.

    Engines must be made with ``score_skipped`` and select the same natural rows for scoring. :func:`play` runs their steps.

    Parameters
    ----------
    engine
        Its arms keep their names.
    beside
        Further arms by name. Under that name the merged table holds their served score, on natural rows that of their CPM.
    """

    def __init__(self, engine: Engine, beside: Mapping[str, Engine | FrozenArm] | None = None) -> None:
        self.engine = engine
        self.beside = dict(beside or {})

    @property
    def players(self) -> tuple[Engine | FrozenArm, ...]:
        """All of them, the engine of the configuration first: what :func:`play` runs."""
        return (self.engine, *self.beside.values())

    @property
    def frozen(self) -> dict[str, FrozenArm]:
        """The arms that do not learn, by name."""
        return {name: arm for name, arm in self.beside.items() if isinstance(arm, FrozenArm)}

    def bind_thread(self) -> None:
        """See :meth:`Engine.bind_thread`."""
        self.engine.bind_thread()

    def days(self) -> Iterator[tuple[int, Columns]]:
        """Scored rows by event day, see :class:`ecdctr.replay.figures.ScoredDays`."""
        return MergedScores(self.engine.scores, {n: arm.scores for n, arm in self.beside.items()}).days()

    def columns(self, domain: int) -> dict[str, NDArray[Any]]:
        """All scored rows of one domain, in memory."""
        parts = [{k: v[c["domain"] == domain] for k, v in c.items()} for _, c in self.days()]
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}

    def close(self, *, checkpoint: bool = True) -> None:
        """Close all of them."""
        try:
            self.engine.close(checkpoint=checkpoint)
        finally:
            for arm in self.beside.values():
                arm.close(checkpoint=checkpoint)
