"""The files of one checkpoint folder: tensors, row segments, and the manifest with their checksums."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ecdctr.state.checkpoints.protocol import Rows
from ecdctr.state.errors import CheckpointDamagedError, FormatError
from ecdctr.state.files import checksum, fsync_file, read_json, write_json

__all__ = ["FileRecord", "Manifest", "link", "merge_from", "read_rows", "write_rows", "write_tensors"]

FORMAT = 1
"""Version of a checkpoint's format; it is in the manifest."""

MANIFEST = "manifest.json"
DENSE = "dense.safetensors"
_INDEX, _VALUES = "/index", "/rows"


@dataclass(frozen=True)
class FileRecord:
    """A file as recorded in the manifest: name, size in bytes, CRC-32C."""

    name: str
    bytes: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """Content of a checkpoint; written last, so that a folder with an intact manifest was written completely."""

    name: str
    step: int
    meta: dict[str, Any]
    dense: FileRecord
    segments: tuple[FileRecord, ...]  # oldest first
    tables: dict[str, tuple[str, int]]  # dtype and width of a table's rows
    format: int = FORMAT

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All files except the manifest itself."""
        return (self.dense, *self.segments)

    def write(self, folder: Path) -> int:
        """Write and sync; returns the size in bytes."""
        size = write_json(folder / MANIFEST, asdict(self))
        fsync_file(folder / MANIFEST)
        return size

    @classmethod
    def read(cls, folder: Path, deep: bool = True) -> Manifest:
        """Read the manifest and check every file that it lists: its size, and its checksum if ``deep``.

        Raises
        ------
        CheckpointDamagedError
            A file differs from what was written; the message names the checkpoint and the first such file.
        FormatError
            Another version wrote it.
        """
        try:
            content = read_json(folder / MANIFEST)
            if content["format"] != FORMAT:
                raise FormatError(f"checkpoint {folder}", content["format"], FORMAT)
            segments = tuple(FileRecord(**record) for record in content["segments"])
            tables = {table: (str(dtype), int(width)) for table, (dtype, width) in content["tables"].items()}
            read = {"dense": FileRecord(**content["dense"]), "segments": segments, "tables": tables}
            manifest = cls(**{**content, **read})
            for record in manifest.files:
                _check(folder / record.name, record, deep)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointDamagedError(f"checkpoint {folder} is damaged: {_reason(error)}") from error
        return manifest


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{Path(error.filename).name}: {error.strerror}"
    return str(error)


def _check(path: Path, record: FileRecord, deep: bool) -> None:
    size = path.stat().st_size
    if size != record.bytes:
        raise ValueError(f"{path.name} has {size} bytes, the manifest records {record.bytes}")
    if deep and (found := checksum(path)) != record.checksum:
        raise ValueError(f"{path.name} has checksum {found}, the manifest records {record.checksum}")


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> FileRecord:
    """Write and sync a safetensors file; returns its name, size and checksum."""
    save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, path)
    fsync_file(path)
    return FileRecord(path.name, path.stat().st_size, checksum(path))


def write_rows(path: Path, rows: Rows) -> FileRecord:
    """Write one segment: the indices and the rows of each table."""
    tensors: dict[str, NDArray[Any]] = {}
    for table, (index, values) in rows.items():
        tensors[table + _INDEX] = index
        tensors[table + _VALUES] = values
    return write_tensors(path, tensors)


def read_rows(path: Path) -> Rows:
    """Inverse of :func:`write_rows`."""
    tensors = load_file(path)
    tables = [name.removesuffix(_INDEX) for name in tensors if name.endswith(_INDEX)]
    return {table: (tensors[table + _INDEX], tensors[table + _VALUES]) for table in tables}


def link(source: Path, target: Path) -> None:
    """Hard-link a file into another folder; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
            raise
        shutil.copyfile(source, target)
        fsync_file(target)


def merge_from(sizes: Sequence[int], ratio: float) -> int:
    """Index of the first segment (sizes in bytes, oldest first) that is merged into one with all later ones.

    A segment is merged once the later ones together have ``ratio`` times its size. Sizes then decrease
    geometrically from the oldest to the latest: the number of segments, and how often a row is rewritten, grow with the
    logarithm of the number of rows ever changed, and do not depend on the size of a table.

    >>> merge_from([900, 10], 2.0), merge_from([900, 10, 10, 10], 2.0), merge_from([50, 60, 60], 2.0)
    (1, 1, 0)
    """
    first, later = len(sizes) - 1, sizes[-1]
    for i in range(len(sizes) - 2, -1, -1):
        if later >= ratio * sizes[i]:
            first = i
        later += sizes[i]
    return first


def remove_folder(path: Path) -> None:
    """Remove a folder as far as possible; the next checkpoint tries again to remove the rest."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
