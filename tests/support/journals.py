"""A journal that is read while a worker writes it."""

from __future__ import annotations

from pathlib import Path

from ecdctr.state.journals import JournalEntry
from ecdctr.state.journals.lines import decode_line
from ecdctr.state.positions import Positions


class JournalReader:
    """Reads each line once, so that a test can poll while a worker appends.

    Entries of files that were deleted in the meantime are retained. A worker may truncate an incomplete last line when it
    starts; then, and whenever a line does not follow the previous one, the whole journal is read again.

    Parameters
    ----------
    folder
        The journal's folder; it may not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def _start(self) -> None:
        self._file: Path | None = None
        self._read = 0
        self.steps: list[tuple[int, int]] = []
        """(step, offsets covered) of every entry so far."""
        self.positions = Positions()
        """Next offset of every partition after the last entry."""

    def update(self) -> JournalReader:
        """Read what was appended since the last call."""
        try:
            self._append()
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            self._start()
            self._append()
        return self

    @property
    def learned(self) -> int:
        """Offsets planned up to now; a reset changes it."""
        return sum(self.positions.values())

    def _append(self) -> None:
        files = sorted(self._folder.glob("journal-*"))
        for path in files:
            if self._file is not None and path < self._file:
                continue
            if path != self._file:
                self._file, self._read = path, 0
            if path.stat().st_size < self._read:
                raise ValueError("the file became shorter")
            with path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # the rest is being written
                    self._add(decode_line(line))
                    self._read += len(line)

    def _add(self, entry: JournalEntry) -> None:
        if self.steps and entry.step != self.steps[-1][0] + 1:
            raise ValueError("a step is missing")
        if entry.kind == "reset":
            self.positions = Positions.from_json(entry.extra["positions"])
        self.positions.advance(entry.parts)
        self.steps.append((entry.step, sum(p.end - p.first for p in entry.parts)))
