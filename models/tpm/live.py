"""``LiveTpm``: trains TPM on the natural rows of the running stream; months are written in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from ecdctr.events.batch import Batch
from ecdctr.models.tpm.trainer import SnapshotSink, TpmTrainer
from ecdctr.state.checkpoints import Capture, CheckpointStoreLike, Loaded
from ecdctr.state.errors import StateError

__all__ = ["LiveSink", "LiveTpm", "tpm_shape"]

log = logging.getLogger("ecdctr.tpm")


class LiveSink(SnapshotSink, Protocol):
    """Receives a month in the step that closes it, and writes it in the background."""

    def settle(self, months: Sequence[str] | None = None) -> None:
        """Return when these months (default: all received) are on disk; StateError if one cannot be written."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class LiveTpm:
    """TPM that is trained while a journal entry enables it.

    1. A ``tpm`` entry of the journal starts the training: from the state that ``ecdctr tpm train`` saved, so that the new
       months share the coordinate system of the earlier ones; without such a state, from initial values. Later entries
       disable and enable it.
    2. TPM learns the natural rows of every final step, except rows that the saved state has already learned.
    3. The step that closes a month copies the vectors (this is the whole interruption); the sink writes them in the
       background.
    4. A checkpoint is written only after the months closed before it are on disk (:meth:`settle`). If a crash loses a month,
       the steps that recovery repeats close it again, with the same bits.

    Parameters
    ----------
    make
        ``make(sink)`` returns a trainer in its initial state.
    sink
        Receives closed months.
    trained
        The states that ``ecdctr tpm train`` saved. If None, training always starts from initial values.
    shape
        Shape of the networks (:func:`tpm_shape`); a state of another shape is refused.

    Attributes
    ----------
    learns
        Whether rows are currently learned.
    trainer
        None until the first start.
    """

    def __init__(
        self,
        make: Callable[[SnapshotSink], TpmTrainer],
        sink: LiveSink,
        trained: CheckpointStoreLike | None,
        shape: list[Any],
    ) -> None:
        self._make, self.sink, self._trained, self._shape = make, sink, trained, shape
        self.learns = False
        self.trainer: TpmTrainer | None = None
        self._learned_ms = -1

    def plan(self, learns: bool) -> dict[str, Any] | None:
        """Content of the ``tpm`` journal entry that enables or disables learning; None if it does not change.

        Raises
        ------
        StateError
            All states that ``ecdctr tpm train`` saved are damaged.
        """
        if learns == self.learns:
            return None
        if not learns or self.trainer is not None:
            return {"learns": learns}
        found = None if self._trained is None else self._trained.newest()
        if found is None and self._trained is not None and self._trained.damaged:
            names = ", ".join(name for name, _ in self._trained.damaged)
            raise StateError(
                f"all states of `ecdctr tpm train` are damaged ({names}): restore one in the folder tpm of the state folder, or move "
                "that folder away to begin a new TPM"
            )
        return {"learns": True, "from": None if found is None else found.name}

    def switch(self, learns: bool, name: str | None = None) -> None:
        """Apply a ``tpm`` journal entry.

        Raises
        ------
        StateError
            The state from which training started is missing, or belongs to other networks.
        """
        if learns and self.trainer is None:
            self.trainer = self._make(self.sink)
            if name is not None:
                self._start_from(self.trainer, name)
        self.learns = learns

    def _start_from(self, trainer: TpmTrainer, name: str) -> None:
        if self._trained is None:
            raise StateError(f"TPM was started from state {name}, but there is no folder of TPM states")
        loaded = self._trained.load(name)
        self._check(loaded.meta["shape"], f"state {name} of `ecdctr tpm train`")
        trainer.restore(loaded, other_store=True)
        self._learned_ms = trainer.last_ts
        log.info("TPM continues from %s: months %s", name, ", ".join(trainer.written) or "none")

    def _check(self, shape: list[Any], what: str) -> None:
        if shape != self._shape:
            raise StateError(
                f"{what} was made with other features or sizes of TPM ({shape}, configured {self._shape}): "
                "restore the configuration it was made with, or set state.folder to a new folder"
            )

    def learn(self, batch: Batch) -> None:
        """Learn the natural rows of a final step."""
        if self.trainer is None or not self.learns:
            return
        if self._learned_ms >= 0:
            new = batch.ts > self._learned_ms
            if not new.all():
                batch = batch.take(new)
        if len(batch):
            self.trainer.learn(batch)

    def settle(self, months: Sequence[str] | None = None) -> None:
        """Wait for months that are being written; StateError if one cannot be written."""
        self.sink.settle(months)

    def capture_into(self, capture: Capture) -> None:
        """Add the state to a checkpoint; adds nothing before the first start."""
        if self.trainer is None:
            return
        tpm = self.trainer.capture()
        capture.dense.update(tpm.dense)
        capture.rows.update(tpm.rows)
        state = {"learns": self.learns, "known_ms": self._learned_ms, "shape": self._shape}
        capture.meta["tpm"] = tpm.meta["tpm"] | state

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """All tensors of the state by name, in a fixed order; for hashing."""
        if self.trainer is not None:
            yield from sorted(self.trainer.flat.state().items())
            for name, ids in (("users", self.trainer.users), ("items", self.trainer.items)):
                yield from zip((f"{name}_id", name), ids.vectors(), strict=True)

    def restore(self, loaded: Loaded) -> None:
        """Restore what :meth:`capture_into` saved."""
        meta = loaded.meta.get("tpm")
        self.learns, self.trainer, self._learned_ms = False, None, -1
        if meta is None:
            return
        self._check(meta["shape"], f"checkpoint {loaded.name}")
        self.trainer = self._make(self.sink)
        self.trainer.restore(loaded)
        self.learns, self._learned_ms = bool(meta["learns"]), int(meta["known_ms"])


def tpm_shape(fingerprint: str, dim: int, hidden: Sequence[int]) -> list[Any]:
    """Properties that must be equal for one TPM trainer to load the state of another, as JSON values."""
    return [fingerprint, dim, list(hidden)]
