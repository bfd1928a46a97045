"""TPM from the running stream: taught by the natural rows that CPM learns, its months written beside training."""

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
    """Takes a month over in the step that closes it, and writes it beside training."""

    def settle(self, months: Sequence[str] | None = None) -> None:
        """Return when these months (default: all taken over) stand on disk; StateError if they cannot."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class LiveTpm:
    """A tiny model that learns, or rests, as the journal says.

    1. A ``tpm`` entry begins it: from what ``ecdctr tpm train`` left, so that its months share the coordinate system of
       those before; with nothing there, from its initial values. Another entry lets it rest; one more wakes it.
    2. Natural rows that stand in a step teach it, those that it knows from before excepted.
    3. The step that closes a month copies the vectors out (the whole stall); the sink writes them beside training.
    4. A checkpoint counts only when the months closed before it stand on disk (:meth:`settle`): whatever a crash takes
       is closed again, with the same bits, by the steps that are redone.

    Parameters
    ----------
    make
        ``make(sink)``: an untouched trainer.
    sink
        Where months go.
    trained
        What ``ecdctr tpm train`` left; None: nothing is looked for.
    shape
        Of the networks (:func:`tpm_shape`): a state of another shape is refused.

    Attributes
    ----------
    learns
        Whether rows teach it now.
    trainer
        None until it began.
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
        self._known_ms = -1

    def plan(self, learns: bool) -> dict[str, Any] | None:
        """What a ``tpm`` journal entry must say to make it so; None: it is so."""
        if learns == self.learns:
            return None
        if not learns or self.trainer is not None:
            return {"learns": learns}
        found = None if self._trained is None else self._trained.newest()
        return {"learns": True, "from": None if found is None else found.name}

    def switch(self, learns: bool, name: str | None = None) -> None:
        """Do what an entry says.

        Raises
        ------
        StateError
            The state that it began from is gone, or was made by other networks.
        """
        if learns and self.trainer is None:
            self.trainer = self._make(self.sink)
            if name is not None:
                self._begin_with(self.trainer, name)
        self.learns = learns

    def _begin_with(self, trainer: TpmTrainer, name: str) -> None:
        if self._trained is None:
            raise StateError(f"the tiny model began with state {name}, and there is no folder to find it in")
        loaded = self._trained.load(name)
        self._check(loaded.meta["shape"], f"state {name} of `ecdctr tpm train`")
        trainer.restore(loaded, elsewhere=True)
        self._known_ms = trainer.last_ts
        log.info("TPM goes on from %s: months %s", name, ", ".join(trainer.written) or "none")

    def _check(self, shape: list[Any], what: str) -> None:
        if shape != self._shape:
            raise StateError(
                f"{what} was made with other features or sizes of the tiny model ({shape}, configured {self._shape}): "
                "restore the configuration it was made with, or set state.folder to a new folder"
            )

    def learn(self, batch: Batch) -> None:
        """Natural rows of a step that stands."""
        if self.trainer is None or not self.learns:
            return
        if self._known_ms >= 0:
            new = batch.ts > self._known_ms
            if not new.all():
                batch = batch.take(new)
        if len(batch):
            self.trainer.learn(batch)

    def settle(self, months: Sequence[str] | None = None) -> None:
        """Wait for months that are being written; StateError if one cannot be."""
        self.sink.settle(months)

    def capture_into(self, capture: Capture) -> None:
        """Add its state to a checkpoint; nothing before it began."""
        if self.trainer is None:
            return
        mine = self.trainer.capture()
        capture.dense.update(mine.dense)
        capture.rows.update(mine.rows)
        state = {"learns": self.learns, "known_ms": self._known_ms, "shape": self._shape}
        capture.meta["tpm"] = mine.meta["tpm"] | state

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Everything that it would keep, by name: for hashing."""
        if self.trainer is not None:
            yield from sorted(self.trainer.flat.state().items())
            for name, ids in (("users", self.trainer.users), ("items", self.trainer.items)):
                yield from zip((f"{name}_id", name), ids.vectors(), strict=True)

    def restore(self, loaded: Loaded) -> None:
        """Become what :meth:`capture_into` kept."""
        meta = loaded.meta.get("tpm")
        self.learns, self.trainer, self._known_ms = False, None, -1
        if meta is None:
            return
        self._check(meta["shape"], f"checkpoint {loaded.name}")
        self.trainer = self._make(self.sink)
        self.trainer.restore(loaded)
        self.learns, self._known_ms = bool(meta["learns"]), int(meta["known_ms"])


def tpm_shape(fingerprint: str, dim: int, hidden: Sequence[int]) -> list[Any]:
    """What must agree for one tiny model to take up another's state; plain JSON."""
    return [fingerprint, dim, list(hidden)]
