"""``CheckpointStoreLike``, the protocol of checkpoint stores, with its types and the merging of row deltas."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Capture", "CheckpointInfo", "CheckpointStoreLike", "Loaded", "Rows", "merge_rows"]

Rows: TypeAlias = dict[str, tuple[NDArray[np.int64], NDArray[Any]]]
"""For each table: row indices, int64 ``(m,)``, and the content of these rows, shape ``(m, width)``."""


@dataclass
class Capture:
    """A trainer's state between two steps.

    Attributes
    ----------
    dense
        Small tensors in full: weights, optimiser moments, buffers.
    rows
        For each embedding table the *dirty rows* (changed since the previous capture) with their payload (embedding,
        accumulator). A row that was never captured has the value that the trainer derives from its seed.
    meta
        Plain JSON with at least ``step``; usually ``positions``, ``clock``, ``versions``, RNG and counters.
    """

    dense: dict[str, NDArray[Any]]
    rows: Rows
    meta: dict[str, Any]


@dataclass
class Loaded:
    """A complete checkpoint that was loaded; ``rows`` contains *all* rows ever captured, each index once, ascending."""

    name: str
    dense: dict[str, NDArray[Any]]
    rows: Rows
    meta: dict[str, Any]


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint of a store.

    Attributes
    ----------
    name, path
        Name and folder (None in memory).
    step
        Number of the last step before the checkpoint.
    bytes_written, seconds
        Cost of writing it; 0 for a checkpoint that was found on disk.
    bytes_total
        Size of its files, including those shared with earlier checkpoints.
    segments
        Names of its row segments, oldest first.
    meta
        As captured.
    """

    name: str
    path: Path | None
    step: int
    bytes_written: int = 0
    seconds: float = 0.0
    bytes_total: int = 0
    segments: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)


class CheckpointStoreLike(Protocol):
    """Checkpoints by name; recovery starts from the newest intact one.

    Attributes
    ----------
    damaged
        Names and reasons of the checkpoints that :meth:`newest` skipped; they are retained.
    """

    damaged: builtins.list[tuple[str, str]]

    def save(self, capture: Capture) -> CheckpointInfo:
        """Write a checkpoint. May be called from a background thread; concurrent calls wait for each other.

        Raises
        ------
        StateError
            It could not be written. Earlier checkpoints remain, and the next attempt includes these rows.
        """
        ...

    def newest(self) -> Loaded | None:
        """Load and adopt the newest intact checkpoint; None if there is none."""
        ...

    def load(self, name: str) -> Loaded:
        """Load and verify a checkpoint by name, without adopting it.

        Raises
        ------
        CheckpointDamagedError
            A file is missing, or its size or checksum differs from the manifest.
        StateError
            There is no checkpoint of that name.
        """
        ...

    def adopt(self, loaded: Loaded) -> None:
        """Let the next :meth:`save` build on a loaded checkpoint; rows of failed saves are discarded."""
        ...

    def list(self) -> builtins.list[CheckpointInfo]:
        """Checkpoints, oldest first."""
        ...


def merge_rows(deltas: Sequence[Rows]) -> Rows:
    """Rows of all deltas (oldest first), each index once, ascending; the last write of an index wins.

    >>> old = {"user": (np.array([4, 1]), np.array([[40.0], [10.0]]))}
    >>> new = {"user": (np.array([4, 7]), np.array([[41.0], [70.0]]))}
    >>> index, values = merge_rows([old, new])["user"]
    >>> index.tolist(), values.ravel().tolist()
    ([1, 4, 7], [10.0, 41.0, 70.0])
    """
    tables = sorted({table for delta in deltas for table in delta})
    return {table: _merge([delta[table] for delta in deltas if table in delta], table) for table in tables}


def _merge(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[Any]]], table: str
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    parts = [(np.asarray(i, np.int64), np.asarray(v)) for i, v in parts]
    width, dtype = parts[-1][1].shape[1:], parts[-1][1].dtype
    for index, values in parts:
        if values.ndim != 2 or values.shape != (len(index), *width) or values.dtype != dtype:
            raise ValueError(
                f"table {table!r}: {len(index)} indices with rows {values.dtype}{values.shape}, "
                f"but rows of {dtype}{width} are expected"
            )
    if len(parts) == 1 and (np.diff(parts[0][0]) > 0).all():
        return parts[0]
    # Newest first, so that np.unique's first occurrence is the last write.
    newest_first = [(index[::-1], values[::-1]) for index, values in reversed(parts)]
    index, first = np.unique(np.concatenate([i for i, _ in newest_first]), return_index=True)
    out = np.empty((len(index), *width), dtype)
    start = 0
    for part_index, values in newest_first:
        chosen = np.flatnonzero((first >= start) & (first < start + len(part_index)))
        out[chosen] = values[first[chosen] - start]
        start += len(part_index)
    return index, out
