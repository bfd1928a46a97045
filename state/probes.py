"""Probe slices: complete rows sampled from every earlier period, stored so that they can be scored again."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import StateError
from ecdctr.state.files import open_regular, write_atomic

__all__ = ["ProbeStore"]

_NAME = re.compile(r"^[0-9A-Za-z._-]+$")
Columns = dict[str, NDArray[Any]]


class ProbeStore:
    """Named sets of columns, each one ``.npz`` file that is replaced atomically.

    Parameters
    ----------
    folder
        Folder of the files; None: in memory.

    Examples
    --------
    >>> store = ProbeStore(None)
    >>> store.put("ad-2826", {"ts": np.array([1, 2])})
    >>> store.names(), store.get("ad-2826")["ts"].tolist()
    (['ad-2826'], [1, 2])
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, Columns] = {}

    def put(self, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
        """Store a slice, or replace the one of this name.

        Raises
        ------
        ValueError
            The name cannot be a file name.
        StateError
            The file cannot be written.
        """
        if not _NAME.match(name):
            raise ValueError(
                f"probe slice {name!r}: the name may contain only letters, digits, dots, dashes and underscores"
            )
        if self.folder is None:
            self._memory[name] = {k: v.copy() for k, v in columns.items()}
            return
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **columns)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path(name), buffer.getvalue())
        except OSError as e:
            raise StateError(f"probe slice {self._path(name)} cannot be written: {e.strerror}") from e

    def get(self, name: str) -> Columns:
        """The columns of a slice.

        Raises
        ------
        StateError
            The file is damaged.
        """
        if self.folder is None:
            return self._memory[name]
        try:
            with open_regular(self._path(name)) as file, np.load(file, allow_pickle=False) as arrays:
                return {k: arrays[k] for k in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            raise StateError(
                f"probe slice {self._path(name)} is damaged ({e}): remove it; its curve ends here"
            ) from e

    def names(self) -> list[str]:
        """Names of the stored slices, sorted."""
        if self.folder is None:
            return sorted(self._memory)
        return sorted(p.stem for p in self.folder.glob("*.npz"))

    def drop(self, name: str) -> None:
        """Remove a slice; no effect if there is none of this name."""
        self._memory.pop(name, None)
        if self.folder is not None:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.npz"
