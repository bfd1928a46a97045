"""Events and records of clocks that are far ahead: they move no clock of the worker, and a redo has the same rows."""

from __future__ import annotations

import json
import time

import pytest
from kafka import KafkaProducer

from tests.support.sites import START_MS, frame
from tests.support.waiting import PATIENCE_S

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.brokers("embedded", reason="Apache Kafka 4 refuses records that are far ahead"),
]

YEAR_2099 = 4_070_908_800_000


def send(site, topic, rows):
    """Send events, each with the time of its record (ms)."""
    producer = KafkaProducer(**site.settings.kafka.kafka_python())
    for value, written in rows:
        producer.send(topic, value, partition=0, timestamp_ms=written).get(timeout=PATIENCE_S)
    producer.close()


def test_case_k4_an_event_dated_2099_moves_no_clock_and_is_not_learned_by_a_redo_either(site):
    rows = 800
    event = frame(1).drop("domain").with_columns(event_id=10**6).row(0, named=True)
    far = json.dumps(event | {"ts": YEAR_2099}).encode()
    near = json.dumps(event).encode()
    now = int(time.time() * 1000)
    wrong = [(far, now), (far, YEAR_2099), (near, YEAR_2099)]
    site.produce(frame(rows // 2))
    for kind in ("natural", "ad"):
        send(site, f"{site.name}-{kind}", wrong)
    site.produce(frame(rows // 2, first=rows // 2))
    worker = site.start()
    site.train(rows + 2 * len(wrong), worker)
    site.kill(worker)
    worker = site.start()
    site.wait(lambda: site.log().count("live from step") == 2, "recover", worker)
    site.produce(200, first=rows)
    site.train(rows + 2 * len(wrong) + 200, worker)
    code, _ = site.terminate(worker)
    assert code == 0
    for kind in ("natural", "ad"):
        letters = site.read(f"{site.name}-{kind}.dlq")
        assert [r.value for r in letters] == [far, far, near]
        headers = [dict(letter.headers) for letter in letters]
        assert {h["ecdctr-reason"] for h in headers} == {b"ts"}
        assert all(b"events.max_ahead" in h["ecdctr-detail"] for h in headers)
    steps = [entry for entry in site.entries() if entry.parts]
    assert any("refused" in entry.extra["times"] for entry in steps), "the wall clock decided for some"
    assert max(entry.clock for entry in steps) <= START_MS + 1000 * (rows + 200)
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.trained == rows + 200
    assert site.books() == (0, 0)
