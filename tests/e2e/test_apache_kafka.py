"""A worker on Apache Kafka: every row is learned once, through a kill -9 of the worker, the loss of a broker and of a right."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from ecdctr.streams.producer import produce
from ecdctr.streams.topics import partition_counts
from tests.support.apache_kafka import ApacheKafka, Listener, missing
from tests.support.certificates import Authority
from tests.support.committed import committed
from tests.support.sites import Site, frame
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]


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
    site = Site(tmp_path / "site", apache_broker.address)
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
        site = Site(tmp_path / "site", kafka.addresses(), "topics.replication=3", brokers)
        try:
            site.produce(2_000)
            worker = site.start()
            site.train(500, worker)
            leader = kafka.leader(site.settings.topics.ad)
            flowing = threading.Event()

            def frames() -> Iterator[pl.DataFrame]:
                yield frame(400, first=2_000)
                flowing.set()
                yield frame(3_600, first=2_400)

            sending = threading.Thread(
                target=produce,
                args=(frames(), site.settings.kafka, site.settings.topics),
                kwargs={"rows_per_s": 800},
            )
            sending.start()
            assert flowing.wait(PATIENCE_S), "the producer sent nothing"
            leader.kill()
            sending.join()
            site.train(6_000, worker)
            assert kafka.leader(site.settings.topics.ad).number != leader.number
            kafka.start_node(leader)
            assert site.terminate(worker)[0] == 0
            check_books(site, 6_000, 6_000)
        finally:
            site.end()


class SecuredSite(Site):
    """Topics on a cluster with TLS, SCRAM and ACLs, and a worker whose user has the least rights that it needs."""

    USER, PASSWORD = "trainer", "trainer-secret"

    def __init__(self, folder: Path, kafka: ApacheKafka, authority: Authority) -> None:
        self.kafka = kafka
        self.password_file = folder / "password"
        folder.mkdir()
        self.password_file.write_text(self.PASSWORD, encoding="utf-8")
        super().__init__(
            folder, kafka.addresses("SECURE"), "kafka.security=sasl_ssl", f"kafka.username={self.USER}",
            f'kafka.password_file="{self.password_file}"', f'kafka.ca_file="{authority.cert}"',
            'monitor.alerts_topic=""',
        )  # fmt: skip

    def make_topics(self) -> None:
        self.kafka.add_scram_user(self.USER, self.PASSWORD)
        for topic in self.settings.topics.domains:
            self.kafka.create_topic(topic, 2)
            self.kafka.allow(self.USER, "READ", "TOPIC", topic)
            dead_letters = self.settings.topics.dead_letter(topic)
            self.kafka.create_topic(dead_letters)
            self.kafka.allow(self.USER, "READ", "TOPIC", dead_letters)
            self.kafka.allow(self.USER, "WRITE", "TOPIC", dead_letters)
        self.kafka.allow(self.USER, "READ", "GROUP", self.settings.worker.group)

    def produce(self, rows: int, first: int = 0) -> None:  # type: ignore[override]
        """As the super user: the worker may not write to the click topics."""
        produce([frame(rows, first)], self.kafka.connection(), self.settings.topics)


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder / "tls")
    listener = Listener("SECURE", "SASL_SSL", authority.issue("server"), mechanisms=("SCRAM-SHA-512",))
    with ApacheKafka(folder, listeners=[listener], acls=True) as kafka:
        yield kafka, authority


def test_the_least_rights_are_enough_and_one_that_is_withdrawn_is_named(secured, tmp_path):
    site = SecuredSite(tmp_path / "site", *secured)
    ad = site.settings.topics.ad
    try:
        site.produce(1_000)
        worker = site.start()
        site.train(1_000, worker)
        site.kafka.withdraw(site.USER, "READ", "TOPIC", ad)
        site.produce(1_000, first=1_000)
        # For some seconds, so that the consumer is built again without the right.
        site.wait(site.says("the brokers have refused requests for"), "report the refusal", worker)
        assert f'does not show topic "{ad}" to the user "trainer"' in site.log()
        site.kafka.allow(site.USER, "READ", "TOPIC", ad)
        site.train(2_000, worker)
        assert site.terminate(worker)[0] == 0
        check_books(site, 2_000, 2_000)
    finally:
        site.end()


def test_case_a3_a_missing_right_on_the_group_is_named_and_takes_nothing_from_training(secured, tmp_path):
    site = SecuredSite(tmp_path / "site", *secured)
    group = site.settings.worker.group
    try:
        site.kafka.withdraw(site.USER, "READ", "GROUP", group)
        site.produce(2_000)
        worker = site.start()
        site.train(2_000, worker)
        site.wait(
            site.says(f'the right Read on group "{group}" is missing'), "name the missing right", worker
        )
        site.kafka.allow(site.USER, "READ", "GROUP", group)
        site.produce(2_000, first=2_000)
        site.train(4_000, worker)
        site.wait(site.says(f'offsets are committed to group "{group}" again'), "commit", worker)
        assert site.terminate(worker)[0] == 0
        assert site.log().count("the right Read on group") == 1
        assert committed(site, site.kafka.connection()) == site.at_checkpoint()
        check_books(site, 4_000, 4_000)
    finally:
        site.end()


def test_a_wrong_password_ends_the_worker_at_once_with_the_reason(secured, tmp_path):
    site = SecuredSite(tmp_path / "site", *secured)
    try:
        site.password_file.write_text("not-the-secret", encoding="utf-8")
        worker = site.start()
        site.wait(lambda: worker.poll() is not None, "end")
        assert worker.returncode == 5
        assert 'refuses the user kafka.username = "trainer" with SCRAM-SHA-512' in site.log()
        assert str(site.password_file) in site.log()
        assert "trying again" not in site.log(), "waiting does not mend a password"
        assert "Traceback" not in site.log() and "secret" not in site.log()
    finally:
        site.end()
