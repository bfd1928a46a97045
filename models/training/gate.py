"""What the gate of a release is asked, and what it answers; who judges is handed in (see ``replay.gate``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.time import DAY_MS

__all__ = ["Evidence", "Gate", "GateRows", "Verdict"]


@dataclass(frozen=True, slots=True, eq=False)
class GateRows:
    """Ad rows that three models predicted, each before it learned them.

    Attributes
    ----------
    user
        uint64, ``(n,)``.
    label
        0 or 1, float32.
    candidate, serving, control
        Click probabilities, float32: of the new version, of the A-CTR in place, of the ads-only control.
    """

    user: NDArray[np.uint64]
    label: NDArray[np.float32]
    candidate: NDArray[np.float32]
    serving: NDArray[np.float32]
    control: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the new version serves.

    Attributes
    ----------
    accepted
        It does.
    reason
        Why, in a sentence.
    figures
        What decided it: name -> value.
    """

    accepted: bool
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)


class Gate(Protocol):
    """Judges a release. The same rows must always give the same verdict: a journal that is redone asks again."""

    def __call__(self, rows: GateRows) -> Verdict: ...


class Evidence:
    """Gathers the rows of a gate while the ad window is gone through.

    Parameters
    ----------
    first_day
        Event days before it do not count.
    """

    def __init__(self, first_day: int) -> None:
        self.first_day = first_day
        self._first_ms = first_day * DAY_MS
        self._parts: list[GateRows] = []

    def wants(self, columns: Mapping[str, NDArray[Any]]) -> bool:
        """Whether a chunk of the window has rows that count."""
        return bool((columns["ts"] >= self._first_ms).any())

    def add(self, columns: Mapping[str, NDArray[Any]], candidate: NDArray[np.float32]) -> None:
        """A chunk with the new version's predictions of it; rows of which the others said nothing do not count."""
        rows = columns["ts"] >= self._first_ms
        serving, control = columns["p_serving"], columns["p_control"]
        rows &= ~np.isnan(serving) & ~np.isnan(control)
        self._parts.append(
            GateRows(
                columns["user"][rows], columns["label"][rows], candidate[rows], serving[rows], control[rows]
            )
        )

    def rows(self) -> GateRows:
        """All of them, oldest day first."""
        names = ("label", "candidate", "serving", "control")
        return GateRows(
            np.concatenate([np.empty(0, np.uint64), *(p.user for p in self._parts)]),
            *(
                np.concatenate([np.empty(0, np.float32), *(getattr(p, n) for p in self._parts)])
                for n in names
            ),
        )
