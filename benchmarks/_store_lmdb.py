"""The LMDB part of ``store.py``; runs in an environment with lmdb and numpy and without this package.

    <environment>/bin/python benchmarks/_store_lmdb.py FOLDER

``FOLDER`` contains ``ids.npy`` (ascending uint64), ``vectors.npy`` and ``batches.npy``. The process builds the database, prints
``{"built_s": ...}``, and then answers each line ``FIRST END`` with the milliseconds of those batches as one JSON list.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import lmdb
import numpy as np


def main() -> None:
    folder = Path(sys.argv[1])
    ids, vectors = np.load(folder / "ids.npy"), np.load(folder / "vectors.npy", mmap_mode="r")
    batches = np.load(folder / "batches.npy")
    env = lmdb.open(
        str(folder / "lmdb"), map_size=4 * vectors.nbytes + (1 << 24), sync=False, readahead=False, lock=False
    )
    began = time.perf_counter()
    for start in range(0, len(ids), 65_536):
        keys = ids[start : start + 65_536].astype(">u8").tobytes()
        part = np.ascontiguousarray(vectors[start : start + 65_536])
        with env.begin(write=True) as write:
            cursor = write.cursor()
            cursor.putmulti(
                [(keys[8 * i : 8 * i + 8], row.tobytes()) for i, row in enumerate(part)], append=True
            )
    write_line({"built_s": time.perf_counter() - began})
    dim = vectors.shape[1]
    with env.begin(buffers=True) as read:
        for line in sys.stdin:
            first, end = map(int, line.split())
            took = []
            for batch in batches[first:end]:
                began = time.perf_counter()
                found = look_up(read, batch, dim)
                took.append(1000 * (time.perf_counter() - began))
            if not np.array_equal(found, vectors[np.searchsorted(ids, batch)]):
                raise SystemExit("LMDB returned vectors that differ from the stored ones")
            write_line(took)


def look_up(read: lmdb.Transaction, batch: np.ndarray, dim: int) -> np.ndarray:
    """Vectors of a batch's ids; distinct ids in key order, all in one call."""
    unique, inverse = np.unique(batch, return_inverse=True)
    keys = unique.astype(">u8").tobytes()
    found = read.cursor().getmulti([keys[at : at + 8] for at in range(0, len(keys), 8)])
    rows = np.frombuffer(b"".join([value for _, value in found]), np.float32).reshape(len(unique), dim)
    return rows[inverse]


def write_line(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
