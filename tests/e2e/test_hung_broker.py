"""One of three brokers hangs: its connections stay open, and it does not answer."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError

from tests.support.apache_kafka import ApacheKafka, missing
from tests.support.sites import Site, frame
from tests.support.transactions import messages
from tests.support.waiting import allowance

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

HANGS_S = float(os.environ.get("HANGS_S", "40"))
"""``HANGS_S=120 pytest tests/e2e/test_hung_broker.py``: a longer fault."""
AT_MOST_S = 45.0
"""Promised: the longest time without a step."""


class ClusterSite(Site):
    """A site on three nodes; its topics are known to all of them before anything uses them."""

    def __init__(self, folder: Path, kafka: ApacheKafka) -> None:
        self.kafka = kafka
        super().__init__(folder, kafka.addresses(), f'kafka.brokers="{kafka.address}"')

    def make_topics(self) -> None:
        for topic in self.settings.topics.domains:
            self.kafka.create_topic(topic, 2)
            self.kafka.create_topic(self.settings.topics.dead_letter(topic))


def test_case_a2_a_broker_that_hangs_costs_less_than_a_minute_and_no_row(tmp_path):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with ApacheKafka(tmp_path / "kafka", nodes=3) as kafka:
        site = ClusterSite(tmp_path / "site", kafka)
        topics = site.settings.topics
        try:
            site.produce(1_000)
            worker = site.start()
            site.train(1_000, worker)
            hung = kafka.leader(topics.natural)
            ended = threading.Event()
            senders = [
                threading.Thread(target=_send, args=(site, topic, domain, p, ended), daemon=True)
                for topic, domain in ((topics.natural, "natural"), (topics.ad, "ad"))
                for p in range(2)
            ]
            for sender in senders:
                sender.start()
            hung.suspend()
            longest = _longest_without_a_step(site, worker, HANGS_S)
            hung.resume()
            kafka.wait_ready()
            ended.set()
            for sender in senders:
                sender.join(allowance(120))
            assert not any(sender.is_alive() for sender in senders)
            assert min(site.ends().values()) > 0, "every partition was written to"
            site.wait(lambda: site.learned() == sum(site.ends().values()), "learn all", worker)
            assert longest < allowance(AT_MOST_S), f"{longest:.1f} s without a step"
            assert worker.poll() is None and "Traceback" not in site.log()
            assert site.terminate(worker)[0] == 0
            assert site.books() == (0, 0)
            rebuilt = site.rebuild()
            assert rebuilt.identical, rebuilt.verdict
        finally:
            for node in kafka.nodes:
                if node.running:
                    node.resume()
            site.end()


def _send(site: Site, topic: str, domain: str, partition: int, ended: threading.Event) -> None:
    """Events of one domain to one partition, in event time with the other senders, until told to end.

    Each partition has a producer of its own: one for all would wait for the broker that hangs.
    """
    producer = KafkaProducer(**site.settings.kafka.kafka_python(), request_timeout_ms=10_000)
    first = 1_000
    while not ended.is_set():
        rows = frame(80, first)
        for value in messages(rows.filter(rows["domain"] == domain)):
            producer.send(topic, value, partition=partition)
        with contextlib.suppress(KafkaError):
            producer.flush(timeout=60)
        first += 80
        ended.wait(0.2)
    producer.close()


def _longest_without_a_step(site: Site, worker, seconds: float) -> float:
    """Watch for this long, and then until the next step."""
    began = last = time.monotonic()
    longest, steps = 0.0, len(site.entries())
    while True:
        time.sleep(0.2)
        now, found = time.monotonic(), len(site.entries())
        assert worker.poll() is None, site.log()
        longest = max(longest, now - last)
        if found > steps:
            steps, last = found, now
        if now - began > seconds and (last > began + seconds or now - last > 2 * AT_MOST_S):
            return longest
