"""``Arm``: what a trainer requires of every model that runs on the stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.batch import AD, Batch
from ecdctr.models.nets import Encoded, InputEncoder
from ecdctr.state.checkpoints import Rows

__all__ = ["Arm", "ArmInput", "ArmState", "StagedArm"]

_T = TypeVar("_T")


class ArmInput:
    """Rows that arms predict or learn, with everything that the arms derive from them and share.

    Parameters
    ----------
    batch
        The rows. Rows that are learned are all of one domain.
    encoder
        Encodes chunks of the rows for the networks; None: only arms without a network read them.
    score
        ``score(rows, name)``: computes the predictions of another arm for the same rows; None: no arm reads any.
    clock_ms
        Youngest event time of the stream so far, these rows included.
    learned
        Whether the rows are going to be learned. Networks then predict them in the chunks in which they learn them,
        so that each chunk is encoded once.
    """

    def __init__(
        self,
        batch: Batch,
        encoder: InputEncoder | None = None,
        score: Callable[[ArmInput, str], NDArray[np.float32]] | None = None,
        *,
        clock_ms: int = 0,
        learned: bool = False,
    ) -> None:
        self.batch, self.clock_ms, self.learned = batch, clock_ms, learned
        self._encoder, self._score = encoder, score
        self._scores: dict[str, NDArray[np.float32]] = {}
        self._derived: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def domain(self) -> int:
        """Domain of the first row; 0 (natural) without rows."""
        return int(self.batch.domain[0]) if len(self.batch) else 0

    @property
    def ad(self) -> bool:
        """Whether the rows are ads."""
        return self.domain == AD

    def scores(self, name: str) -> NDArray[np.float32]:
        """Predictions of an arm for these rows, float32 ``(n,)``; computed once, before any arm learns the rows."""
        if name not in self._scores:
            assert self._score is not None, f"predictions of {name} are required, and nothing computes them"
            self._scores[name] = self._score(self, name)
        return self._scores[name]

    def chunks(self, size: int) -> list[tuple[Batch, Encoded]]:
        """The rows in chunks of ``size``, the last one shorter, each with its tensors; shared by arms of one size."""
        size = min(size, len(self.batch))

        def cut() -> list[tuple[Batch, Encoded]]:
            assert self._encoder is not None, "a network reads rows that nothing encodes"
            if not size:
                return []
            whole = size == len(self.batch)
            starts = range(0, len(self.batch), size)
            parts = [self.batch] if whole else [self.batch.take(slice(i, i + size)) for i in starts]
            return [(part, self._encoder.encode(part)) for part in parts]

        return self.derive(("chunks", size), cut)

    def derive(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """The value that ``make`` returned when it was first called for ``key``."""
        if key not in self._derived:
            self._derived[key] = make()
        value: _T = self._derived[key]
        return value


@dataclass
class ArmState:
    """What a checkpoint holds of one or several arms.

    Attributes
    ----------
    dense
        Small arrays by name, complete in every capture.
    rows
        Table name -> row numbers ``(m,)`` and their payload ``(m, d)``. A capture holds the rows that changed since
        the previous capture; a state to load holds every row ever captured.
    meta
        Plain JSON.
    """

    dense: dict[str, NDArray[Any]] = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def update(self, other: ArmState) -> None:
        """Add another arm's state, whose names are different."""
        self.dense.update(other.dense)
        self.rows.update(other.rows)
        self.meta.update(other.meta)


@runtime_checkable
class Arm(Protocol):
    """A model that predicts and learns rows of the stream.

    The trainer, the scorer, the checkpoints and the state hash use an arm through this interface alone;
    ``tests/models/arms/test_contract.py`` checks every arm of the table against it.

    An arm draws no random numbers while it runs: its state is a function of its settings and of the rows it learned,
    in their order.
    """

    @property
    def name(self) -> str:
        """Unique name; prefix of the arm's names in :class:`ArmState`."""
        ...

    @property
    def domains(self) -> tuple[int, ...]:
        """Domains whose rows the arm learns (0 natural, 1 ad)."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Arms whose predictions this one reads, by their names in the table of arms."""
        ...

    def predict(self, rows: ArmInput) -> NDArray[np.float32]:
        """Click probabilities ``(n,)``. Nothing is learned."""
        ...

    def learn(self, rows: ArmInput) -> None:
        """Learn rows of one domain, once each, in their order.

        Called when the step is final: an arm that cannot guarantee to learn any rows has to be a :class:`StagedArm`.
        """
        ...

    def capture(self) -> ArmState:
        """Copies of the state, with the rows that changed since the previous capture."""
        ...

    def load(self, state: ArmState) -> None:
        """Set the arm, which is in its initial state, to a captured state. Names of other arms are ignored."""
        ...

    def reset(self) -> None:
        """Return to the initial state."""
        ...

    def digest(self, into: hashlib.blake2b) -> None:
        """Add every bit of the state to a hash."""
        ...


@runtime_checkable
class StagedArm(Arm, Protocol):
    """An arm whose step can fail, and which learns in two stages so that a step is learned by all arms or by none.

    After :meth:`stage` exactly one of :meth:`commit` and :meth:`rollback` is called.
    """

    @property
    def based_on(self) -> tuple[str, ...]:
        """Arms whose parameters are part of this one's: this arm has to stage before they do."""
        ...

    def stage(self, rows: ArmInput) -> float:
        """Compute the step.

        Returns
        -------
        float
            Mean log loss of the rows, each before it was learned; NaN when loss or gradients are not finite or the loss
            has exploded: then the step must be rolled back.
        """
        ...

    def commit(self) -> None:
        """Make the staged step final."""
        ...

    def rollback(self) -> None:
        """Restore the state before :meth:`stage`, bit for bit."""
        ...
