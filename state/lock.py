"""``FolderLock``: one trainer owns one state folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ecdctr.state.errors import StateError, StateLockedError
from ecdctr.state.files import make_folder, write_all

__all__ = ["FolderLock"]

_LONGEST = 4096  # bytes of the owner's description that are read


class FolderLock:
    """An exclusive ``flock`` on a file of a folder; the kernel releases it when the process ends, however it ends.

    The file records the owner (``host``, ``pid``, ``since``). Its content alone locks nothing, so a file left behind by
    a dead process does not block the next one.

    Parameters
    ----------
    folder
        The folder; created if absent.
    what
        What the folder is, for messages.
    name
        Name of the file.
    way_out
        What else can be done than to stop the owner, for messages.
    """

    def __init__(
        self,
        folder: Path,
        what: str = "state folder",
        name: str = "LOCK",
        way_out: str = "name another folder (state.folder), or start with --standby to take over when it ends",
    ) -> None:
        self.path = Path(folder) / name
        self._what, self._way_out = what, way_out
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(
        self, wait: bool = False, poll_s: float = 0.2, should_stop: Callable[[], bool] | None = None
    ) -> None:
        """Acquire the lock.

        Parameters
        ----------
        wait
            False: raise immediately if another process holds it. True: try again every ``poll_s`` seconds (standby).
        poll_s
            Seconds between two attempts.
        should_stop
            Called between two attempts; if it returns True, the error is raised.

        Raises
        ------
        StateLockedError
            Another process holds the lock; the message contains its host and process.
        StateError
            The folder cannot be created or written, or its lock file is a link, a fifo or a folder.
        """
        if self._fd is not None:
            return
        make_folder(self.path.parent, self._what)
        fd = self._open(os.O_RDWR | os.O_CREAT)
        try:
            while not _try_lock(fd):
                if not wait or (should_stop is not None and should_stop()):
                    raise StateLockedError(self._message())
                time.sleep(poll_s)
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
            os.ftruncate(fd, 0)
            write_all(fd, json.dumps(owner).encode())
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def check_file(self) -> None:
        """StateError if the lock file is there and is a link, a fifo or a folder, or cannot be opened; nothing is changed."""
        if os.path.lexists(self.path):
            os.close(self._open(os.O_RDONLY))

    def owner(self) -> dict[str, Any]:
        """The process that holds, or last held, the lock: ``host``, ``pid``, ``since``; empty if there was none."""
        with contextlib.suppress(OSError, ValueError, StateError):
            with os.fdopen(self._open(os.O_RDONLY), "rb") as file:
                found = json.loads(file.read(_LONGEST))
            if isinstance(found, dict):
                return found
        return {}

    def owner_now(self) -> dict[str, Any] | None:
        """The process that holds the lock at this moment, as :meth:`owner` describes it; None: nobody does.

        Nothing is created, and the lock is not taken.
        """
        try:
            fd = self._open(os.O_RDONLY)
        except (OSError, StateError):
            return None
        try:
            # Shared, and released at once: several examinations do not see each other as owners.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.owner()
        finally:
            os.close(fd)
        return None

    def release(self) -> None:
        """Release the lock; no effect if it is not held."""
        if self._fd is not None:
            # The file remains: after an unlink two processes could lock two files of the same name.
            os.close(self._fd)
            self._fd = None

    def _message(self) -> str:
        owner = self.owner()
        return (
            f"{self._what} {self.path.parent} is owned by process {owner.get('pid', 'unknown')} on host "
            f"{owner.get('host', 'unknown')} since {owner.get('since', 'unknown')}; stop that process, {self._way_out}"
        )

    def _open(self, flags: int) -> int:
        """Open the file, unless it is something else: a link would be written to where it points, and a fifo waits for a reader."""
        try:
            fd = os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            if not os.path.lexists(self.path) or (self.path.is_file() and not self.path.is_symlink()):
                raise StateError(
                    f"{self._what} {self.path.parent}: {self.path.name} cannot be opened ({error.strerror}): correct the rights of the "
                    "folder and the file, or name another folder"
                ) from error
            raise self._not_a_file() from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._not_a_file()
        return fd

    def _not_a_file(self) -> StateError:
        mode = self.path.lstat().st_mode
        kinds = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a fifo", stat.S_IFDIR: "a folder"}
        kind = kinds.get(stat.S_IFMT(mode), "no regular file")
        return StateError(
            f"{self._what} {self.path.parent}: {self.path.name} is {kind}, not a file: remove it"
        )

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
