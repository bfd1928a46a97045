"""Checks of the state folder: can it be written, is there room, and who owns it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ecdctr.state.errors import StateError
from ecdctr.state.folder_format import check_format
from ecdctr.state.lock import FolderLock
from ecdctr.state.settings import StateSettings
from ecdctr.streams.doctor.checks import Check, failed, ok, warning

__all__ = ["check_state_folder"]

_LEAST_FREE = 1 << 30
_NAME = "state folder"


def check_state_folder(state: StateSettings) -> Iterator[Check]:
    """Checks of ``state.folder``; nothing is created there."""
    folder = state.folder
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        yield failed(
            _NAME, f"state.folder = {folder}: {there} is not a folder", "name another folder in state.folder"
        )
        return
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        yield failed(
            _NAME,
            f"state.folder = {folder}: {there} cannot be written by this user",
            "correct its owner or its rights, or name another folder",
        )
        return
    yield ok(
        _NAME,
        f"{folder} can be written" if there == folder else f"{folder} does not exist yet, and can be created",
    )
    yield _room(state, there)
    if there == folder:
        yield _format(folder)
        yield _owner(folder)


def _format(folder: Path) -> Check:
    name = "format of the state folder"
    try:
        check_format(folder)
        FolderLock(folder).check_file()
    except StateError as error:
        return failed(name, str(error), "see docs/guarantees.md, formats on disk")
    return ok(name, "it is that of this version, or there is no state yet")


def _room(state: StateSettings, there: Path) -> Check:
    name = "disk of the state folder"
    free = shutil.disk_usage(there).free
    newest = _newest_checkpoint(state.folder / "checkpoints")
    # The newest checkpoints are kept while the next one is written beside them.
    needed = max(_LEAST_FREE, 2 * newest)
    found = f"{free / 1e9:.1f} GB are free" + (
        f"; a checkpoint takes {newest / 1e9:.2f} GB" if newest else ""
    )
    if free < needed:
        return warning(
            name,
            f"{found}, less than {needed / 1e9:.1f} GB",
            "free some room: without it, training waits, and no checkpoint is written",
        )
    return ok(name, found)


def _newest_checkpoint(folder: Path) -> int:
    """Size of the newest checkpoint in bytes; 0: there is none."""
    try:
        newest = max((path for path in folder.iterdir() if "-step-" in path.name), default=None)
        return (
            0 if newest is None else sum(file.stat().st_size for file in newest.iterdir() if file.is_file())
        )
    except OSError:
        return 0


def _owner(folder: Path) -> Check:
    name = "lock of the state folder"
    lock = FolderLock(folder)
    owner = lock.owner_now()
    if owner is None:
        return ok(name, "it is free")
    return warning(
        name,
        f"process {owner.get('pid', 'unknown')} on host {owner.get('host', 'unknown')} trains on it since "
        f"{owner.get('since', 'unknown')}: a second worker would be refused",
        "nothing while that worker is to run; else stop it, name another folder, or start with --standby",
    )
