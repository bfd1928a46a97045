"""``FolderLock``: one trainer owns one state folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ecdctr.state.errors import StateLockedError
from ecdctr.state.files import write_all

__all__ = ["FolderLock"]


class FolderLock:
    """An exclusive ``flock`` on ``<folder>/LOCK``; the kernel releases it when the process ends, however it ends.

    The file records the owner (``host``, ``pid``, ``since``). Its content alone locks nothing, so a file left behind by
    a dead process does not block the next one.

    Parameters
    ----------
    folder
        The state folder; created if absent.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "LOCK"
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
        """
        if self._fd is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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

    def owner(self) -> dict[str, Any]:
        """The process that holds, or last held, the lock: ``host``, ``pid``, ``since``; empty if there was none."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_bytes())
            if isinstance(found, dict):
                return found
        return {}

    def owner_now(self) -> dict[str, Any] | None:
        """The process that holds the lock at this moment, as :meth:`owner` describes it; None: nobody does.

        Nothing is created, and the lock is not taken.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
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
            f"state folder {self.path.parent} is owned by process {owner.get('pid', 'unknown')} on host "
            f"{owner.get('host', 'unknown')} since {owner.get('since', 'unknown')}; stop that process, "
            "name another folder (state.folder), or start with --standby to take over when it ends"
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
