"""What a worker reports as its health on Apache Kafka, while brokers, rights, passwords, leaders and topics are taken away."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer

from ecdctr.streams.embedded import free_port
from ecdctr.streams.producer import produce
from tests.support.apache_kafka import ApacheKafka, Listener, missing
from tests.support.sites import Site, frame
from tests.support.waiting import PATIENCE_S, allowance, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

USER, PASSWORD = "trainer", "trainer-secret"
LISTENER = "SECURE"
REAUTHENTICATE_MS = "4000"
"""The brokers close a connection that has not authenticated again for this long, as they do where sessions are limited."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory) -> Iterator[ApacheKafka]:
    """Three nodes; users of one listener may do only what is granted, and authenticate again every few seconds."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    listener = Listener(LISTENER, "SASL_PLAINTEXT", mechanisms=("SCRAM-SHA-512",))
    limit = {f"listener.name.{LISTENER.lower()}.scram-sha-512.connections.max.reauth.ms": REAUTHENTICATE_MS}
    with ApacheKafka(
        tmp_path_factory.mktemp("health"), nodes=3, listeners=[listener], acls=True, properties=limit
    ) as running:
        yield running


@dataclass(frozen=True)
class Answer:
    """One response of ``/healthz``; status 0: no response."""

    at: float
    code: int
    body: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return [found["name"] for found in self.body.get("reasons", ())]

    @property
    def claims_to_be_done(self) -> bool:
        return self.body.get("status") == "ok" and self.body.get("lag_records") == 0


class Observed:
    """A worker on topics without replicas, and a thread that asks for its health several times per second."""

    def __init__(self, site: Site, port: int) -> None:
        self.site, self.port = site, port
        self.answers: list[Answer] = []
        self.worker = site.start()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._ended.wait(0.2):
            self.answers.append(self.ask())

    def ask(self, path: str = "/healthz") -> Answer:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return Answer(time.monotonic(), answer.status, json.load(answer))
        except urllib.error.HTTPError as answer:
            with answer:
                return Answer(time.monotonic(), answer.code, json.load(answer))
        except OSError:
            return Answer(time.monotonic(), 0, {})

    def until(
        self, status: str, what: str, condition: Callable[[Answer], bool] = lambda answer: True
    ) -> Answer:
        """Wait until ``/healthz`` has this status, and return the response."""

        def found() -> Answer | None:
            answer = self.ask()
            return answer if answer.body.get("status") == status and condition(answer) else None

        return wait_for(
            found,
            f"{what}; last: {self.ask().body}",
            alive=self.site._alive(self.worker),
            detail=self.site.log,
        )

    def until_named(self, name: str, what: str) -> Answer:
        """Wait until a reason is among those that hold."""

        def found() -> Answer | None:
            answer = self.ask()
            return answer if name in answer.names else None

        return wait_for(found, what, alive=self.site._alive(self.worker), detail=self.site.log)

    def until_done(self, rows: int) -> Answer:
        """Wait until all is learned and the worker says so."""
        self.site.train(rows, self.worker)
        return self.until("ok", "report that nothing waits", lambda answer: answer.body["lag_records"] == 0)

    def since(self, at: float) -> list[Answer]:
        """The responses after a time."""
        return [answer for answer in self.answers if answer.at > at and answer.code]

    def metric(self, reason: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        [line] = [row for row in text.splitlines() if row.startswith(f'ecdctr_health{{reason="{reason}"}}')]
        return float(line.rpartition(" ")[2])

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self.site.end()


@contextmanager
def kafka_producer(kafka: ApacheKafka) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=kafka.address.split(","))
    try:
        yield producer
        producer.flush()
    finally:
        producer.close()


class HealthSite(Site):
    """Topics whose partitions have one replica each, spread over the nodes."""

    def __init__(
        self, folder: Path, kafka: ApacheKafka, *overrides: str, listener: str = "PLAINTEXT"
    ) -> None:
        self.kafka = kafka
        self.port = free_port()
        addresses = kafka.addresses(listener)
        super().__init__(
            folder, addresses, f'kafka.brokers="{addresses}"', f"monitor.port={self.port}",
            'monitor.alerts_topic=""', *overrides,
        )  # fmt: skip

    def produce(self, rows: int, first: int = 0) -> None:  # type: ignore[override]
        """As the super user."""
        produce([frame(rows, first)], self.kafka.connection(), self.settings.topics)


def observe(site: HealthSite) -> Observed:
    """A worker that has learned some rows."""
    site.sent = 0
    worker = Observed(site, site.port)
    more(worker)
    return worker


def more(worker: Observed, rows: int = 400) -> None:
    """Send further rows, and wait until they are learned and nothing waits."""
    send(worker, rows)
    worker.until_done(worker.site.sent)


def send(worker: Observed, rows: int = 400) -> None:
    worker.site.produce(rows, first=worker.site.sent)
    worker.site.sent += rows


# -- one worker on brokers that are taken away, with topics that have no replicas; the last test deletes one of them


@pytest.fixture(scope="module")
def plain(kafka, tmp_path_factory) -> Iterator[Observed]:
    worker = observe(HealthSite(tmp_path_factory.mktemp("plain") / "site", kafka))
    yield worker
    worker.end()


@pytest.fixture
def worker(kafka, plain) -> Iterator[Observed]:
    """The worker; brokers that a test took away are there again after it."""
    yield plain
    for node in kafka.nodes:
        if not node.running:
            kafka.start_node(node)
        node.resume()


def test_case_a2_a_hung_broker_is_told_within_seconds_and_its_lag_is_never_said_to_be_zero(kafka, worker):
    node = kafka.leader(worker.site.settings.topics.ad)
    node.suspend()
    hung = time.monotonic()
    told = worker.until("waiting_for_broker", "notice the hung broker")
    assert told.at - hung < allowance(8), "the ends become unknown after 4.5 s"
    assert told.code == 200, "a restart does not help"
    assert told.body["lag_records"] is None
    assert worker.ask("/readyz").code == 503
    assert worker.metric("waiting_for_broker") == 1
    # From then on, and also when its partitions have no leader any more.
    worker.until_named("partition_without_leader", "notice that its partitions have no leader")
    node.resume()
    resumed = time.monotonic()
    assert not [a for a in worker.since(told.at) if a.at < resumed - 1 and a.claims_to_be_done]
    worker.until("ok", "notice that it answers again")
    more(worker)
    assert worker.metric("waiting_for_broker") == 0
    log = worker.site.log()
    assert "[waiting_for_broker]" in log and "a broker answers again, after" in log
    assert worker.site.books() == (0, 0)


def test_a_partition_without_a_leader_is_named_and_the_others_are_learned(kafka, worker):
    topics = worker.site.settings.topics
    node = kafka.leader(topics.ad)
    leaders = {(t, p): kafka.leader(t, p) for t in topics.domains for p in range(2)}
    led = {key for key, leader in leaders.items() if leader is node}
    node.kill()
    told = worker.until("partition_without_leader", "name the partition without a leader")
    assert f"{topics.ad}[0]" in told.body["reason"] and "has no leader" in told.body["reason"]
    assert told.code == 200
    worker.until(
        "partition_without_leader", "forget the end", lambda answer: answer.body["lag_records"] is None
    )
    # The others are learned: a producer that sends only to them finds its rows learned.
    others = sorted(key for key in leaders if key not in led)
    learned = worker.site.learned()
    (topic, partition), line = others[0], json.dumps({"event_id": 1}).encode()
    with kafka_producer(kafka) as producer:
        for _ in range(40):
            producer.send(topic, line, partition=partition)
    worker.site.sent += 40
    worker.site.wait(
        lambda: worker.site.learned() == learned + 40,
        "pass the rejected events of another partition",
        worker.worker,
    )
    kafka.start_node(node)
    worker.until("ok", "notice the leader")
    assert "all partitions have leaders again, after" in worker.site.log()
    more(worker)
    assert worker.site.books() == (0, 0)


def test_case_a8_a_topic_that_was_deleted_is_named_and_the_worker_ends_only_when_it_is_there_and_shorter(
    kafka, worker
):
    ad = worker.site.settings.topics.ad
    with kafka.admin() as admin:
        admin.delete_topics([ad])
    told = worker.until("topic_missing", "name the topic")
    assert f'topic "{ad}" does not exist' in told.body["reason"] and told.code == 200
    assert worker.worker.poll() is None
    kafka.create_topic(ad, 2)
    assert worker.worker.wait(timeout=PATIENCE_S) == 5
    assert "--reset-offsets" in worker.site.log()


# -- one worker whose user has the least rights; each test gives back what it takes


class SecuredSite(HealthSite):
    def __init__(self, folder: Path, kafka: ApacheKafka) -> None:
        folder.mkdir()
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        super().__init__(
            folder, kafka, "kafka.security=sasl_plaintext", f"kafka.username={USER}",
            f'kafka.password_file="{folder / "password"}"', listener=LISTENER,
        )  # fmt: skip

    def make_topics(self) -> None:
        self.kafka.add_scram_user(USER, PASSWORD)
        for topic in self.settings.topics.domains:
            letters = self.settings.topics.dead_letter(topic)
            self.kafka.create_topic(topic, 2)
            self.kafka.create_topic(letters)
            self.kafka.allow(USER, "READ", "TOPIC", topic)
            self.kafka.allow(USER, "READ", "TOPIC", letters)
            self.kafka.allow(USER, "WRITE", "TOPIC", letters)
        self.kafka.allow(USER, "READ", "GROUP", self.settings.worker.group)


@pytest.fixture(scope="module")
def secured(kafka, tmp_path_factory) -> Iterator[Observed]:
    worker = observe(SecuredSite(tmp_path_factory.mktemp("secured") / "site", kafka))
    yield worker
    worker.end()


def test_nothing_waits_and_all_up_to_the_ends_is_learned(secured):
    answer = secured.until_done(secured.site.sent)
    assert answer.names[0] == "idle" and secured.ask("/readyz").code == 200
    assert secured.site.learned() == secured.site.sent


def test_case_a8_a_right_that_is_withdrawn_is_named_until_it_is_given_back(secured, kafka):
    site, ad = secured.site, secured.site.settings.topics.ad
    before = len(site.log())
    kafka.withdraw(USER, "READ", "TOPIC", ad)
    told = secured.until("right_missing", "name the right")
    assert f'topic "{ad}"' in told.body["reason"] and f'"{USER}"' in told.body["reason"]
    assert told.code == 200
    send(secured)
    unknown = secured.until("right_missing", "forget the ends", lambda a: a.body["lag_records"] is None)
    kafka.allow(USER, "READ", "TOPIC", ad)
    given = time.monotonic()
    assert not [
        a for a in secured.since(unknown.at) if a.at < given and a.body.get("lag_records") is not None
    ]
    secured.until_done(site.sent)
    during = site.log()[before:]
    assert "[right_missing]" in during and "the brokers grant the right again, after" in during
    assert " 0 records behind" not in during.partition("the brokers grant the right again")[0]


def test_case_a16_a_password_that_is_changed_is_told_and_no_restart_is_asked_for(secured, kafka):
    kafka.add_scram_user(USER, "another-secret")
    told = secured.until("password_refused", "notice the refused password")
    assert f'kafka.username = "{USER}"' in told.body["reason"]
    assert (told.code == 200 and told.body["lag_records"] is None) or told.body["lag_records"] == 0
    send(secured)
    secured.site.folder.joinpath("password").write_text("another-secret", encoding="utf-8")
    secured.until_done(secured.site.sent)
    assert "secret" not in secured.site.log()


def test_a_quota_of_the_brokers_is_named_and_a_worker_that_it_limits_is_alive(secured, kafka):
    user = ("--entity-type", "users", "--entity-name", USER)
    alter = ("kafka-configs.sh", "--bootstrap-server", kafka.address, "--alter")
    kafka.tool(*alter, *user, "--add-config", "consumer_byte_rate=1000")
    before = len(secured.site.log())
    began = time.monotonic()
    try:
        send(secured)
        told = secured.until("throttled", "say that a quota limits it")
        assert "consumer_byte_rate" in told.body["reason"]
    finally:
        kafka.tool(*alter, *user, "--delete-config", "consumer_byte_rate")
    secured.until_done(secured.site.sent)
    assert {answer.code for answer in secured.since(began)} == {200}
    assert "built again" not in secured.site.log()[before:]


def test_case_k6_a_foreign_member_of_the_group_is_a_notice(secured, kafka):
    site = secured.site
    group = site.settings.worker.group
    consumer = KafkaConsumer(
        site.settings.topics.ad,
        bootstrap_servers=kafka.address.split(","),
        group_id=group,
        client_id="stranger",
    )
    try:

        def noticed() -> Answer | None:
            consumer.poll(timeout_ms=100)
            answer = secured.ask()
            return answer if "other_member" in answer.names else None

        answer = wait_for(noticed, "notice the member", alive=site._alive(secured.worker), detail=site.log)
        assert "stranger" in answer.body["reasons"][-1]["sentence"]
        assert answer.code == 200 and answer.body["status"] != "other_member"
        more(secured)
    finally:
        consumer.close()


def test_case_a13_a_dead_letter_topic_that_takes_nothing_is_named_until_it_does(secured, kafka):
    site = secured.site
    letters = site.settings.topics.dead_letter(site.settings.topics.ad)
    kafka.withdraw(USER, "WRITE", "TOPIC", letters)
    with kafka_producer(kafka) as producer:
        producer.send(site.settings.topics.ad, b"no event", partition=0)
    site.sent += 1
    # The ends of the topics are requested every two seconds; letters are named before.
    told = secured.until(
        "dead_letters_not_taken",
        "name the dead-letter topic while its record counts as lag",
        lambda answer: answer.body["lag_records"] != 0,
    )
    assert letters in told.body["reason"] and told.code == 200
    kafka.allow(USER, "WRITE", "TOPIC", letters)
    secured.until_done(site.sent)
    said = [line for line in site.log().splitlines() if "[dead_letters_not_taken]" in line]
    begun = [line[line.index("the dead-letter") :].partition(";")[0] for line in said[:-1]]
    assert begun and len(set(begun)) == len(begun), "the same reason was logged twice"
    assert f'the dead-letter topic "{letters}" takes records again, after' in said[-1]


def test_case_k8_a_topic_of_dead_letters_only_is_told_with_reason_and_rate(secured, kafka):
    site = secured.site
    bad = frame(400, first=site.sent).with_columns(ts=frame(400, first=site.sent)["ts"] // 1000)
    produce([bad], kafka.connection(), site.settings.topics)
    site.sent += 400
    told = secured.until("only_dead_letters", "name the rejected events")
    assert "ts (" in told.body["reason"] and "per minute" in told.body["reason"]
    more(secured, 4_000)
