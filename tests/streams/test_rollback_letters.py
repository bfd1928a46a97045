"""Letters of steps that were rolled back: their records are read again from the log, whatever their headers hold."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ecdctr.events.decoder import ARROW_CONTENT_TYPE, EventDecoder, to_arrow_message
from ecdctr.events.records import decode_records
from ecdctr.state.errors import BrokerRefusedError, OffsetsLostError
from ecdctr.state.positions import Part
from ecdctr.streams.dead_letters import MemoryDeadLetters
from ecdctr.streams.retry import StopRequestedError
from ecdctr.streams.rollback_letters import RollbackLetters
from tests.support.intakes import SPECS, event
from tests.support.waiting import PATIENCE_S, allowance

RECORDS = [
    SimpleNamespace(offset=3, value=event(1), key=None, headers=(("trace", None),)),
    SimpleNamespace(offset=4, value=b"broken", key=None, headers=()),
    SimpleNamespace(offset=5, value=event(2), key=b"k", headers=(("", b"\xff"),)),
]
_PART = Part("ads", 0, 3, 6)
BATCH = decode_records(EventDecoder(SPECS), "ads", 0, 3, RECORDS, 1)[0].batch.with_parts([_PART])
BOTH = np.array([0, 1])
"""Positions of the rows of :data:`BATCH`."""


class Log:
    """Has the records of :data:`BATCH`."""

    def __init__(self, records=RECORDS):
        self.records = records

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def raw(self, part):
        assert (part.first, part.end) == (3, 6)
        return self.records


def rollback(stop_requested=lambda: False):
    return RollbackLetters(lambda _: Log(), EventDecoder(SPECS), {"ads": 1}, stop_requested)


def test_case_s1_letters_of_a_rolled_back_step_keep_null_headers():
    sink = MemoryDeadLetters()
    letters = rollback()
    letters.add(BATCH, BOTH, "loss is nan")  # during recovery: there is no loop yet

    async def main():
        await letters.start(sink)
        await asyncio.to_thread(letters.add, BATCH, BOTH, "loss is nan")

    asyncio.run(main())
    assert letters.waiting == 0
    assert [(x.offset, x.reason, x.headers) for x in sink.letters] == [
        (3, "loss", (("trace", None),)),
        (5, "loss", (("", b"\xff"),)),
    ]


@pytest.mark.parametrize("during_recovery", [True, False])
def test_a_stop_does_not_wait_for_a_topic_that_takes_no_letters(during_recovery):
    stop, sending = threading.Event(), threading.Event()

    class Waiting(MemoryDeadLetters):
        async def send(self, letters):
            sending.set()
            await asyncio.sleep(PATIENCE_S)

    letters = rollback(stop.is_set)

    async def main():
        if during_recovery:
            letters.add(BATCH, BOTH, "loss is nan")
            work = asyncio.ensure_future(letters.start(Waiting()))
        else:
            await letters.start(Waiting())
            work = asyncio.ensure_future(asyncio.to_thread(letters.add, BATCH, BOTH, "loss is nan"))
        await asyncio.to_thread(sending.wait, PATIENCE_S)
        began = time.monotonic()
        stop.set()
        with pytest.raises(StopRequestedError):
            await work
        assert letters.waiting == 1, "no checkpoint may follow the step"
        return time.monotonic() - began

    assert asyncio.run(main()) < allowance(5)


def test_a_broker_that_refuses_to_show_the_records_for_a_while_does_not_end_training():
    refusals = [BrokerRefusedError("the right Read on topic ads is missing")] * 2

    def connect(_):
        if refusals:
            raise refusals.pop()
        return Log()

    letters = RollbackLetters(connect, EventDecoder(SPECS), {"ads": 1}, lambda: False)
    sink = MemoryDeadLetters()

    async def main():
        await letters.start(sink)
        await asyncio.to_thread(letters.add, BATCH, BOTH, "loss is nan")

    asyncio.run(main())
    assert [x.offset for x in sink.letters] == [3, 5]


class Deleted(Log):
    """Has deleted the records before :attr:`begins`, and compaction has removed others."""

    begins = 0
    removed = ()

    def raw(self, part):
        if part.first < self.begins:
            raise OffsetsLostError(f"no longer holds offsets {part.first} to {part.end}")
        return [r for r in RECORDS if part.first <= r.offset < part.end and r.offset not in self.removed]

    def beginning(self, keys):
        return dict.fromkeys(keys, self.begins)

    def written(self, keys):
        return dict.fromkeys(keys, 10)


@pytest.mark.parametrize(
    ("begins", "removed", "expected"),
    [
        (0, (), [(3, event(1)), (5, event(2))]),
        (4, (), [(5, event(2)), (3, None)]),
        (6, (), [(3, None), (4, None), (5, None)]),  # which of them had a row is not known
        (20, (), [(3, None), (4, None), (5, None)]),
        (0, (5,), [(3, event(1)), (5, None)]),
        (0, (4,), [(3, event(1)), (5, event(2))]),  # it had no row: nothing is missing
    ],
)
def test_records_that_the_log_has_deleted_get_letters_without_contents(begins, removed, expected, caplog):
    log = Deleted()
    log.begins, log.removed = begins, removed
    letters = RollbackLetters(lambda _: log, EventDecoder(SPECS), {"ads": 1}, lambda: False)
    sink = MemoryDeadLetters()

    async def main():
        await letters.start(sink)
        await asyncio.to_thread(letters.add, BATCH, BOTH, "loss is nan")

    asyncio.run(main())
    assert letters.waiting == 0
    assert [(x.offset, x.value) for x in sink.letters] == expected
    for letter in sink.letters:
        assert letter.reason == "loss" and letter.detail.startswith("loss is nan")
        assert ("no longer holds the record" in letter.detail) == (letter.value is None)
    assert ("no longer in the log" in caplog.text) == any(value is None for _, value in expected)


@pytest.mark.parametrize(("rows", "offsets"), [([0], [3]), ([1], [5]), ([0, 1], [3, 5])])
def test_case_s5_only_the_records_of_lost_rows_become_letters(rows, offsets):
    sink = MemoryDeadLetters()
    letters = rollback()

    async def main():
        await letters.start(sink)
        await asyncio.to_thread(letters.add, BATCH, np.array(rows), "loss is nan")

    asyncio.run(main())
    assert [x.offset for x in sink.letters] == offsets


def test_case_s5_a_letter_names_the_lost_rows_of_a_packed_message():
    packed = (("content-type", ARROW_CONTENT_TYPE),)
    frame = pl.DataFrame([json.loads(event(i)) for i in range(6)])
    frame = frame.with_columns(label=pl.Series([0, 3, 0, 1, 3, 1]))  # rows 1 and 4 are rejected
    records = [
        SimpleNamespace(offset=3, value=event(9), key=None, headers=()),
        SimpleNamespace(offset=4, value=to_arrow_message(frame), key=None, headers=packed),
        SimpleNamespace(offset=5, value=event(8), key=None, headers=()),
    ]
    sink = MemoryDeadLetters()
    letters = RollbackLetters(lambda _: Log(records), EventDecoder(SPECS), {"ads": 1}, lambda: False)

    async def main():
        await letters.start(sink)
        # Rows of the batch: offset 3; 0, 2, 3, 5 of the message; offset 5.
        batch = decode_records(EventDecoder(SPECS), "ads", 0, 3, records, 1)[0].batch.with_parts([_PART])
        await asyncio.to_thread(letters.add, batch, np.array([2, 4, 5]), "loss is nan")

    asyncio.run(main())
    assert [(x.offset, x.rows, x.events) for x in sink.letters] == [(4, (2, 5), 2), (5, (), 1)]


@pytest.mark.parametrize(("lost", "expected"), [(0, [(3, None)]), (1, [(5, event(2))])])
def test_case_s5_lost_rows_are_recognised_when_the_log_has_deleted_those_beside_them(lost, expected):
    log = Deleted()
    log.begins = 4
    letters = RollbackLetters(lambda _: log, EventDecoder(SPECS), {"ads": 1}, lambda: False)
    sink = MemoryDeadLetters()

    async def main():
        await letters.start(sink)
        await asyncio.to_thread(letters.add, BATCH, np.array([lost]), "loss is nan")

    asyncio.run(main())
    assert [(x.offset, x.value) for x in sink.letters] == expected
