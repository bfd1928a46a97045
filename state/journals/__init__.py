"""The journal: one line per step, written before the step, on disk, in memory, or not at all."""

from ecdctr.state.journals.disk import Journal, JournalLike
from ecdctr.state.journals.entry import EntryKind, JournalEntry
from ecdctr.state.journals.memory import MemoryJournal
from ecdctr.state.journals.none import NoJournal

__all__ = ["EntryKind", "Journal", "JournalEntry", "JournalLike", "MemoryJournal", "NoJournal"]
