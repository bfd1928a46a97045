"""One process owns a state folder; a standby takes over when the owner process ends, however it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecdctr.state.errors import StateLockedError
from ecdctr.state.lock import FolderLock

_HOLDER = """
import sys
from pathlib import Path
from ecdctr.state.lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_error_names_the_owner(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StateLockedError, match=re.escape(socket.gethostname())) as caught:
        FolderLock(tmp_path).acquire()
    assert f"process {holder.pid} " in str(caught.value)
    assert "--standby" in str(caught.value)


def test_a_standby_takes_over_from_a_killed_owner(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    tries = 0

    def kill_at_the_second_try() -> bool:
        nonlocal tries
        tries += 1
        if tries == 2:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
        return False

    lock = FolderLock(tmp_path)
    lock.acquire(wait=True, poll_s=0.01, should_stop=kill_at_the_second_try)
    assert lock.owner()["pid"] == os.getpid()
    lock.release()


def test_waiting_can_be_stopped(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StateLockedError):
        FolderLock(tmp_path).acquire(wait=True, poll_s=0.01, should_stop=lambda: True)


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "state") as first:
        assert first.held
        first.acquire()  # again: nothing happens
        with pytest.raises(StateLockedError, match=str(os.getpid())):
            FolderLock(tmp_path / "state").acquire()
    with FolderLock(tmp_path / "state") as second:
        assert second.held
    assert not second.held


def test_a_file_left_by_a_dead_process_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text('{"host":"elsewhere","pid":1,"since":"2020-01-01"} torn')
    with FolderLock(tmp_path) as lock:
        assert lock.owner()["host"] == socket.gethostname()
