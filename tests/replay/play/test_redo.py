"""A journaled step is repeated only with all of its rows."""

import numpy as np
import pytest

from ecdctr.replay.play import redo
from ecdctr.state.errors import DataError, RowsLostError
from ecdctr.state.journals import JournalEntry
from ecdctr.state.positions import Part


class Log:
    """Rows at these offsets; a record without a row is a dead letter."""

    def __init__(self, rows, records=None):
        self.rows, self.records, self.gaps = set(rows), set(rows if records is None else records), 0

    def fetch(self, parts, decisions=None):
        offsets = [o for p in parts for o in range(p.first, p.end)]
        self.gaps = sum(o not in self.records for o in offsets)
        return np.array([o for o in offsets if o in self.rows])


class Engine:
    def __init__(self):
        self.learned = []

    def redo(self, entry, batch):
        self.learned.append((entry.step, None if batch is None else batch.tolist()))


def step(number: int, first: int, end: int, rows: int | None) -> JournalEntry:
    return JournalEntry(number, "ad", (Part("ads", 0, first, end),), 0, {}, rows)


def test_a_step_with_all_of_its_rows_is_repeated_whatever_lies_between_them():
    engine = Engine()
    entries = [step(0, 0, 5, 3), JournalEntry(1, "release"), step(2, 5, 9, None)]
    done = redo(engine, Log([0, 2, 4, 5], records=[0, 1, 2, 4, 5]), iter(entries))
    assert engine.learned == [(0, [0, 2, 4]), (1, None), (2, [5])], "an old journal has no number of rows"
    assert (done.steps, done.rows) == (3, 4)


def test_a_step_that_lost_rows_to_compaction_is_refused_and_the_steps_before_it_are_repeated():
    engine = Engine()
    with pytest.raises(
        RowsLostError,
        match=r"journal step 1 learned 4 rows from offsets ads\[0\] 5 to 9, and the log now has 1 rows there: 3 of these offsets have no "
        r"record any more \(compaction\)",
    ):
        redo(engine, Log([0, 1, 2, 3, 4, 7]), iter([step(0, 0, 5, 5), step(1, 5, 9, 4)]))
    assert engine.learned == [(0, [0, 1, 2, 3, 4])]


@pytest.mark.parametrize(("rows", "recorded"), [(range(5), 4), ([0, 1], 5)], ids=["more", "fewer"])
def test_records_that_are_decoded_differently_do_not_accuse_the_log(rows, recorded):
    with pytest.raises(DataError, match="the messages are decoded differently") as error:
        redo(Engine(), Log(rows, records=range(5)), iter([step(0, 0, 5, recorded)]))
    assert "no record is missing" in str(error.value)
