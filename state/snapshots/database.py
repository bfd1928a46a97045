"""A snapshot's vectors in RocksDB: keys of one byte kind + eight bytes id, values of raw float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
)

from ecdctr.state.errors import SnapshotDamagedError

__all__ = ["VectorDb", "VectorScan", "build_db", "make_keys"]

_TABLE_ROWS = 4_000_000  # rows per SST file
_SLICE = 65_536  # rows converted to bytes at a time
_KEY = 9


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())  # float32 mantissas do not compress
    options.set_allow_mmap_reads(True)
    options.set_disable_auto_compactions(True)
    options.set_keep_log_file_num(1)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)  # many look-ups are for ids that the month does not have
    options.set_block_based_table_factory(table)
    return options


def make_keys(kind: int, ids: NDArray[np.uint64]) -> list[bytes]:
    """Keys in the order of the ids; big-endian, so that RocksDB's order is that of the ids.

    >>> make_keys(1, np.array([258], np.uint64))
    [b'\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x02']
    """
    raw = np.empty((len(ids), _KEY), np.uint8)
    raw[:, 0] = kind
    raw[:, 1:] = ids.astype(">u8").view(np.uint8).reshape(-1, _KEY - 1)
    data = raw.tobytes()
    return [data[at : at + _KEY] for at in range(0, len(data), _KEY)]


def build_db(folder: Path, tables: Sequence[tuple[int, NDArray[np.uint64], NDArray[np.float32]]]) -> None:
    """Write ``(kind, ids ascending, vectors)``, kinds ascending, as SST files and ingest them into a new database."""
    files: list[str] = []
    for kind, ids, vectors in tables:
        for start in range(0, len(ids), _TABLE_ROWS):
            path = folder.with_name(f"{folder.name}-{len(files)}.sst")
            part = slice(start, start + _TABLE_ROWS)
            _write_table(path, kind, ids[part], vectors[part])
            files.append(str(path))
    db = Rdict(str(folder), _options())
    try:
        if files:
            ingest = IngestExternalFileOptions()
            ingest.set_move_files(True)
            db.ingest_external_file(files, ingest)
        db.flush()
    finally:
        db.close()
    for file in files:
        Path(file).unlink(missing_ok=True)


def _write_table(path: Path, kind: int, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
    writer = SstFileWriter(_options())
    writer.open(str(path))
    width = vectors.shape[1] * 4
    for start in range(0, len(ids), _SLICE):
        data = vectors[start : start + _SLICE].astype("<f4", copy=False).tobytes()
        for i, key in enumerate(make_keys(kind, ids[start : start + _SLICE])):
            writer[key] = data[i * width : (i + 1) * width]
    writer.finish()


class VectorDb:
    """One snapshot's database, open read-only; other processes may have it open, too.

    Parameters
    ----------
    folder
        The database.
    dim
        Length of a vector.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder = folder
        self._dim = dim
        try:
            self._db = Rdict(str(folder), _options(), access_type=AccessType.read_only(False))
        except Exception as error:  # RocksDB's errors are plain instances of Exception
            raise SnapshotDamagedError(f"snapshot {folder.parent} cannot be opened: {error}") from error

    def get(self, kind: int, ids: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors ``(n, d)`` (zeros where absent) and presence ``(n,)``; fastest for ascending ids."""
        try:
            found = self._db[make_keys(kind, ids)]
        except Exception as error:
            raise SnapshotDamagedError(f"snapshot {self.folder.parent} cannot be read: {error}") from error
        present = np.fromiter((value is not None for value in found), np.bool_, len(found))
        out = np.zeros((len(ids), self._dim), np.float32)
        if present.any():
            out[present] = self.decode([value for value in found if value is not None])
        return out, present

    def scan(self, kind: int) -> VectorScan:
        """Vectors of a kind in the order of their ids."""
        values = self._db.values(from_key=make_keys(kind, np.zeros(1, np.uint64))[0])
        return VectorScan(self, values)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def decode(self, values: list[bytes]) -> NDArray[np.float32]:
        """Vectors ``(n, d)`` from the database's values."""
        data = b"".join(values)
        if len(data) != len(values) * self._dim * 4:
            raise SnapshotDamagedError(
                f"snapshot {self.folder.parent} contains vectors whose length is not {self._dim}"
            )
        return np.frombuffer(data, "<f4").reshape(len(values), self._dim).astype(np.float32, copy=False)


class VectorScan:
    """Sequential reader of one kind's vectors."""

    def __init__(self, db: VectorDb, values: Iterator[bytes]) -> None:
        self._db = db
        self._values = values

    def take(self, count: int) -> NDArray[np.float32]:
        """The next ``count`` vectors, ``(count, d)``."""
        found = list(islice(self._values, count))
        if len(found) < count:  # RocksDB's iterator ends silently at a damaged block
            raise SnapshotDamagedError(
                f"snapshot {self._db.folder.parent} is damaged: {count - len(found)} vectors cannot be read"
            )
        return self._db.decode(found)
