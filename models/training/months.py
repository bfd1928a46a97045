"""``MonthReaders``: selects the monthly TPM snapshots that the network arms read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ecdctr.events.time import HOUR_MS
from ecdctr.models.arms import Arm, NetworkArm
from ecdctr.models.tpm import MergedHistory, SnapshotHistory
from ecdctr.state.snapshots import EmbeddingStore

__all__ = ["MonthReaders"]


class MonthReaders:
    """Provides the network arms with readers of the snapshots of some months.

    Arms with a learned attention (CPM first of all) read the vectors of the K months themselves and share one reader.
    A-CTR reads them merged through its copy of CPM's attention, and changes its months at releases only.

    Parameters
    ----------
    store
        TPM snapshots. If None, no TPM vector is read: every id counts as absent.
    arms
        All arms, by any name.
    k
        Number of months that are read.
    dim
        Length of a TPM vector.
    device
        Device of the readers' tensors.

    Attributes
    ----------
    cpm, actr
        Labels of the months that CPM and A-CTR read, oldest first.
    """

    def __init__(
        self,
        store: EmbeddingStore | None,
        arms: Mapping[str, Arm],
        k: int,
        dim: int,
        device: torch.device,
    ) -> None:
        networks = [arm for arm in arms.values() if isinstance(arm, NetworkArm)]
        self._store, self._k, self._dim, self._device = store, k, dim, device
        self._learned = [arm for arm in networks if arm.spec.history == "learned" and not arm.based_on]
        self._merged = [arm for arm in networks if arm.spec.history == "merged" and not arm.based_on]
        self._selected_hour = -1
        self.cpm: tuple[str, ...] = ()
        self.actr: tuple[str, ...] = ()
        self.set_cpm((), 0)

    def due(self, now_ms: int, clock_ms: int) -> tuple[str, ...] | None:
        """The months that CPM should read from now on; None if they do not change.

        The store is queried once per hour of event time ``now_ms``; ``clock_ms`` is the latest event time learned.
        """
        hour = now_ms // HOUR_MS
        if self._store is None or hour == self._selected_hour:
            return None
        self._selected_hour = hour
        months = tuple(self._store.select(min(now_ms, clock_ms), self._k))
        return months if months and months != self.cpm else None

    def set_cpm(self, months: tuple[str, ...], clock_ms: int) -> None:
        """CPM and all arms with a learned attention read these months from now on.

        Raises
        ------
        PointInTimeError
            One of the months was trained on rows that are not older than the event clock ``clock_ms``.
        """
        if self._learned:
            reader = SnapshotHistory(self._store, months, self._dim, clock_ms, self._device)
            for arm in self._learned:
                arm.reader = reader
        self.cpm = months

    def set_actr(self, months: tuple[str, ...], clock_ms: int) -> None:
        """A-CTR reads these months from now on, merged through its current attention."""
        for arm in self._merged:
            user, item = arm.net.history_user, arm.net.history_item
            assert user is not None and item is not None
            arm.reader = MergedHistory(self._store, months, user, item, clock_ms, self._device)
        self.actr = months

    def restore(self, cpm: tuple[str, ...], actr: tuple[str, ...], clock_ms: int) -> None:
        """Read the months of a checkpoint."""
        self._selected_hour = -1
        self.set_cpm(cpm, clock_ms)
        self.set_actr(actr, clock_ms)

    def present(
        self, ts: NDArray[np.int64], user: NDArray[np.uint64], item: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Whether CPM finds a TPM vector of each row's user, and of its item, ``(n,)`` each; None if it reads no month."""
        if not self.cpm or not self._learned:
            return None
        reader = self._learned[0].reader
        return reader.present(ts, user, item) if isinstance(reader, SnapshotHistory) else None
