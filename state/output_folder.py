"""``OutputFolder``: a command overwrites and removes only what the same command has written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ecdctr.state.errors import FormatError, StateError
from ecdctr.state.files import write_atomic
from ecdctr.state.lock import FolderLock

__all__ = ["OutputFolder"]

FORMAT = 1
"""Version of the marker's format."""

_MARKER, _LOCK = ".ecdctr-output.json", ".ecdctr-output.lock"
_STATE = ("checkpoints", "journal", "snapshots", "format.json")
"""What only a state folder contains."""


class OutputFolder:
    """A folder into which commands write files and folders of fixed names.

    The file ``.ecdctr-output.json`` records which command wrote which name. Other files may be in the folder.

    Parameters
    ----------
    folder
        Created if absent.
    command
        The command, for example ``ecdctr replay``.
    option
        The option that names the folder, for messages.
    """

    def __init__(self, folder: Path, command: str, option: str = "--out") -> None:
        self.folder = Path(folder)
        self._command, self._option = command, option

    @contextmanager
    def hold(self, names: Sequence[str], written_before: Callable[[Path], bool]) -> Iterator[None]:
        """Own some names in the folder until the block ends, against other processes and what others wrote.

        1. Create and lock the folder.
        2. Refuse it if one of the names exists and this command has not written it. Nothing is changed then.
        3. Record the names.

        Parameters
        ----------
        names
            Files and folders that the command will write.
        written_before
            Whether an existing file or folder without a record was written by the command in an earlier version, which recorded
            nothing.

        Raises
        ------
        StateError
            The folder is used by another process, cannot be written, is a state folder, or contains one of the names.
        """
        what = f"{self._option} {self.folder}"
        if any((self.folder / name).exists() for name in _STATE):
            raise StateError(f"{what} is a state folder: choose another folder")
        lock = FolderLock(self.folder, self._option, _LOCK, "or choose another folder")
        lock.acquire()
        try:
            recorded = self._recorded()
            for name in names:
                path = self.folder / name
                if path.is_symlink():
                    raise StateError(
                        f"{what}: {name} is a link, which is not written to: choose another folder"
                    )
                by = recorded.get(name)
                if by == self._command or not path.exists() or (by is None and written_before(path)):
                    continue
                whose = f"was written by `{by}`" if by else f"was not written by `{self._command}`"
                raise StateError(
                    f"{what}: {name} exists and {whose}: choose another folder, or move it away. Nothing was changed"
                )
            files = recorded | dict.fromkeys(names, self._command)
            write_atomic(
                self.folder / _MARKER, json.dumps({"format": FORMAT, "files": files}, indent=1).encode()
            )
            yield
        finally:
            lock.release()

    def _recorded(self) -> dict[str, str]:
        path = self.folder / _MARKER
        if path.is_symlink() or not path.exists():
            return {}
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise FormatError(f"{path}", content["format"], FORMAT)
            return {str(name): str(command) for name, command in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"{path} is damaged ({error}), so that it is not known who wrote the files beside it: choose another folder"
            ) from error
