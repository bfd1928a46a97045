"""``Batch``: optional columns and notes follow the rows."""

from __future__ import annotations

import numpy as np
import pytest

from ecdctr.events.batch import Batch


def batch_of(n, notes=None):
    z = np.zeros(n, np.uint64)
    return Batch(
        np.arange(n), np.zeros(n, np.uint8), z, z, np.zeros((n, 1), np.int32), np.zeros((n, 0), np.float32),
        np.zeros(n, np.float32), notes=notes,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([1, 2]), np.array([False, True, True, False])])
def test_take_applies_to_notes(rows):
    batch = batch_of(4, {"code": np.array([5, 6, 7, 8]), "text": np.array(["a", None, "b", "c"], object)})
    taken = batch.take(rows)
    assert taken.notes["code"].tolist() == [6, 7]
    assert taken.notes["text"].tolist() == [None, "b"]
    assert taken.with_parts(()).notes is taken.notes


def test_concat_joins_notes_in_order():
    both = Batch.concat([batch_of(2, {"code": np.array([1, 2])}), batch_of(1, {"code": np.array([3])})])
    assert both.notes["code"].tolist() == [1, 2, 3]


def test_notes_in_some_of_the_batches_only_are_refused():
    with pytest.raises(KeyError, match="code"):
        Batch.concat([batch_of(2, {"code": np.array([1, 2])}), batch_of(1)])


def test_rows_without_notes_have_none():
    assert batch_of(3).take(slice(0, 2)).notes is None
    assert Batch.concat([batch_of(3), batch_of(1)]).notes is None
