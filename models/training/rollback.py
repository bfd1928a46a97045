"""``ArmBackup``: the state of an arm before a release, so that a refused release can be undone."""

from __future__ import annotations

from ecdctr.models.arms import NetworkArm
from ecdctr.models.nets import RowBackup

__all__ = ["ArmBackup"]


class ArmBackup:
    """All changes of an arm after the construction of its backup can be undone, bit for bit.

    Dense parameters, Adam's moments, and batch norm's statistics and counters are copied at once; rows of the tables
    are copied before their first change. The cost is proportional to the rows that the release changes, not to the tables.

    Parameters
    ----------
    arm
        The arm.
    """

    def __init__(self, arm: NetworkArm) -> None:
        self._arm = arm
        self._flat = arm.flat.undo()
        self._buffers = arm.flat.buffers.clone()
        self._counts = [count.clone() for count in arm.counts()]
        self._reader = arm.reader
        self._rows = [RowBackup(table) for table in arm.tables]
        for table, rows in zip(arm.tables, self._rows, strict=True):
            table.backup = rows

    def forget(self) -> None:
        """Accept the changes and stop saving rows."""
        for table in self._arm.tables:
            table.backup = None

    def revert(self) -> None:
        """Undo all changes. The rows stay marked as unsaved, so that the next checkpoint contains their restored values."""
        self.forget()
        self._arm.flat.revert(self._flat)
        self._arm.flat.buffers.copy_(self._buffers)
        for now, before in zip(self._arm.counts(), self._counts, strict=True):
            now.copy_(before)
        self._arm.reader = self._reader
        for rows in self._rows:
            rows.revert()
