"""``CheckpointStore``: one folder per checkpoint, written under a temporary name and renamed when complete."""

from __future__ import annotations

import builtins
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ecdctr.state.checkpoints.files import (
    DENSE,
    FileRecord,
    Manifest,
    link,
    merge_from,
    read_rows,
    remove_folder,
    write_rows,
    write_tensors,
)
from ecdctr.state.checkpoints.protocol import Capture, CheckpointInfo, Loaded, Rows, merge_rows
from ecdctr.state.errors import CheckpointDamagedError, FormatError, StateError
from ecdctr.state.files import check_is_folder, checksum, fsync_dir

__all__ = ["CheckpointStore"]

_PARTIAL = ".partial-"
_log = logging.getLogger(__name__)


class CheckpointStore:
    """Checkpoints in one folder, each a self-contained folder ``<sequence>-step-<step>``.

    Embedding rows are stored in segments: each checkpoint writes the rows that changed since the previous checkpoint and
    hard-links the older segment files; :func:`ecdctr.state.checkpoints.files.merge_from` decides when segments are merged.

    Parameters
    ----------
    folder
        Created at the first save. Only one process may write (ensured by the lock of the state folder); readers use a separate
        ``CheckpointStore``.
    keep
        Number of newest intact checkpoints that are retained. In addition, the newest older checkpoint with a different oldest
        segment is retained, if there is one: it survives damage to a segment file that the others share.
    compact_ratio
        A segment is merged when the later ones together have this many times its size. A larger value rewrites less and uses
        more disk space.

    Attributes
    ----------
    damaged
        Names and reasons of the checkpoints that :meth:`newest` skipped; they remain on disk.
    """

    def __init__(self, folder: Path, keep: int = 3, compact_ratio: float = 2.0) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must be retained")
        self.folder = Path(folder)
        self.damaged: list[tuple[str, str]] = []
        self._keep = keep
        self._ratio = compact_ratio
        self._parent: Manifest | None = None  # checkpoint whose segments the next save links
        self._pending: list[Rows] = []  # changed rows of failed saves
        self._merge_allowed = True  # False after a failed save: merging needs additional disk space
        self._lock = threading.Lock()

    def save(self, capture: Capture) -> CheckpointInfo:
        """Write a checkpoint. May be called from a background thread; concurrent calls wait for each other.

        1. Merge the changed rows with those of previous failed saves.
        2. Write into ``.partial-<name>``: the dense tensors, the changed rows (merged with older segments if ``merge_from``
           requires it), hard links to the other segments; sync each new file.
        3. Write the manifest last, with size and checksum of every file; sync it and the folder.
        4. Rename to the final name; sync the parent folder. From here on the checkpoint is valid.
        5. Remove old checkpoints.

        Raises
        ------
        StateError
            The files could not be written (disk full). Earlier checkpoints remain valid, and the rows of this capture
            stay in memory and become part of the next attempt.
        CheckpointDamagedError
            An older segment that would be merged is damaged; saving is impossible until a restart.
        ValueError
            The dtype or the width of a table changed.
        """
        with self._lock:
            start = time.perf_counter()
            delta = merge_rows([*self._pending, capture.rows])  # 1
            self._pending = [delta]
            name = f"{self._next_sequence():08d}-step-{int(capture.meta['step'])}"
            partial, final = self.folder / (_PARTIAL + name), self.folder / name
            try:
                self._make_partial(partial)
                manifest, written = self._write(partial, name, delta, capture)  # 2, 3
                partial.rename(final)  # 4
                fsync_dir(self.folder)
            except (OSError, SafetensorError) as error:
                self._merge_allowed = False
                remove_folder(partial)
                raise StateError(
                    f"checkpoint {final} could not be written: {error} (if the disk is full, free some space). Earlier "
                    "checkpoints remain valid, and the next one includes these rows"
                ) from error
            except BaseException:
                remove_folder(partial)
                raise
            self._pending, self._parent, self._merge_allowed = [], manifest, True
            self._drop_old()  # 5
            return _info(self.folder, manifest, written, time.perf_counter() - start)

    def newest(self) -> Loaded | None:
        """Load the newest checkpoint whose checksums are correct. The next :meth:`save` stores the rows changed since it.

        Damaged ones are listed in :attr:`damaged`, skipped and left on disk, and so are copies under another name. None if there is
        no intact one; then ``damaged`` distinguishes an empty store from one in which all are damaged.

        Raises
        ------
        FormatError
            The newest one that is not damaged was written by another version. An older one is not used instead of it.
        """
        self.damaged = []
        for leftover in sorted(self.folder.glob(_PARTIAL + "*")):
            _log.warning(
                "checkpoint %s was not completed; it is ignored, and the next save removes it", leftover
            )
        for name in reversed(self._names()):
            try:
                loaded = self.load(name)
                written_as = Manifest.read(self.folder / name, deep=False).name
            except CheckpointDamagedError as error:
                self.damaged.append((name, str(error)))
                _log.warning("%s; skipped, the files remain", error)
                continue
            if written_as != name:
                self.damaged.append((name, f"it is a copy of checkpoint {written_as}"))
                _log.warning(
                    "checkpoint %s is a copy of checkpoint %s; skipped", self.folder / name, written_as
                )
                continue
            self.adopt(loaded)
            return loaded
        return None

    def load(self, name: str) -> Loaded:
        """Load a checkpoint by name and verify all checksums.

        This does not affect which checkpoint the next :meth:`save` builds on (see :meth:`adopt`).

        Raises
        ------
        CheckpointDamagedError
            A file is missing, or its size or checksum differs from the manifest.
        FormatError
            Another version wrote it.
        StateError
            There is no checkpoint of that name.
        """
        folder = self.folder / name
        if not folder.is_dir():
            known = ", ".join(self._names()) or "none"
            raise StateError(f"there is no checkpoint {name!r} in {self.folder}; there are: {known}")
        manifest = Manifest.read(folder)
        dense = load_file(folder / manifest.dense.name)
        rows = merge_rows([read_rows(folder / segment.name) for segment in manifest.segments])
        for table, (dtype, width) in manifest.tables.items():
            rows.setdefault(table, (np.empty(0, np.int64), np.empty((0, width), dtype)))
        return Loaded(
            name, {k: np.require(v, requirements="W") for k, v in dense.items()}, rows, manifest.meta
        )

    def adopt(self, loaded: Loaded) -> None:
        """Let the next :meth:`save` build on a loaded checkpoint; rows of failed saves are discarded."""
        self._parent = Manifest.read(self.folder / loaded.name, deep=False)
        self._pending = []

    def list(self) -> builtins.list[CheckpointInfo]:
        """Checkpoints whose manifest is readable and whose files have the right sizes, oldest first."""
        return [_info(self.folder, manifest) for manifest in self._manifests()]

    def _names(self) -> builtins.list[str]:
        check_is_folder(self.folder, "checkpoints")
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and _sequence(p.name) is not None)

    def _next_sequence(self) -> int:
        names = self._names()  # includes damaged checkpoints, because their folders exist
        return 1 + (_sequence(names[-1]) or 0) if names else 1

    def _make_partial(self, partial: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(_PARTIAL + "*"):
            remove_folder(leftover)
        partial.mkdir()

    def _write(self, partial: Path, name: str, delta: Rows, capture: Capture) -> tuple[Manifest, int]:
        dense = write_tensors(partial / DENSE, capture.dense)
        parent = self._parent
        segments = parent.segments if parent else ()
        tables = dict(parent.tables) if parent else {}
        for table, (_, values) in delta.items():
            found = (str(values.dtype), int(values.shape[1]))
            if tables.setdefault(table, found) != found:
                raise ValueError(
                    f"table {table!r}: rows have dtype and width {found}, but {tables[table]} in earlier checkpoints"
                )
        new: tuple[FileRecord, ...] = ()
        if any(len(index) for index, _ in delta.values()):
            segment = partial / f"rows-{name}.safetensors"
            new_bytes = sum(index.nbytes + values.nbytes for index, values in delta.values())
            first = merge_from([*(s.bytes for s in segments), new_bytes], self._ratio)
            if self._merge_allowed and first < len(segments):
                delta = merge_rows([*map(self._read_parent, segments[first:]), delta])
                segments = segments[:first]
            new = (write_rows(segment, delta),)
        for record in segments:
            assert parent is not None
            link(self.folder / parent.name / record.name, partial / record.name)
        meta = json.loads(json.dumps(capture.meta))
        manifest = Manifest(name, int(meta["step"]), meta, dense, (*segments, *new), tables)
        size = manifest.write(partial)
        fsync_dir(partial)
        return manifest, size + sum(record.bytes for record in (dense, *new))

    def _read_parent(self, record: FileRecord) -> Rows:
        assert self._parent is not None
        path = self.folder / self._parent.name / record.name
        if checksum(path) != record.checksum:
            raise CheckpointDamagedError(
                f"{path} is damaged, so that no further checkpoint can be written; restart the worker to recover from an older one"
            )
        return read_rows(path)

    def _manifests(self) -> builtins.list[Manifest]:
        found = []
        for name in self._names():
            try:
                manifest = Manifest.read(self.folder / name, deep=False)
            except (CheckpointDamagedError, FormatError):
                continue
            if manifest.name == name:
                found.append(manifest)
        return found

    def _drop_old(self) -> None:
        damaged = {name for name, _ in self.damaged}
        intact = [manifest for manifest in self._manifests() if manifest.name not in damaged]
        retained, older = intact[-self._keep :], intact[: -self._keep]
        oldest = {manifest.segments[:1] for manifest in retained}
        independent = next((m for m in reversed(older) if m.segments and m.segments[:1] not in oldest), None)
        for manifest in older:
            if manifest is not independent:
                remove_folder(self.folder / manifest.name)


def _sequence(name: str) -> int | None:
    head, found, _ = name.partition("-step-")
    return int(head) if found and head.isascii() and head.isdigit() else None


def _info(folder: Path, manifest: Manifest, written: int = 0, seconds: float = 0.0) -> CheckpointInfo:
    meta: dict[str, Any] = manifest.meta
    return CheckpointInfo(
        name=manifest.name,
        path=folder / manifest.name,
        step=manifest.step,
        bytes_written=written,
        seconds=seconds,
        bytes_total=sum(record.bytes for record in manifest.files),
        segments=tuple(record.name for record in manifest.segments),
        meta=meta,
    )
