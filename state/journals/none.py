"""``NoJournal``: the journal's contract where nothing has to be planned on disk."""

from __future__ import annotations

from collections.abc import Iterator

from ecdctr.state.journals.entry import JournalEntry

__all__ = ["NoJournal"]


class NoJournal:
    """Keeps nothing: for a replay, whose steps past a checkpoint are cut again from the same log.

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
