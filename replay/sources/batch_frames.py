"""Decoded rows as frames, to be sorted on disk, and back."""

from __future__ import annotations

import numpy as np
import polars as pl

from ecdctr.events.batch import Batch

__all__ = ["batch_of_frame", "frame_of_batch"]

_PLAIN = ("ts", "domain", "user", "item", "label", "list_id", "oracle")
_NOTE = "note:"


def frame_of_batch(batch: Batch) -> pl.DataFrame:
    """The columns of a batch as a frame; ``features`` and ``dense`` are arrays, notes are numbers or text."""
    columns = {name: getattr(batch, name) for name in _PLAIN if getattr(batch, name) is not None}
    for name in ("features", "dense"):
        values = getattr(batch, name)
        if values.shape[1]:
            columns[name] = np.ascontiguousarray(values)
    notes = {
        _NOTE + name: pl.Series(values.tolist(), dtype=pl.String)
        if values.dtype == object
        else pl.Series(values)
        for name, values in (batch.notes or {}).items()
    }
    return pl.DataFrame(columns).with_columns(**notes)


def batch_of_frame(frame: pl.DataFrame) -> Batch:
    """The batch of which :func:`frame_of_batch` made the frame."""
    columns = {name: frame[name].to_numpy() for name in _PLAIN if name in frame.columns}
    for name, dtype in (("features", np.int32), ("dense", np.float32)):
        found = frame[name].to_numpy() if name in frame.columns else np.zeros((len(frame), 0))
        columns[name] = found.astype(dtype, copy=False)
    notes = {
        name.removeprefix(_NOTE): frame[name].to_numpy() for name in frame.columns if name.startswith(_NOTE)
    }
    return Batch(**columns, notes=notes or None)  # type: ignore[arg-type]
