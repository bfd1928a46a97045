"""``KeptArm``: an arm as it was before a release, so that the gate can refuse what was made of it in place."""

from __future__ import annotations

from ecdctr.models.arms import NetworkArm
from ecdctr.models.nets import KeptRows

__all__ = ["KeptArm"]


class KeptArm:
    """From its making on, whatever changes in an arm can be taken back, bit for bit.

    Dense parameters, Adam's moments, batch norm's statistics and counters are copied at once; of the tables each row
    before its first change. So it costs what the release touches, never a second set of tables.

    Parameters
    ----------
    arm
        Whose state.
    """

    def __init__(self, arm: NetworkArm) -> None:
        self._arm = arm
        self._flat = arm.flat.undo()
        self._buffers = arm.flat.buffers.clone()
        self._counts = [count.clone() for count in arm.counts()]
        self._reader = arm.reader
        self._rows = [KeptRows(table) for table in arm.tables]
        for table, rows in zip(arm.tables, self._rows, strict=True):
            table.kept = rows

    def forget(self) -> None:
        """The changes stand."""
        for table in self._arm.tables:
            table.kept = None

    def revert(self) -> None:
        """Back to what it was. Rows stay marked as unsaved: they are in the next checkpoint as they are now."""
        self.forget()
        self._arm.flat.revert(self._flat)
        self._arm.flat.buffers.copy_(self._buffers)
        for now, before in zip(self._arm.counts(), self._counts, strict=True):
            now.copy_(before)
        self._arm.reader = self._reader
        for rows in self._rows:
            rows.revert()
