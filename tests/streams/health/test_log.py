"""Each reason is one line in the log when it begins and one when it ends."""

import logging

import pytest

from ecdctr.monitor.dashboard import Change, Reason
from ecdctr.streams.health import log_changes


@pytest.fixture(autouse=True)
def everything(caplog):
    caplog.set_level(logging.DEBUG, "ecdctr.worker")


ELSEWHERE = (Reason.FAILED, Reason.DEAD_LETTERS_WAIT)
"""Logged where they are found."""


@pytest.mark.parametrize(
    "reason", [r for r in Reason if r.rank < Reason.STOPPING.rank and r not in ELSEWHERE]
)
def test_a_reason_that_needs_attention_is_a_warning_with_its_sentence_and_its_end_has_the_time_it_lasted(
    reason, caplog
):
    log_changes([Change(reason, "the particulars", None)])
    assert caplog.messages == [f"the particulars [{reason}]"] and caplog.records[0].levelno == logging.WARNING
    log_changes([Change(reason, reason.sentence, 12.4)])
    assert caplog.messages[1].endswith(f"after 12 s [{reason}]") and caplog.records[1].levelno == logging.INFO


@pytest.mark.parametrize("reason", [Reason.TRAINING, Reason.IDLE, Reason.OTHER_MEMBER])
def test_what_needs_no_attention_is_information(reason, caplog):
    log_changes([Change(reason, reason.sentence, None)])
    assert caplog.records[0].levelno == logging.INFO


@pytest.mark.parametrize("reason", ELSEWHERE)
def test_what_is_logged_where_it_is_found_is_not_logged_a_second_time(reason, caplog):
    log_changes([Change(reason, "the particulars", None), Change(reason, reason.sentence, 5.0)])
    assert all(record.levelno < logging.INFO for record in caplog.records)
