"""``Arm``: the interface that every model of a trainer implements."""

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
    """Rows to be predicted or learned, with a cache of values that several arms compute from them (encoded chunks, predictions).

    Parameters
    ----------
    batch
        The rows. Rows that are learned all have the same domain.
    encoder
        Encodes the rows for network arms. May be None if no network arm uses this input.
    score
        ``score(rows, name)`` computes the predictions of another arm for the same rows. May be None if no arm uses
        predictions of other arms.
    clock_ms
        Latest event time of the stream so far, including these rows.
    will_learn
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
        will_learn: bool = False,
    ) -> None:
        self.batch, self.clock_ms, self.will_learn = batch, clock_ms, will_learn
        self._encoder, self._score = encoder, score
        self._scores: dict[str, NDArray[np.float32]] = {}
        self._derived: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def domain(self) -> int:
        """Domain of the first row; 0 (natural) if there are no rows."""
        return int(self.batch.domain[0]) if len(self.batch) else 0

    @property
    def ad(self) -> bool:
        """Whether the rows are ads."""
        return self.domain == AD

    def scores(self, name: str) -> NDArray[np.float32]:
        """Predictions of an arm for these rows, float32 ``(n,)``.

        Computed at the first call and then cached; the first call must precede learning.
        """
        if name not in self._scores:
            assert self._score is not None, (
                f"predictions of {name} are required, but this ArmInput has no function that computes them"
            )
            self._scores[name] = self._score(self, name)
        return self._scores[name]

    def take(self, index: NDArray[np.intp]) -> ArmInput:
        """Some of the rows; predictions of other arms are those of these rows here."""
        return ArmInput(
            self.batch.take(index),
            self._encoder,
            lambda _, name: self.scores(name)[index],
            clock_ms=self.clock_ms,
            will_learn=self.will_learn,
        )

    def chunks(self, size: int) -> list[tuple[Batch, Encoded]]:
        """The rows in chunks of ``size`` rows (the last chunk may be shorter), each with its encoded tensors.

        Arms with the same chunk size share the result.
        """
        size = min(size, len(self.batch))

        def encode() -> list[tuple[Batch, Encoded]]:
            assert self._encoder is not None, "a network arm needs an encoder, but this ArmInput has none"
            if not size:
                return []
            whole = size == len(self.batch)
            starts = range(0, len(self.batch), size)
            parts = [self.batch] if whole else [self.batch.take(slice(i, i + size)) for i in starts]
            return [(part, self._encoder.encode(part)) for part in parts]

        return self.derive(("chunks", size), encode)

    def derive(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """The value that ``make`` returned when it was first called for ``key``."""
        if key not in self._derived:
            self._derived[key] = make()
        value: _T = self._derived[key]
        return value


@dataclass
class ArmState:
    """State of one or several arms, as it is stored in a checkpoint.

    Attributes
    ----------
    dense
        Small arrays by name, complete in every capture.
    rows
        Table name -> row numbers ``(m,)`` and their payload ``(m, d)``. A capture holds the rows that changed since
        the previous capture; a state to load holds every row ever captured.
    meta
        Further values that can be written as JSON.
    """

    dense: dict[str, NDArray[Any]] = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def update(self, other: ArmState) -> None:
        """Add the state of another arm; the names must be different."""
        self.dense.update(other.dense)
        self.rows.update(other.rows)
        self.meta.update(other.meta)


@runtime_checkable
class Arm(Protocol):
    """A model that predicts and learns rows of the stream.

    Predicting, learning, capturing and restoring use an arm only through this interface, and
    ``tests/models/arms/test_contract.py`` checks every arm of the table against it. Releases, TPM snapshots and the state
    hash also use :class:`NetworkArm` and other arms directly.

    An arm draws no random numbers while it runs: its state depends only on its settings and on the rows that it learned and
    their order.
    """

    @property
    def name(self) -> str:
        """Unique name. Names in :class:`ArmState` begin with it, except ``shift`` of ``cpm_only``."""
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

        Called when the step can no longer be rolled back. An arm whose learning can fail must be a :class:`StagedArm`.
        """
        ...

    def capture(self) -> ArmState:
        """Copies of the state, with the rows that changed since the previous capture."""
        ...

    def load(self, state: ArmState) -> None:
        """Load a captured state. The arm must be in its initial state. Entries of other arms are ignored."""
        ...

    def reset(self) -> None:
        """Return to the initial state."""
        ...

    def digest(self, into: hashlib.blake2b) -> None:
        """Add every bit of the state to a hash."""
        ...


@runtime_checkable
class StagedArm(Arm, Protocol):
    """An arm whose learning can fail. It learns in two stages, so that either all arms or none learn a step.

    After :meth:`stage` exactly one of :meth:`commit` and :meth:`rollback` is called.
    """

    @property
    def based_on(self) -> tuple[str, ...]:
        """Names of the arms whose parameters this arm uses. It must be staged before them, because staging may already change
        their parameters."""
        ...

    def stage(self, rows: ArmInput) -> float:
        """Learn the rows provisionally; :meth:`commit` or :meth:`rollback` follows.

        Returns
        -------
        float
            Mean log loss of the rows, each before it was learned. NaN if the loss or a gradient is not finite, or if the loss
            exceeds ``MAX_LOSS``; the caller must then roll back.
        """
        ...

    def commit(self) -> None:
        """Make the staged step final."""
        ...

    def rollback(self) -> None:
        """Restore the state before :meth:`stage`, bit for bit."""
        ...
