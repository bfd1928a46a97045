"""One TPM snapshot: an immutable folder with the frozen user and item vectors of one month."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import crc32c as _crc32c
import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import SnapshotDamagedError, SnapshotExistsError, StateError
from ecdctr.state.files import checksum, fsync_dir, fsync_file, read_json, write_json
from ecdctr.state.snapshots.database import build_db

__all__ = [
    "KINDS",
    "Kind",
    "SnapshotManifest",
    "Vectors",
    "check_files",
    "describe",
    "link_snapshots",
    "month_names",
    "read_manifest",
    "same_or_refuse",
    "write_snapshot",
]

Kind: TypeAlias = Literal["user", "item"]
KINDS: tuple[Kind, Kind] = ("user", "item")
Vectors: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.float32]]
"""Ids, shape ``(n,)``, each once, and their vectors, shape ``(n, d)``."""

_MONTH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MANIFEST = "manifest.json"
_PARTIAL, _REPLACED = ".partial-", ".replaced-"


@dataclass(frozen=True)
class SnapshotManifest:
    """What a snapshot is.

    Attributes
    ----------
    month
        Label of the month; the name of the folder.
    dim
        Numbers of a vector.
    last_ts, first_ts
        Event time of the youngest and of the oldest training row, milliseconds since the epoch. A row may meet the
        snapshot only if it is younger than ``last_ts``.
    rows
        Vectors of each kind.
    checksum
        CRC-32C over ids and vectors in id order: equal for equal content, wherever it was written.
    features
        What the tiny model read.
    created_from
        Where its training rows came from.
    extra
        Whatever else the writer noted.
    """

    month: str
    dim: int
    last_ts: int
    first_ts: int
    rows: dict[str, int]
    checksum: str
    features: tuple[str, ...] = ()
    created_from: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


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
    """Write the snapshot of a month once and for all.

    1. Sort by id. If the month is there already with the same content, that is all: a redone month is no error.
    2. Write aside, in ``.partial-<month>``: sorted tables, ingested into a fresh RocksDB; ids of each kind.
    3. Write the manifest last, with size and checksum of every file; sync all.
    4. Rename to ``<month>``; sync the folder above.

    Parameters
    ----------
    folder
        The snapshots' folder; made if absent.
    month, dim, last_ts
        See :class:`SnapshotManifest`.
    users, items
        Ids in any order, each once, and their vectors; all finite.
    more
        ``first_ts``, ``features``, ``created_from`` of the manifest; anything else goes to its ``extra``.
    replace
        Put new content in the place of what the month has.

    Raises
    ------
    SnapshotExistsError
        The month has other content already.
    StateError
        The files could not be written.
    """
    manifest, tables = describe(month, dim, last_ts, users, items, **more)  # 1
    final, partial = Path(folder) / month, Path(folder) / (_PARTIAL + month)
    if final.exists() and not replace:
        return same_or_refuse(read_manifest(final), manifest)
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
        # RocksDB's own errors are of class Exception itself.
        if isinstance(error, OSError) or type(error) is Exception:
            raise StateError(f"snapshot {final} could not be written: {error}; free some space") from error
        raise
    return manifest


def read_manifest(path: Path) -> SnapshotManifest:
    """Manifest of the snapshot in folder ``path``."""
    return _read(path)[0]


def check_files(path: Path) -> None:
    """Check size and checksum of every file of the snapshot in folder ``path``.

    Raises
    ------
    SnapshotDamagedError
        Names the month and the first file that is not as it was written.
    """
    _, files = _read(path)
    for name, (size, sum_) in files.items():
        file = path / name
        if not file.exists():
            raise SnapshotDamagedError(f"snapshot {path} is damaged: {name} is missing")
        found = file.stat().st_size
        if found != size:
            raise SnapshotDamagedError(
                f"snapshot {path} is damaged: {name} has {found} bytes, the manifest says {size}"
            )
        if (is_ := checksum(file)) != sum_:
            raise SnapshotDamagedError(
                f"snapshot {path} is damaged: {name} has checksum {is_}, the manifest says {sum_}"
            )


def describe(
    month: str,
    dim: int,
    last_ts: int,
    users: Vectors,
    items: Vectors,
    *,
    first_ts: int = 0,
    features: Sequence[str] = (),
    created_from: str = "",
    **extra: Any,
) -> tuple[SnapshotManifest, dict[Kind, Vectors]]:
    """Manifest and sorted tables of a snapshot to be; ValueError when it cannot be one."""
    if not _MONTH.fullmatch(month):
        raise ValueError(f"month {month!r} cannot name a folder")
    tables: dict[Kind, Vectors] = {
        "user": _sorted("user", users, dim, month),
        "item": _sorted("item", items, dim, month),
    }
    manifest = SnapshotManifest(
        month=month,
        dim=dim,
        last_ts=int(last_ts),
        first_ts=int(first_ts),
        rows={kind: len(tables[kind][0]) for kind in KINDS},
        checksum=_content_checksum(tables),
        features=tuple(features),
        created_from=created_from,
        extra=json.loads(json.dumps(extra)),
    )
    return manifest, tables


def same_or_refuse(found: SnapshotManifest, wanted: SnapshotManifest) -> SnapshotManifest:
    """The manifest that is there, if the new content is the same; SnapshotExistsError otherwise."""
    if (found.checksum, found.dim, found.last_ts) == (wanted.checksum, wanted.dim, wanted.last_ts):
        return found
    raise SnapshotExistsError(
        f"snapshot {found.month} exists with checksum {found.checksum} and rows up to {found.last_ts} ms, the new one "
        f"has {wanted.checksum} and {wanted.last_ts} ms; a snapshot never changes: use another folder, or remove the "
        "old one and every release that was made with it"
    )


def month_names(folder: Path) -> list[str]:
    """Names of the snapshots in a folder, in no order."""
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir() if path.is_dir() and _MONTH.fullmatch(path.name)]


def link_snapshots(there: Path, here: Path) -> None:
    """Make the snapshots of one folder stand in another, too, as symbolic links: they never change."""
    for month in month_names(there):
        path = here / month
        if not path.exists():
            here.mkdir(parents=True, exist_ok=True)
            path.symlink_to((there / month).resolve(), target_is_directory=True)


def _sorted(kind: Kind, vectors: Vectors, dim: int, month: str) -> Vectors:
    ids, rows = np.asarray(vectors[0], np.uint64), np.asarray(vectors[1], np.float32)
    if rows.shape != (len(ids), dim):
        raise ValueError(f"snapshot {month}: {len(ids)} {kind} ids with vectors {rows.shape}, dim {dim}")
    if not np.isfinite(rows).all():
        raise ValueError(f"snapshot {month}: a {kind} vector is not finite; the tiny model diverged")
    if not (ids[1:] > ids[:-1]).all():
        order = np.argsort(ids)
        ids, rows = ids[order], rows[order]
        if (twice := ids[1:] == ids[:-1]).any():
            raise ValueError(f"snapshot {month}: {kind} id {ids[1:][twice][0]} stands there twice")
    return ids, np.ascontiguousarray(rows)


def _content_checksum(tables: Mapping[Kind, Vectors]) -> str:
    value = 0
    for kind in KINDS:
        for array in tables[kind]:
            plain = array if sys.byteorder == "little" else array.byteswap()
            value = _crc32c.crc32c(np.ascontiguousarray(plain).reshape(-1).view(np.uint8).data, value)
    return f"crc32c:{value:08x}"


def _seal(partial: Path, manifest: SnapshotManifest) -> None:
    files: dict[str, tuple[int, str]] = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        if path.name == "LOCK" or path.name.startswith("LOG"):
            continue  # RocksDB writes these again whenever it opens the folder
        fsync_file(path)
        files[str(path.relative_to(partial))] = (path.stat().st_size, checksum(path))
    write_json(partial / _MANIFEST, {"format": 1, "snapshot": asdict(manifest), "files": files})
    fsync_file(partial / _MANIFEST)
    fsync_dir(partial / "db")
    fsync_dir(partial)


def _read(path: Path) -> tuple[SnapshotManifest, dict[str, tuple[int, str]]]:
    if not path.is_dir():
        raise StateError(f"there is no snapshot {path.name!r} in {path.parent}")
    try:
        content = read_json(path / _MANIFEST)
        if content["format"] != 1:
            raise ValueError(f"it has format {content['format']}, this version reads format 1")
        fields = content["snapshot"]
        manifest = SnapshotManifest(**{**fields, "features": tuple(fields["features"])})
        return manifest, {name: (size, sum_) for name, (size, sum_) in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotDamagedError(f"snapshot {path} is damaged: {error}") from error


def _clear(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
