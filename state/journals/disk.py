"""``Journal``: an append-only write-ahead log of training steps, one checksummed line of text per step."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ecdctr.state.errors import JournalDamagedError, StateError
from ecdctr.state.files import fsync_dir, fsync_file, make_folder, write_all
from ecdctr.state.journals.lines import decode_line, encode_line
from ecdctr.state.journals.protocol import JournalEntry

__all__ = ["Journal"]

_log = logging.getLogger(__name__)
_NAME = re.compile(r"journal-[0-9]{12,}\.log")


class Journal:
    """Files ``journal-<first step>.log`` in one folder; only the newest is appended to. Links and other files are passed over.

    Each append is a single ``write(2)``, so that an appended line survives ``kill -9``. After a power loss the last lines may
    be missing unless ``fsync`` is set.

    Parameters
    ----------
    folder
        Created if absent. One writer at a time, ensured by the state folder's lock.
    fsync
        Sync after every line.
    read_only
        Open for reading while another process writes: nothing is created or truncated, and an incomplete or damaged last line is
        ignored.

    Attributes
    ----------
    truncated_bytes
        Length of the incomplete or damaged last line that was removed when the folder was opened; 0 if it was intact.
    """

    def __init__(self, folder: Path, fsync: bool = False, read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.truncated_bytes = 0
        self._fsync = fsync
        self._read_only = read_only
        self._fd: int | None = None
        self._size = 0
        self._last: int | None = None
        self._unsynced: set[Path] = set()
        self._max_clocks: dict[Path, int] = {}  # of files that are no longer appended to
        if not read_only:
            make_folder(self.folder, "journal")
            for path in sorted(set(self.folder.iterdir()) - set(self._files())):
                _log.warning("%s is no file of the journal: it is passed over", path)
            self._open_newest()

    def append(self, entry: JournalEntry) -> None:
        """Append an entry.

        Raises
        ------
        ValueError
            The step is not the last step + 1.
        StateError
            The file could not be created, or the line not be written completely (disk full); the entries are unchanged.
        """
        if self._last is not None and entry.step != self._last + 1:
            raise ValueError(f"step {entry.step} does not follow step {self._last} in journal {self.folder}")
        if self._fd is None:
            self._create(entry.step)
        assert self._fd is not None
        line = encode_line(entry)
        try:
            write_all(self._fd, line)
            if self._fsync:
                os.fdatasync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise StateError(
                f"journal {self.folder}: step {entry.step} could not be written: {error.strerror}; free some space (the journal is "
                "unchanged)"
            ) from error
        self._size += len(line)
        self._last = entry.step

    def entries(self, after_step: int = -1) -> Iterator[JournalEntry]:
        """Entries with ``step > after_step``, in order; every line that is read is verified.

        Raises
        ------
        JournalDamagedError
            A line is damaged (except the last line of the newest file), or steps are missing; the message contains the file and
            the line.
        StateError
            An entry was written by a later version.
        """
        files = self._files()
        expected: int | None = None
        for i, path in enumerate(files):
            newest = i == len(files) - 1
            if not newest and _first_step(files[i + 1]) - 1 <= after_step:
                continue
            first = _first_step(path)
            if expected is not None and first != expected:
                raise JournalDamagedError(
                    f"journal {self.folder}: steps {expected} to {first - 1} are missing; restore the file that was removed"
                )
            expected = first
            for entry, _ in _read_file(path, tolerate_last=newest):
                expected = entry.step + 1
                if entry.step > after_step:
                    yield entry

    def first_step(self) -> int | None:
        """First step in the journal, or None if it is empty."""
        if not self._read_only:
            files = self._files()
            return _first_step(files[0]) if files and self._last is not None else None
        return next((entry.step for entry in self.entries()), None)

    def last_step(self) -> int | None:
        """Last step in the journal, or None if it is empty."""
        if not self._read_only:
            return self._last
        files = self._files()
        last = None
        for entry, _ in _read_file(files[-1], tolerate_last=True) if files else ():
            last = entry.step
        return _first_step(files[-1]) - 1 if last is None and len(files) > 1 else last

    def sync(self) -> None:
        """fsync all lines. Must be called before a checkpoint that depends on them is written.

        May run in another thread than :meth:`append`, and does not block it.
        """
        unsynced, self._unsynced = self._unsynced, set()
        for path in [*sorted(unsynced), *self._files()[-1:]]:
            with contextlib.suppress(FileNotFoundError):  # removed by drop_before in the meantime
                fsync_file(path)
        fsync_dir(self.folder)

    def rotate(self) -> None:
        """Start a new file with the next entry (called at checkpoints)."""
        if self._fd is not None:
            self._unsynced |= {self._files()[-1]}
        self._close_file()

    def drop_before(self, step: int, clock: int | None = None) -> None:
        """Remove the oldest files all of whose entries have a smaller step (and, if given, an older clock).

        Only whole files are removed, so some earlier entries may remain; the newest file always remains.
        """
        files = self._files()
        for path, following in itertools.pairwise(files):
            if _first_step(following) > step or (clock is not None and self._max_clock(path) >= clock):
                return
            path.unlink()
            self._max_clocks.pop(path, None)

    def truncate_after(self, step: int) -> None:
        """Remove all entries with a larger step (used when offsets are reset)."""
        self._close_file()
        for path in reversed(self._files()):
            if _first_step(path) > step:
                path.unlink()
                continue
            end_of_step = 0
            for entry, end in _read_file(path, tolerate_last=True):
                if entry.step <= step:
                    end_of_step = end
            os.truncate(path, end_of_step)
            break
        self._max_clocks.clear()
        self._open_newest()

    def close(self) -> None:
        """Close the file; appending again opens a new one."""
        self._close_file()

    def _files(self) -> list[Path]:
        return sorted(
            path
            for path in self.folder.glob("journal-*.log")
            if _NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink()
        )

    def _create(self, step: int) -> None:
        path = self.folder / f"journal-{step:012d}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise StateError(f"journal file {path} cannot be created: {error.strerror}") from error
        self._size = 0
        if self._fsync:
            fsync_dir(self.folder)

    def _open_newest(self) -> None:
        """Open the newest file for appending, and remove an incomplete or damaged last line that a crash left."""
        self._last = None
        while files := self._files():
            path = files[-1]
            good = 0
            for entry, end in _read_file(path, tolerate_last=True):
                good, self._last = end, entry.step
            damaged_bytes = path.stat().st_size - good
            if damaged_bytes:
                self.truncated_bytes += damaged_bytes
                _log.warning(
                    "journal %s: removed an incomplete or damaged last line (%d bytes)", path, damaged_bytes
                )
                os.truncate(path, good)
            if good:
                self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._size = good
                return
            path.unlink()  # a crash between the creation of the file and its first line

    def _close_file(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _max_clock(self, path: Path) -> int:
        if path not in self._max_clocks:
            newest = 0
            try:
                for entry, _ in _read_file(path, tolerate_last=False):
                    newest = max(newest, entry.clock)
            except (
                JournalDamagedError
            ) as error:  # a damaged old file must not stop training: it may be removed at any clock
                _log.warning("%s", error)
            self._max_clocks[path] = newest
        return self._max_clocks[path]


def _first_step(path: Path) -> int:
    return int(path.stem.removeprefix("journal-"))


def _read_file(path: Path, tolerate_last: bool) -> Iterator[tuple[JournalEntry, int]]:
    """Entries of one file, each with the position in bytes of the end of its line."""
    expected, end = _first_step(path), 0
    with path.open("rb") as file:
        lines = iter(file)
        line = next(lines, b"")
        number = 1
        while line:
            following = next(lines, b"")
            try:
                entry = decode_line(line)
            except (ValueError, KeyError, TypeError) as error:
                if tolerate_last and not following:
                    return
                raise JournalDamagedError(
                    f"journal {path}, line {number}: {error}; steps from {expected} on cannot be replayed. Restore the "
                    "file, or move the journal folder away: training then continues from the newest checkpoint, and the steps after "
                    "it cannot be rebuilt bit for bit"
                ) from None
            if entry.step != expected:
                raise JournalDamagedError(
                    f"journal {path}, line {number}: found step {entry.step}, expected step {expected}; restore the file"
                )
            end += len(line)
            yield entry, end
            line, number, expected = following, number + 1, expected + 1
