"""A worker on Apache Kafka: every row is learned once, through a kill -9 of the worker and through the loss of a broker."""

from __future__ import annotations

import threading

import pytest

from ecdctr.streams.producer import produce
from ecdctr.streams.topics import partition_counts
from tests.support.apache_kafka import ApacheKafka, missing
from tests.support.sites import Site, frame

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

SESSION = "worker.session_timeout_s=6"
"""The least that Apache Kafka accepts by default."""


def check_books(site: Site, rows: int, sent_messages: int) -> None:
    """Every message was learned once, every row was trained, and the journal rebuilds the last checkpoint."""
    ends = site.ends()
    assert sum(ends.values()) == sent_messages
    assert site.books() == (0, 0)
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    trained = rebuilt.engine.progress.rows
    ads = int((frame(rows)["domain"] == "ad").sum())
    assert dict(trained) == {"natural": rows - ads, "ad": ads}


@pytest.mark.parametrize("packed", [0, 50], ids=["json", "arrow"])
def test_rows_are_learned_once_through_kill_9(packed, apache_broker, tmp_path):
    site = Site(tmp_path / "site", apache_broker.address, SESSION)
    topics = site.settings.topics
    try:
        dead_letters = {topics.dead_letter(topic): 1 for topic in topics.domains}
        counts = dict.fromkeys(topics.domains, 2) | dead_letters
        assert partition_counts(site.settings.kafka, list(counts)) == counts

        produce([frame(2_000)], site.settings.kafka, topics, packed=packed)
        half = sum(site.ends().values())
        worker = site.start()
        site.train(half // 2, worker)
        site.kill(worker)

        produce([frame(2_000, first=2_000)], site.settings.kafka, topics, packed=packed)
        worker = site.start()
        sent = sum(site.ends().values())
        site.train(sent, worker)
        assert site.terminate(worker)[0] == 0
        check_books(site, 4_000, sent)
    finally:
        site.end()


def test_rows_are_learned_once_while_a_leader_is_killed(tmp_path):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with ApacheKafka(tmp_path / "kafka", nodes=3) as kafka:
        brokers = f'kafka.brokers="{kafka.address}"'
        site = Site(tmp_path / "site", kafka.addresses(), SESSION, "topics.replication=3", brokers)
        try:
            site.produce(2_000)
            worker = site.start()
            site.train(500, worker)
            leader = kafka.leader(site.settings.topics.ad)
            sending = threading.Thread(
                target=produce,
                args=([frame(4_000, first=2_000)], site.settings.kafka, site.settings.topics),
                kwargs={"rows_per_s": 800},
            )
            sending.start()
            leader.kill()
            sending.join()
            site.train(6_000, worker)
            assert kafka.leader(site.settings.topics.ad).number != leader.number
            kafka.start_node(leader)
            assert site.terminate(worker)[0] == 0
            check_books(site, 6_000, 6_000)
        finally:
            site.end()
