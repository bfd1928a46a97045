"""The journal: one entry per step, appended before the step is executed; on disk, in memory, or discarded."""

from ecdctr.state.journals.disk import Journal
from ecdctr.state.journals.memory import MemoryJournal, NoJournal
from ecdctr.state.journals.protocol import EntryKind, JournalEntry, JournalLike

__all__ = ["EntryKind", "Journal", "JournalEntry", "JournalLike", "MemoryJournal", "NoJournal"]
