"""One TPM snapshot: an immutable folder with the frozen user and item vectors of one month."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ecdctr.state.errors import FormatError, SnapshotDamagedError, StateError
from ecdctr.state.files import check_is_folder, checksum, fsync_dir, fsync_file, read_json, write_json
from ecdctr.state.snapshots.base import describe, is_month, same_or_refuse
from ecdctr.state.snapshots.database import build_db
from ecdctr.state.snapshots.protocol import KINDS, SnapshotManifest, Vectors

__all__ = ["check_files", "file_stamps", "link_snapshots", "month_names", "read_manifest", "write_snapshot"]

FORMAT = 1
"""Version of the folder's format; it is in the manifest."""

_log = logging.getLogger("ecdctr.tpm")
_MANIFEST = "manifest.json"
_PARTIAL, _REPLACED = ".partial-", ".replaced-"


def write_snapshot(
    folder: Path,
    month: str,
    dim: int,
    last_ts: int,
    users: Vectors,
    items: Vectors,
    *,
    replace: bool = False,
    **more: Any,
) -> SnapshotManifest:
    """Write the immutable snapshot of a month.

    1. Sort by id. If the month exists with the same content, return: writing a month again is not an error. If its files are
       damaged, it is written again.
    2. Write into ``.partial-<month>``: sorted tables, ingested into a new RocksDB; the ids of each kind.
    3. Write the manifest last, with size and checksum of every file; sync all.
    4. Rename to ``<month>``; sync the parent folder.

    Parameters
    ----------
    folder
        The snapshots' folder; created if absent.
    month, dim, last_ts
        See :class:`SnapshotManifest`.
    users, items
        Ids in any order, each once, and their vectors; all finite.
    more
        ``first_ts``, ``features``, ``created_from`` of the manifest; all other arguments go to its ``extra``.
    replace
        Replace other content of the month.

    Raises
    ------
    SnapshotExistsError
        The month already has other content.
    StateError
        The files could not be written.
    """
    manifest, tables = describe(month, dim, last_ts, users, items, **more)  # 1
    final, partial = Path(folder) / month, Path(folder) / (_PARTIAL + month)
    if final.exists() and not replace:
        found = same_or_refuse(read_manifest(final), manifest)
        try:
            check_files(final)
        except SnapshotDamagedError as error:
            _log.warning("%s. The same vectors were computed again: it is written again", error)
        else:
            return found
    try:
        _clear(partial)
        partial.mkdir(parents=True)
        build_db(partial / "db", [(KINDS.index(kind), *tables[kind]) for kind in KINDS])  # 2
        for kind in KINDS:
            np.save(partial / f"ids-{kind}.npy", tables[kind][0], allow_pickle=False)
        _seal(partial, manifest)  # 3
        if final.exists():
            _clear(final.with_name(_REPLACED + month))
            final.rename(final.with_name(_REPLACED + month))
        partial.rename(final)  # 4
        fsync_dir(final.parent)
        _clear(final.with_name(_REPLACED + month))
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # RocksDB's errors are plain instances of Exception.
        if isinstance(error, OSError) or type(error) is Exception:
            raise StateError(f"snapshot {final} could not be written: {error}; free some space") from error
        raise
    return manifest


def read_manifest(path: Path) -> SnapshotManifest:
    """Manifest of the snapshot in folder ``path``."""
    return _read(path)[0]


def check_files(path: Path) -> None:
    """Verify size and checksum of every file of the snapshot in folder ``path``.

    Raises
    ------
    SnapshotDamagedError
        A file differs from the manifest; the message contains the month and the first such file.
    """
    _, files = _read(path)
    for file in _database_files(path):
        name = str(file.relative_to(path))
        if name not in files:
            raise _damaged(path, f"{name} is no file of this snapshot, and RocksDB would read it")
    for name, (size, sum_) in files.items():
        file = path / name
        if _is_rewritten(file):  # an earlier version recorded one; another reader may be writing it
            continue
        try:
            found = file.stat().st_size
            if found != size:
                raise _damaged(path, f"{name} has {found} bytes, the manifest records {size}")
            if (is_ := checksum(file)) != sum_:
                raise _damaged(path, f"{name} has checksum {is_}, the manifest records {sum_}")
        except FileNotFoundError:
            raise _damaged(path, f"{name} is missing") from None
        except OSError as error:
            raise _damaged(path, f"{name} cannot be read: {error.strerror}") from error


def file_stamps(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Name, inode, size and time of change of every file that a reader uses: unequal if a file was changed or replaced."""
    found = []
    for file in (path / _MANIFEST, *sorted(path.glob("*.npy")), *_database_files(path)):
        try:
            stat = file.stat()
        except OSError:
            continue
        found.append((str(file.relative_to(path)), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def _database_files(path: Path) -> list[Path]:
    """Files of the database, without those that RocksDB writes again whenever it opens the folder."""
    return sorted(file for file in (path / "db").glob("*") if not _is_rewritten(file))


def _is_rewritten(file: Path) -> bool:
    return file.name in ("LOCK", "rocksdict-config.json") or file.name.startswith("LOG")


def _damaged(path: Path, what: str) -> SnapshotDamagedError:
    return SnapshotDamagedError(
        f"snapshot {path} is damaged: {what}. Restore it from a copy, or move it away and write it again with `ecdctr tpm train`"
    )


def month_names(folder: Path) -> list[str]:
    """Names of the folders that may be snapshots, in no particular order; StateError if ``folder`` is a file."""
    check_is_folder(folder, "snapshots")
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir() if path.is_dir() and is_month(path.name)]


def link_snapshots(there: Path, here: Path) -> None:
    """Make the snapshots of folder ``there`` available in folder ``here`` by symbolic links: snapshots are immutable."""
    for month in month_names(there):
        path = here / month
        if not path.exists():
            here.mkdir(parents=True, exist_ok=True)
            path.symlink_to((there / month).resolve(), target_is_directory=True)


def _seal(partial: Path, manifest: SnapshotManifest) -> None:
    files: dict[str, tuple[int, str]] = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        if _is_rewritten(path):
            continue
        fsync_file(path)
        files[str(path.relative_to(partial))] = (path.stat().st_size, checksum(path))
    write_json(partial / _MANIFEST, {"format": FORMAT, "snapshot": asdict(manifest), "files": files})
    fsync_file(partial / _MANIFEST)
    fsync_dir(partial / "db")
    fsync_dir(partial)


def _read(path: Path) -> tuple[SnapshotManifest, dict[str, tuple[int, str]]]:
    if not path.is_dir():
        raise StateError(f"there is no snapshot {path.name!r} in {path.parent}")
    try:
        content = read_json(path / _MANIFEST)
        if content["format"] != FORMAT:
            raise FormatError(f"snapshot {path}", content["format"], FORMAT)
        fields = content["snapshot"]
        manifest = SnapshotManifest(**{**fields, "features": tuple(fields["features"])})
        files = {name: (size, sum_) for name, (size, sum_) in content["files"].items()}
    except FileNotFoundError:
        raise SnapshotDamagedError(
            f"{path} is no snapshot of TPM: it has no {_MANIFEST}. If it was one, restore it from a copy; else move it away"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    if manifest.month != path.name:
        raise SnapshotDamagedError(
            f"{path} is a copy of the snapshot of month {manifest.month} under another name: move it away"
        )
    return manifest, files


def _clear(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
