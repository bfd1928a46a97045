"""``JournalLike``, the protocol of journals, and ``JournalEntry``, the description of one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ecdctr.state.positions import Part

__all__ = ["EntryKind", "JournalEntry", "JournalLike"]


class EntryKind(StrEnum):
    """What a journaled step does. The value is its name in the journal's lines."""

    NATURAL = "natural"
    """Learns natural rows."""
    AD = "ad"
    """Learns ad rows."""
    RELEASE = "release"
    """A CPM release."""
    MONTH = "month"
    """CPM changes to the TPM snapshots of ``extra["months"]``."""
    TPM = "tpm"
    """Training of TPM from the stream is enabled or disabled, by ``extra["learns"]``."""
    RESET = "reset"
    """Reading continues at ``extra["positions"]``: ``--reset-offsets``."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Description of one step, written before the step is executed.

    Attributes
    ----------
    step
        Number of the step, which increases by 1 from entry to entry.
    kind
        What the step does.
    parts
        Offset ranges of the rows that the step learns, in canonical order.
    clock
        Event clock before the step, milliseconds since the epoch.
    extra
        Further values that are needed to replay the step; plain JSON. ``log``: the changes of the log's identity
        (:class:`~ecdctr.state.positions.LogIdentity`) with the step. ``times``: which rows of the ranges were refused for their times
        (:class:`ecdctr.events.plausible_time.TimeDecisions`).
    rows
        Number of valid rows that the log held in the offset ranges, whether the step learned them or was rolled back. A redo that
        finds another number would not be the same step. None: the entry has no rows, or an older version wrote it.
    """

    step: int
    kind: EntryKind
    parts: tuple[Part, ...] = ()
    clock: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None


class JournalLike(Protocol):
    """Entries of consecutive steps; each is appended before its step is executed."""

    def append(self, entry: JournalEntry) -> None:
        """Append an entry.

        Raises
        ------
        ValueError
            The step is not the last step + 1.
        StateError
            The entry could not be written; the journal is unchanged.
        """
        ...

    def entries(self, after_step: int = -1) -> Iterator[JournalEntry]:
        """Entries with ``step > after_step``, in order.

        Raises
        ------
        JournalDamagedError
            An entry is missing, or one that is not the last one is damaged.
        """
        ...

    def first_step(self) -> int | None:
        """First step in the journal, or None if it is empty."""
        ...

    def last_step(self) -> int | None:
        """Last step in the journal, or None if it is empty."""
        ...

    def sync(self) -> None:
        """Make all entries durable. Must be called before a checkpoint that depends on them is written."""
        ...

    def rotate(self) -> None:
        """Start a new file with the next entry (called at checkpoints)."""
        ...

    def drop_before(self, step: int, clock: int | None = None) -> None:
        """Remove the oldest files all of whose entries have a smaller step (and, if given, an older clock)."""
        ...

    def truncate_after(self, step: int) -> None:
        """Remove all entries with a larger step."""
        ...

    def close(self) -> None:
        """Close the open file; appending again opens a new one."""
        ...
