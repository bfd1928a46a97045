"""Reading by offset: a partition that is slow is waited for; only the log's own beginning and end prove a loss."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import (
    KafkaConnectionError,
    LogTruncationError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import KafkaLog, LogState
from ecdctr.events.kafka import log as log_module
from ecdctr.events.settings import FeatureSpec, KafkaSettings
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, OffsetsLostError
from ecdctr.state.positions import LogIdentity, Part

TP = TopicPartition("ad", 0)
KEY = ("ad", 0)


class Client:
    """A consumer of one partition with records at ``offsets``. It returns none in the first ``silent`` polls."""

    def __init__(self, offsets, *, beginning=0, end=None, silent=0.0, errors=()):
        self.offsets, self.first = list(offsets), beginning
        self.last = end if end is not None else max(self.offsets, default=-1) + 1
        self.silent, self.errors = silent, list(errors)
        self.at = 0
        self.seeks: list[int] = []

    def assign(self, tps): ...

    def close(self): ...

    def seek(self, tp, offset):
        self.at = offset
        self.seeks.append(offset)

    def poll(self, timeout_ms=0, max_records=None):
        if self.errors:
            error = self.errors.pop(0)
            if error is not None:
                raise error
        if self.silent > 0:
            self.silent -= 1
            return {}
        found = [o for o in self.offsets if o >= self.at][:3]
        self.at = found[-1] + 1 if found else self.last  # markers and gaps are passed without a record
        return {TP: [_record(o) for o in found]} if found else {}

    def position(self, tp, timeout_ms=None):
        return self.at

    def beginning_offsets(self, tps, timeout_ms=None):
        return dict.fromkeys(tps, self.first)

    def end_offsets(self, tps, timeout_ms=None):
        return dict.fromkeys(tps, self.last)

    def highwater(self, tp):
        return self.last


class Probe(Client):
    """The log's own client, for its beginning and end; it polls without taking records from the reader's client."""

    def poll(self, timeout_ms=0, max_records=None):
        return {}


def _record(offset):
    value = {
        "event_id": offset,
        "ts": 1_700_000_000_000 + offset,
        "user_id": "u",
        "item_id": 1,
        "label": 0,
        "site": "s",
    }
    return SimpleNamespace(offset=offset, value=json.dumps(value).encode(), headers=())


class OldState(Probe):
    """Reports a beginning and an end at its first look that are not true, as a broker does that has just started."""

    def __init__(self, beginning, end):
        super().__init__([], beginning=0, end=9)
        self.first_look = {"beginning": beginning, "end": end}

    def beginning_offsets(self, tps, timeout_ms=None):
        return dict.fromkeys(tps, self.first_look.pop("beginning", self.first))

    def end_offsets(self, tps, timeout_ms=None):
        self.last = self.first_look.pop("end", 9)  # asked for last, and again by the fetch from there
        return super().end_offsets(tps)


def kafka_log(monkeypatch, client: Client, probe: Client | None = None, **options) -> KafkaLog:
    clients = [probe or Probe([], beginning=client.first, end=client.last), client]
    monkeypatch.setattr(KafkaLog, "_client", lambda self, *_: clients.pop(0))
    monkeypatch.setattr(log_module, "CHECK_S", 0.0)
    monkeypatch.setattr(log_module, "SECOND_LOOK_S", 0.01)
    decoder = EventDecoder((FeatureSpec(name="site", buckets=50),))
    return KafkaLog(KafkaSettings(), decoder, {"ad": 1}, timeout_s=5, **options)


def fetched(log: KafkaLog, *ranges: tuple[int, int]) -> list[list[int]]:
    rows = (log.fetch([Part("ad", 0, first, end)]).ts for first, end in ranges)
    return [(ts - 1_700_000_000_000).tolist() for ts in rows]


def test_a_slow_partition_is_waited_for_and_what_is_waited_for_is_logged(monkeypatch, caplog):
    log = kafka_log(monkeypatch, Client(range(9), silent=4))
    with caplog.at_level(logging.WARNING, "ecdctr.kafka"):
        assert fetched(log, (0, 5), (5, 9)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    assert "waiting for records of ad[0] from 0 to 5 for" in caplog.text
    assert "the log holds them" in caplog.text


@pytest.mark.parametrize("read", ["fetch", "raw", "chunks"])
def test_records_that_never_come_are_no_loss_while_the_log_holds_them(monkeypatch, read):
    log = kafka_log(monkeypatch, Client(range(9), silent=float("inf")), stall_s=0.2)
    calls = {
        "fetch": lambda: log.fetch([Part("ad", 0, 0, 5)]),
        "raw": lambda: log.raw(Part("ad", 0, 0, 5)),
        "chunks": lambda: list(log.chunks({TP: 0}, {TP: 5})),
    }
    with pytest.raises(
        BrokerUnavailableError, match=r"no record of ad\[0\] from 0 to 5 has arrived .*the log holds them"
    ):
        calls[read]()


@pytest.mark.parametrize("held", [{"beginning": 3}, {"end": 4}], ids=["deleted", "short"])
@pytest.mark.parametrize("read", ["fetch", "raw", "chunks"])
def test_a_log_that_does_not_hold_them_proves_the_loss(monkeypatch, held, read):
    log = kafka_log(monkeypatch, Client(range(9), silent=float("inf"), **held), stall_s=60)
    calls = {
        "fetch": lambda: log.fetch([Part("ad", 0, 0, 5)]),
        "raw": lambda: log.raw(Part("ad", 0, 0, 5)),
        "chunks": lambda: list(log.chunks({TP: 0}, {TP: 5})),
    }
    with pytest.raises(OffsetsLostError, match='topic "ad" partition 0 no longer holds offsets 0 to 5'):
        calls[read]()


def all_offsets(log: KafkaLog, read: str) -> list[int]:
    """The offsets 2 to 9, as each method that reads returns them."""
    if read == "raw":
        return [record.offset for record in log.raw(Part("ad", 0, 2, 9))]
    if read == "fetch":
        return fetched(log, (2, 9))[0]
    return [int(o) for chunk in log.chunks({TP: 2}, {TP: 9}) for o in chunk.offset]


@pytest.mark.parametrize("read", ["fetch", "raw", "chunks"])
@pytest.mark.parametrize(
    "old", [{"beginning": 5, "end": 9}, {"beginning": 0, "end": 3}], ids=["begins", "ends"]
)
def test_one_look_does_not_decide_that_records_are_lost(monkeypatch, old, read):
    client = Client(range(9), errors=[OffsetOutOfRangeError({TP: 2})])
    assert all_offsets(kafka_log(monkeypatch, client, OldState(**old)), read) == list(range(2, 9))


@pytest.mark.parametrize("error", [OffsetOutOfRangeError({TP: 2}), KafkaConnectionError("closed")])
@pytest.mark.parametrize("read", ["fetch", "raw", "chunks"])
def test_an_error_that_passes_ends_no_reading(monkeypatch, read, error):
    client = Client(range(9), errors=[error, None, error])
    assert all_offsets(kafka_log(monkeypatch, client), read) == list(range(2, 9))


def test_the_state_that_decides_on_a_loss_is_that_of_a_second_look(monkeypatch):
    log = kafka_log(monkeypatch, Client(range(9)))
    short, whole = LogState({KEY: 0}, {KEY: 5}), LogState({KEY: 0}, {KEY: 9})
    for looks, decides, expected in [
        ([whole], whole, 1),
        ([short, whole], whole, 2),
        ([short, short], short, 2),
    ]:
        states = list(looks)
        monkeypatch.setattr(log, "state", lambda _, states=states: states.pop(0))
        assert log.confirmed_state(LogIdentity(), {KEY: 8}, {KEY: 8}) is decides
        assert len(looks) - len(states) == expected


def test_a_wait_can_be_stopped(monkeypatch):
    class StoppedError(Exception):
        pass

    def stop():
        raise StoppedError

    log = kafka_log(monkeypatch, Client(range(9), silent=float("inf")), stall_s=float("inf"), on_wait=stop)
    with pytest.raises(StoppedError):
        log.fetch([Part("ad", 0, 0, 5)])
    with pytest.raises(StoppedError):
        list(log.chunks({TP: 0}, {TP: 5}))


def test_a_leader_that_does_not_know_the_offset_yet_is_asked_again(monkeypatch):
    client = Client(range(9), errors=[OffsetOutOfRangeError({TP: 2})])
    log = kafka_log(monkeypatch, client)
    assert fetched(log, (2, 5)) == [[2, 3, 4]]
    assert client.seeks == [2, 2]


def test_a_read_that_fails_is_made_again_while_the_log_holds_the_records(monkeypatch, caplog):
    client = Client(range(9), errors=[KafkaConnectionError("closed"), None, KafkaConnectionError("closed")])
    log = kafka_log(monkeypatch, client)
    with caplog.at_level(logging.WARNING, "ecdctr.kafka"):
        assert fetched(log, (2, 7)) == [[2, 3, 4, 5, 6]]
    assert "the log holds them, but reading ad[0] failed: KafkaConnectionError" in caplog.text
    log = kafka_log(monkeypatch, Client(range(9), errors=[KafkaConnectionError("closed")] * 9), stall_s=0.0)
    with pytest.raises(BrokerUnavailableError, match="no record of ad"):
        log.raw(Part("ad", 0, 2, 7))


def test_an_offset_out_of_range_that_the_log_does_not_hold_is_lost(monkeypatch):
    log = kafka_log(monkeypatch, Client(range(9), beginning=4, errors=[OffsetOutOfRangeError({TP: 2})]))
    with pytest.raises(OffsetsLostError, match="it holds 4 to 9"):
        log.fetch([Part("ad", 0, 2, 5)])


def test_a_cut_that_the_client_finds_is_lost_offsets_and_a_missing_right_is_named(monkeypatch):
    log = kafka_log(monkeypatch, Client(range(9), errors=[LogTruncationError({TP: None})]))
    with pytest.raises(OffsetsLostError, match="was cut before offset 2 while it was read"):
        log.fetch([Part("ad", 0, 2, 5)])
    log = kafka_log(monkeypatch, Client(range(9), errors=[TopicAuthorizationFailedError({"ad"})]))
    with pytest.raises(BrokerRefusedError, match='does not have the right Read on topic "ad": grant it'):
        log.fetch([Part("ad", 0, 2, 5)])


def test_offsets_without_a_record_are_counted_and_are_no_reason_to_wait(monkeypatch):
    log = kafka_log(monkeypatch, Client([0, 1, 4, 5, 6, 11], end=14), stall_s=0.0)
    gaps = []
    for first, end, rows in [(0, 4, [0, 1]), (4, 6, [4, 5]), (6, 12, [6, 11]), (12, 14, [])]:
        assert fetched(log, (first, end)) == [rows]
        gaps.append(log.gaps)
    assert gaps == [2, 0, 4, 2]
