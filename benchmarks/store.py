"""TPM look-ups: the snapshot store (RocksDB with a cache of rows) compared with LMDB and a plain numpy memmap.

    python benchmarks/store.py [--short] [--ids 5000000] [--venvs FOLDER]

Each store contains the same ids (hashed, uint64) with the same vectors of 64 numbers. A look-up is one batch of 4,096 ids,
the k-th id drawn with weight 1 / k (Zipf's law), so that some repeat; it returns the vectors in the batch's order. All
candidates look up distinct ids in key order. After a warm-up they alternate, twenty batches each; every file is in the page
cache. LMDB runs in its own environment, which is created on the first run.

===========  =======================================================================================
ours         ``RocksEmbeddingStore`` with its defaults (``state.cache_rows``)
no cache     the same with a cache of one row
LMDB         one ``getmulti`` of the distinct keys
memmap       ids and vectors as ``.npy`` files, memory-mapped; binary search among the ids
===========  =======================================================================================

The last line is one JSON object: ``ratio``, ours divided by LMDB (p50), ``ratio_p99``, and milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Not from this folder: its modules have names that other packages use, too.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

import numpy as np

from benchmarks._environment import environment
from ecdctr.state.hashing import mix64
from ecdctr.state.settings import StateSettings
from ecdctr.state.snapshots import (
    RocksEmbeddingStore,
)

DIM = 64
BATCH = 4096
WARM, TURNS, BLOCK = 100, 15, 20
MONTH = "2026-10"

LookUp = Callable[[np.ndarray], np.ndarray]


class Lmdb:
    """The LMDB process; it measures when it is sent a range of batches."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._process = subprocess.Popen(
            [python, HERE / "_store_lmdb.py", folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.built_s = float(self._answer()["built_s"])

    def times(self, first: int, end: int) -> list[float]:
        assert self._process.stdin is not None
        print(first, end, file=self._process.stdin, flush=True)
        took: list[float] = self._answer()
        return took

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process with LMDB ended with exit code {self._process.wait()}")
        return json.loads(line)


def tables(folder: Path, ids: int, batches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids ascending, their vectors, and batches of ids, ``(batches, BATCH)``; also written to the folder."""
    rng = np.random.default_rng(0)
    by_rank = mix64(np.arange(1, ids + 1, dtype=np.uint64))  # one to one: as many distinct ids
    order = np.sort(by_rank)
    vectors = rng.standard_normal((ids, DIM), np.float32)
    rank = np.minimum((ids + 1.0) ** rng.random((batches, BATCH)), ids).astype(np.int64) - 1
    drawn = by_rank[rank]
    for name, array in (("ids", order), ("vectors", vectors), ("batches", drawn)):
        np.save(folder / f"{name}.npy", array)
    return order, vectors, drawn


def memmap(folder: Path) -> LookUp:
    ids = np.load(folder / "ids.npy", mmap_mode="r")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")

    def look_up(batch: np.ndarray) -> np.ndarray:
        unique, inverse = np.unique(batch, return_inverse=True)
        rows: np.ndarray = vectors[np.searchsorted(ids, unique)]
        return rows[inverse]

    return look_up


def timed(look_up: LookUp, batches: np.ndarray) -> list[float]:
    """Milliseconds of each batch."""
    took = []
    for batch in batches:
        began = time.perf_counter()
        look_up(batch)
        took.append(1000 * (time.perf_counter() - began))
    return took


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(tempfile.gettempdir()) / "ecdctr-peers"
    parser.add_argument("--venvs", type=Path, default=cache, help=f"folder of LMDB's environment ({cache})")
    parser.add_argument("--ids", type=int, default=5_000_000, help="ids in each store")
    parser.add_argument("--short", action="store_true", help="1,000,000 ids")
    options = parser.parse_args()
    ids = 1_000_000 if options.short else options.ids
    try:
        python = environment(options.venvs / "lmdb", ("lmdb==3.0.0", "numpy==2.4.6"))
    except RuntimeError as error:
        parser.exit(1, f"LMDB cannot be measured: {error}\n")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        order, vectors, batches = tables(folder, ids, WARM + TURNS * BLOCK)
        distinct = np.mean([len(np.unique(batch)) for batch in batches])
        print(f"{ids:,} ids x {DIM}; batches of {BATCH:,} ids, {distinct:,.0f} of them distinct")
        nothing = (np.empty(0, np.uint64), np.empty((0, DIM), np.float32))
        began = time.perf_counter()
        cache_rows = StateSettings().cache_rows
        ours = RocksEmbeddingStore(folder / "snapshots", cache_rows)
        ours.write(MONTH, DIM, 1, (order, vectors), nothing)
        built_s = time.perf_counter() - began
        bare = RocksEmbeddingStore(folder / "snapshots", 1)
        wanted = vectors[np.searchsorted(order, batches[0])]
        del vectors
        lmdb = Lmdb(python, folder)
        sides: dict[str, LookUp] = {
            f"ours, {cache_rows:,} rows cached": lambda batch: ours.lookup("user", batch, (MONTH,))[0][:, 0],
            "ours, no cache": lambda batch: bare.lookup("user", batch, (MONTH,))[0][:, 0],
            "memmap": memmap(folder),
        }
        for name, look_up in sides.items():
            if not np.array_equal(look_up(batches[0]), wanted):
                raise AssertionError(f"{name} returned vectors that differ from the stored ones")
            timed(look_up, batches[:WARM])
        lmdb.times(0, WARM)
        found: dict[str, list[float]] = {name: [] for name in (*sides, "LMDB")}
        for at in range(WARM, WARM + TURNS * BLOCK, BLOCK):
            for name, look_up in sides.items():
                found[name] += timed(look_up, batches[at : at + BLOCK])
            found["LMDB"] += lmdb.times(at, at + BLOCK)
        lmdb.close()
        ours.close()
        bare.close()
    print(f"built in {built_s:.0f} s (with checksums), LMDB in {lmdb.built_s:.0f} s")
    print("store                        p50 ms   p99 ms")
    at = {name: np.quantile(took, (0.5, 0.99)) for name, took in found.items()}
    for name, (p50, p99) in at.items():
        print(f"{name:<27} {p50:>7.2f}  {p99:>7.2f}")
    mine, bare_ms, mapped, other = at.values()
    result = {
        "ratio": round(mine[0] / other[0], 2),
        "ratio_p99": round(mine[1] / other[1], 2),
        "ids": ids,
        **{
            f"{name}_ms": [round(float(v), 2) for v in ms]
            for name, ms in (("ours", mine), ("no_cache", bare_ms), ("lmdb", other), ("memmap", mapped))
        },
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
