"""``read_keys``: the keys of the join from columns of ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.encode import hash_ids
from ecdctr.events.fields import FrameReader
from ecdctr.state.hashing import mix64

__all__ = ["KEY_FIELDS", "pair_key", "read_keys"]

KEY_FIELDS = (("impression_id",), ("request_id", "item_id"))
"""The fields by which impressions and clicks may be joined."""


def read_keys(
    frame: pl.DataFrame, fields: Sequence[str]
) -> tuple[NDArray[np.uint64], list[tuple[NDArray[np.bool_], str, Callable[[int], str]]]]:
    """The key of each row, and the rows without one, as faults for the decoder.

    Ids are read as those of events: the integer 7 and the text "7" are the same id.

    Parameters
    ----------
    frame
        Rows with the fields as columns.
    fields
        One of :data:`KEY_FIELDS`.

    Examples
    --------
    >>> one, other = pl.DataFrame({"impression_id": [7, 8]}), pl.DataFrame({"impression_id": ["7", None]})
    >>> (keys, _), (others, faults) = read_keys(one, ("impression_id",)), read_keys(other, ("impression_id",))
    >>> bool(keys[0] == others[0]), [(bad.tolist(), detail(1)) for bad, _, detail in faults]
    (True, [([False, True], 'impression_id is null')])
    """
    reader = FrameReader(frame)
    ids = {name: reader.text(name) for name in fields}
    faults = [(bad, reason, _by_row(detail)) for bad, reason, detail in reader.faults]
    for name, column in ids.items():
        absent = column.is_null() & (frame[name].is_null() if name in frame.columns else True)
        faults.append((absent.to_numpy(), "missing", _by_row(f"{name} is null")))
    hashes = hash_ids(ids)
    if len(fields) == 1:
        return hashes[fields[0]], faults
    return pair_key(*(hashes[name] for name in fields)), faults


def _by_row(detail: str | Callable[[int], str]) -> Callable[[int], str]:
    return detail if callable(detail) else lambda _: detail


def pair_key(request: NDArray[np.uint64], item: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The key of impressions that are identified by a request and an item, from the hashes of both ids.

    >>> a, b = np.array([1], np.uint64), np.array([2], np.uint64)
    >>> bool(pair_key(a, b)[0] != pair_key(b, a)[0])
    True
    """
    return mix64(mix64(request) ^ (item + np.uint64(0x9E3779B97F4A7C15)))
