"""The interface of a release's gate: its input and its verdict; the gate itself is injected (see ``replay.metrics``)."""

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
    """Ad rows with the predictions of three models, each made before that model learned the row.

    Attributes
    ----------
    user
        uint64, ``(n,)``.
    label
        0 or 1, float32.
    candidate, serving, control
        Click probabilities, float32: of the new version of A-CTR; of the current one, whichever arm serves (the control's
        before the first release); and of the ads-only control.
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
    """The decision on a new version.

    Attributes
    ----------
    accepted
        Whether the new version replaces the current one.
    reason
        Why it was accepted or refused, in one sentence.
    figures
        Metric values on which the decision is based, by name.
    """

    accepted: bool
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)


class Gate(Protocol):
    """Decides on a release. The same rows must always give the same verdict, because the gate decides again when a journal is replayed."""

    def __call__(self, rows: GateRows) -> Verdict: ...


class Evidence:
    """Collects the rows of a gate during a pass over the ad window.

    Parameters
    ----------
    first_day
        Event days before it are ignored.
    """

    def __init__(self, first_day: int) -> None:
        self.first_day = first_day
        self._first_ms = first_day * DAY_MS
        self._parts: list[GateRows] = []

    def wants(self, columns: Mapping[str, NDArray[Any]]) -> bool:
        """Whether a chunk of the window has rows to collect."""
        return bool((columns["ts"] >= self._first_ms).any())

    def add(self, columns: Mapping[str, NDArray[Any]], candidate: NDArray[np.float32]) -> None:
        """Add a chunk with the new version's predictions; rows without predictions of the other two models are ignored."""
        rows = columns["ts"] >= self._first_ms
        serving, control = columns["p_serving"], columns["p_control"]
        rows &= ~np.isnan(serving) & ~np.isnan(control)
        self._parts.append(
            GateRows(
                columns["user"][rows], columns["label"][rows], candidate[rows], serving[rows], control[rows]
            )
        )

    def rows(self) -> GateRows:
        """All collected rows, oldest day first."""
        names = ("label", "candidate", "serving", "control")
        return GateRows(
            np.concatenate([np.empty(0, np.uint64), *(p.user for p in self._parts)]),
            *(
                np.concatenate([np.empty(0, np.float32), *(getattr(p, n) for p in self._parts)])
                for n in names
            ),
        )
