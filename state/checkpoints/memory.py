"""``MemoryCheckpointStore``: the in-memory double of the checkpoint store."""

from __future__ import annotations

import builtins
import copy
import json

from ecdctr.state.checkpoints.protocol import Capture, CheckpointInfo, Loaded, Rows, merge_rows
from ecdctr.state.errors import StateError

__all__ = ["MemoryCheckpointStore"]


class MemoryCheckpointStore:
    """Checkpoints in memory, for tests and for runs without a state folder."""

    def __init__(self, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must be retained")
        self.damaged: list[tuple[str, str]] = []
        self._keep = keep
        self._sequence = 0
        self._checkpoints: dict[str, Loaded] = {}
        self._rows: Rows = {}

    def save(self, capture: Capture) -> CheckpointInfo:
        meta = json.loads(json.dumps(capture.meta))
        self._sequence += 1
        name = f"{self._sequence:08d}-step-{int(meta['step'])}"
        self._rows = merge_rows([self._rows, copy.deepcopy(capture.rows)])
        self._checkpoints[name] = Loaded(name, copy.deepcopy(capture.dense), self._rows, meta)
        for old in list(self._checkpoints)[: -self._keep]:
            del self._checkpoints[old]
        return CheckpointInfo(name, None, int(meta["step"]), meta=meta)

    def newest(self) -> Loaded | None:
        if not self._checkpoints:
            return None
        loaded = self.load(list(self._checkpoints)[-1])
        self.adopt(loaded)
        return loaded

    def load(self, name: str) -> Loaded:
        if name not in self._checkpoints:
            raise StateError(
                f"there is no checkpoint {name!r}; there are: {', '.join(self._checkpoints) or 'none'}"
            )
        return copy.deepcopy(self._checkpoints[name])

    def adopt(self, loaded: Loaded) -> None:
        self._rows = copy.deepcopy(self._checkpoints[loaded.name].rows)

    def list(self) -> builtins.list[CheckpointInfo]:
        return [
            CheckpointInfo(name, None, int(c.meta["step"]), meta=c.meta)
            for name, c in self._checkpoints.items()
        ]
