"""A message that ends its reader is a reject; the messages beside it are decoded, and no process is needed for it a second time."""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy as np
import polars as pl
import pytest

from ecdctr.events.batch import COLUMNS
from ecdctr.events.decoder import EventDecoder, to_arrow_message
from ecdctr.events.isolation import DecodingProcess, guard_packed
from ecdctr.events.isolation import process as process_module
from ecdctr.events.records import decode_values
from ecdctr.events.settings import FeatureSpec
from ecdctr.state.errors import StreamError

SPECS = [FeatureSpec(name="site"), FeatureSpec(name="tags", kind="bag", max_length=3)]

# The real program, in which reading certain messages does what a fault of the native reader does.
FAULTY = """
import ctypes, os, sys, time
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.isolation.serve import serve
read = EventDecoder.from_packed
def faulty(self, values, domain):
    for value in values:
        if value and b"segfault" in value:
            open(sys.argv[1], "a").write("x")
            ctypes.string_at(0)
        if value and b"hang" in value:
            time.sleep(600)
        if value and b"allocate" in value:
            bytearray(1 << 40)
            os.abort()
    return read(self, values, domain)
EventDecoder.from_packed = faulty
serve()
"""


def message(*sites: str) -> bytes:
    n = len(sites)
    return to_arrow_message(
        pl.DataFrame(
            {
                "event_id": range(n), "ts": [1_767_225_600_000] * n, "user_id": range(n), "item_id": range(n),
                "label": [1] * n, "site": sites, "tags": [["a"]] * n,
            }
        )
    )  # fmt: skip


def same(one, other) -> None:
    for name in COLUMNS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes()


@pytest.fixture
def decoder():
    return EventDecoder(SPECS)


@pytest.fixture
def faulty(decoder, tmp_path):
    """A decoding process, and a function that counts how often the fault occurred."""
    crashes = tmp_path / "crashes"
    made = DecodingProcess(decoder, (sys.executable, "-P", "-c", FAULTY, str(crashes)))
    yield made, lambda: len(crashes.read_text()) if crashes.exists() else 0
    made.close()


@pytest.mark.slow
def test_case_s2_a_message_that_ends_its_reader_is_a_reject_and_the_others_are_decoded(decoder, faulty):
    process, crashes = faulty
    good = [message("a", "b"), message("c"), message("d")]
    values = [good[0], message("segfault", "x", "y"), good[1], b"{", good[2]]
    packed = [True, True, True, False, True]
    decoded = process.decode(values, packed, 1)
    assert [(r.index, r.reason, r.row, r.rows) for r in decoded.rejects] == [
        (1, "crash", -1, 3),
        (3, "json", -1, 1),
    ]
    assert decoded.index.tolist() == [0, 0, 2, 4]
    same(decoded.batch, decoder.from_packed(good, 1).batch)
    assert crashes() == 2 + process_module.TRIES, "together, again, and alone"
    # The same message again, as after a rebuilt connection, ends no further process.
    again = process.decode(values, packed, 1)
    same(again.batch, decoded.batch)
    assert again.rejects == decoded.rejects
    assert crashes() == 2 + process_module.TRIES


@pytest.mark.slow
def test_a_message_over_which_the_process_hangs_or_runs_out_of_memory_is_a_reject(faulty, monkeypatch):
    process, _ = faulty
    process.decode([message("a")], [True], 0)
    monkeypatch.setattr(process_module, "TRIES", 1)
    monkeypatch.setattr(process_module, "LIMIT_S", 1.0)
    decoded = process.decode([message("hang")], [True], 0)
    monkeypatch.setattr(process_module, "LIMIT_S", 60.0)
    assert [r.reason for r in decoded.rejects] == ["crash"]
    decoded = process.decode([message("a"), message("allocate")], [True, True], 0)
    assert [r.reason for r in decoded.rejects] == ["crash"]
    assert decoded.index.tolist() == [0]


def test_a_process_that_was_killed_from_outside_costs_nothing(decoder):
    process = DecodingProcess(decoder)
    try:
        expected = decoder.from_packed([message("a", "b")], 0)
        for _ in range(2):
            found = process.decode([message("a", "b")], [True], 0)
            same(found.batch, expected.batch)
            assert not found.rejects
            os.kill(process.pid, signal.SIGKILL)
    finally:
        process.close()


def test_a_process_that_cannot_start_is_an_error_and_refuses_no_message(decoder):
    process = DecodingProcess(decoder, (sys.executable, "-c", "raise SystemExit(7)"))
    with pytest.raises(StreamError, match="3 decoding processes ended at their start, the last with code 7"):
        process.decode([message("a")], [True], 0)


@pytest.mark.slow
def test_closing_ends_a_request_that_hangs(faulty):
    process, _ = faulty
    process.decode([message("a")], [True], 0)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            process.decode([message("hang")], [True], 0)
        except StreamError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    process.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_a_guarded_decoder_gives_what_an_unguarded_one_gives_notes_included(decoder):
    guarded = guard_packed(EventDecoder(SPECS))
    decoder.text_notes = guarded.text_notes = ("site", "user_id")
    values = [message("a", "b"), b'{"event_id": 1}', b"broken", message("c"), None]
    packed = [True, False, True, True, True]
    one, other = (decode_values(d, values, packed, 1) for d in (decoder, guarded))
    same(one.batch, other.batch)
    assert one.rejects == other.rejects
    for name in ("text:site", "text:user_id"):
        np.testing.assert_array_equal(one.batch.notes[name], other.batch.notes[name])
