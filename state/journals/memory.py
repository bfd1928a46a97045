"""``MemoryJournal``, the in-memory double of the journal, and ``NoJournal``, which stores nothing."""

from __future__ import annotations

from collections.abc import Iterator

from ecdctr.state.journals.lines import decode_line, encode_line
from ecdctr.state.journals.protocol import JournalEntry

__all__ = ["MemoryJournal", "NoJournal"]


class MemoryJournal:
    """A journal in memory, for tests and for runs without a state folder."""

    def __init__(self) -> None:
        self.truncated_bytes = 0
        self._files: list[list[JournalEntry]] = []
        self._open = False

    def append(self, entry: JournalEntry) -> None:
        last = self.last_step()
        if last is not None and entry.step != last + 1:
            raise ValueError(f"step {entry.step} does not follow step {last} in the journal")
        if not self._open:
            self._files.append([])
            self._open = True
        self._files[-1].append(decode_line(encode_line(entry)))

    def entries(self, after_step: int = -1) -> Iterator[JournalEntry]:
        for file in list(self._files):
            yield from (entry for entry in list(file) if entry.step > after_step)

    def first_step(self) -> int | None:
        return self._files[0][0].step if self._files else None

    def last_step(self) -> int | None:
        return self._files[-1][-1].step if self._files else None

    def sync(self) -> None:
        pass

    def rotate(self) -> None:
        self._open = False

    def drop_before(self, step: int, clock: int | None = None) -> None:
        while len(self._files) > 1 and self._files[0][-1].step < step:
            if clock is not None and max(entry.clock for entry in self._files[0]) >= clock:
                return
            del self._files[0]

    def truncate_after(self, step: int) -> None:
        remaining = ([entry for entry in file if entry.step <= step] for file in self._files)
        self._files = [file for file in remaining if file]
        self._open = bool(self._files)

    def close(self) -> None:
        self._open = False


class NoJournal:
    """Stores nothing: a replay recovers the steps after a checkpoint from the same event log instead.

    Examples
    --------
    >>> journal = NoJournal()
    >>> journal.append(JournalEntry(0, "release", (), 0, {}))
    >>> list(journal.entries())
    []
    """

    def append(self, entry: JournalEntry) -> None:
        pass

    def entries(self, after_step: int = -1) -> Iterator[JournalEntry]:  # noqa: ARG002
        return iter(())

    def first_step(self) -> int | None:
        return None

    def last_step(self) -> int | None:
        return None

    def sync(self) -> None:
        pass

    def rotate(self) -> None:
        pass

    def drop_before(self, step: int, clock: int | None = None) -> None:
        pass

    def truncate_after(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass
