"""Start, commands and topics on three nodes of Apache Kafka, one of which is down, unreachable, or the leader that dies."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, KafkaTimeoutError
from rich.console import Console

from ecdctr import factory
from ecdctr.commands import demo as demo_module
from ecdctr.commands.demo import run_demo
from ecdctr.events.kafka import KafkaLog, topic_problem
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import StreamError
from ecdctr.streams.dead_letters import DeadLetter, DeadLetters
from ecdctr.streams.embedded import free_port
from ecdctr.streams.producer import produce
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import ensure_topics, partition_counts
from tests.support.apache_kafka import ApacheKafka, KafkaNode, Listener, missing
from tests.support.intakes import MemoryIntake, Streams, event, running
from tests.support.raw_records import send_raw
from tests.support.sites import Site, frame
from tests.support.waiting import PATIENCE_S, allowance, until, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

NOT_TAKEN_S = 5.0
"""Within this time a worker says that a dead-letter topic takes no letters."""
STAYS_DELETED_S = 12.0
"""Longer than the 10 s after which a worker's clients ask for metadata again."""
UNREACHABLE = f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[ApacheKafka]:
    """Three nodes that create topics that are asked for; a listener with users, and one that advertises a wrong address."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    listeners = [
        Listener("USERS", "SASL_PLAINTEXT", mechanisms=("PLAIN",)),
        Listener("INWARD", "PLAINTEXT", advertised=UNREACHABLE),
    ]
    with ApacheKafka(
        tmp_path_factory.mktemp("kafka"), 3, listeners, plain_users={"trainer": "secret"}, acls=True,
        properties={"auto.create.topics.enable": "true"},
    ) as kafka:  # fmt: skip
        yield kafka


def described(kafka: ApacheKafka, topic: str) -> Any:
    """The metadata of a topic; None if the node that was asked is the one that is down."""
    try:
        with kafka.admin() as admin:
            (found,) = admin.describe_topics([topic])
    except KafkaError:
        return None
    return found


class SpreadSite(Site):
    """Click topics with three partitions of one replica each, one partition on each node."""

    def __init__(self, folder: Path, kafka: ApacheKafka, *overrides: str) -> None:
        self.cluster = kafka
        brokers = f'kafka.brokers="{kafka.address}"'
        super().__init__(
            folder, kafka.address, brokers, "topics.partitions=3", "topics.replication=3", *overrides
        )

    def make_topics(self) -> None:
        topics = self.settings.topics
        with self.cluster.admin() as admin:
            admin.create_topics(
                [
                    NewTopic(name, replica_assignments={p: [p + 1] for p in range(3)})
                    for name in topics.domains
                ]
            )
        ensure_topics(self.settings.kafka, topics)
        for name in topics.domains:
            for node in self.cluster.nodes:
                wait_for(
                    lambda name=name, node=node: self.cluster.leader(name, node.number - 1) is node, "lead"
                )


@pytest.fixture
def spread(cluster, tmp_path) -> Iterator[SpreadSite]:
    made = SpreadSite(tmp_path / "site", cluster)
    yield made
    made.end()
    for node in cluster.nodes:
        if not node.running:
            cluster.start_node(node)


def command(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the configuration of a site."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ECDCTR_")}
    return subprocess.run(
        [sys.executable, "-m", "ecdctr", *arguments, "--config", str(site.config)],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S, env={**environment, "COLUMNS": "2000"},
    )  # fmt: skip


# -- A6, A7


def test_case_a6_a_worker_that_creates_its_topics_trains(cluster, tmp_path):
    class New(Site):
        def make_topics(self) -> None:
            pass

    brokers = f'kafka.brokers="{cluster.address}"'
    site = New(tmp_path / "site", cluster.address, brokers, "topics.replication=3", "topics.partitions=8")
    try:
        worker = site.start()
        site.wait(site.says("live from step"), "start", worker)
        site.produce(300)
        site.train(300, worker)
        assert site.terminate(worker)[0] == 0
        assert len(site.ends()) == 16
        assert "Traceback" not in site.log()
    finally:
        site.end()


def test_case_a7_a_partition_without_a_leader_is_named_and_waited_for(spread, cluster):
    spread.produce(300)
    node = cluster.nodes[2]
    node.kill()
    topics = spread.settings.topics
    gone = [f"{topics.ad}[2]", f"{topics.natural}[2]"]
    wait_for(lambda: _leaderless(cluster, topics.ad), "notice the dead node")

    worker = spread.start("--set", f"worker.connect_timeout_s={PATIENCE_S}")
    for arguments in (["topics"], ["replay", "kafka", "--out", str(spread.folder / "replay")]):
        done = command(spread, *arguments, "--set", "worker.connect_timeout_s=1")
        assert done.returncode == 5, done.stderr
        assert all(name in done.stderr for name in gone), done.stderr
        assert "have no leader" in done.stderr
        assert "Traceback" not in done.stderr
        assert "no broker answers" not in done.stderr
    spread.wait(lambda: all(name in spread.log() for name in gone), "name the partitions", worker)
    assert "have no leader; trying again" in spread.log()

    sending = threading.Thread(target=spread.produce, args=(300, 300))
    sending.start()
    cluster.start_node(node)
    spread.train(300, worker)
    sending.join(PATIENCE_S)
    assert not sending.is_alive()
    spread.train(600, worker)
    assert spread.terminate(worker)[0] == 0
    assert spread.books() == (0, 0)
    assert sum(spread.ends().values()) == 600
    assert "Traceback" not in spread.log()


def _leaderless(cluster: ApacheKafka, topic: str) -> bool:
    found = described(cluster, topic)
    return found is not None and any(partition["leader_id"] < 0 for partition in found["partitions"])


def test_case_a7_an_advertised_address_that_cannot_be_reached_is_named(cluster, tmp_path):
    class Inward(Site):
        def make_topics(self) -> None:
            pass

    address = cluster.addresses("INWARD")
    site = Inward(tmp_path / "site", address, f'kafka.brokers="{address}"', "worker.connect_timeout_s=1")
    for arguments in (["topics"], ["replay", "kafka", "--out", str(tmp_path / "replay")], ["worker"]):
        began = time.monotonic()
        done = command(site, *arguments)
        assert done.returncode == 5, done.stderr
        assert UNREACHABLE in done.stderr and "advertised.listeners" in done.stderr
        assert "Traceback" not in done.stderr
        assert time.monotonic() - began < allowance(30)


def test_case_a7_the_leader_of_some_partitions_that_cannot_be_reached_is_named(cluster):
    """One of three brokers advertises an address behind a firewall: the others answer."""
    topic = "one-is-far"
    with cluster.admin() as admin:
        admin.create_topics([NewTopic(topic, replica_assignments={0: [1], 1: [2], 2: [3]})])
    wait_for(lambda: not _leaderless(cluster, topic), "elect leaders")
    assert topic_problem(cluster.connection(), [topic]) is None
    found = topic_problem(cluster.connection("INWARD"), [topic])
    assert found is not None
    assert found.count(f"advertises {UNREACHABLE}, which cannot be reached from here") == 3
    assert f"the leader of {topic}[0] advertises" in found


# -- A13

DEAD_LETTERS_ON = (1, 2)
"""Nodes with the replicas of the dead-letter topics of the next tests; both have to be in sync."""


def make_topics_with_dead_letters_on_two_nodes(kafka: ApacheKafka, topics: TopicSettings) -> None:
    two = {"replica_assignments": {0: list(DEAD_LETTERS_ON)}, "topic_configs": {"min.insync.replicas": "2"}}
    with kafka.admin() as admin:
        admin.create_topics([NewTopic(topics.dead_letter(name), **two) for name in topics.domains])
    ensure_topics(kafka.connection(), topics)


@pytest.fixture
def second_node(cluster) -> Iterator[KafkaNode]:
    """The node without which the dead-letter topics take no letters."""
    node = cluster.nodes[DEAD_LETTERS_ON[1] - 1]
    yield node
    if not node.running:
        cluster.start_node(node)


def origins(records: list) -> Counter[tuple[int, int]]:
    """How many letters there are for each partition and offset."""
    headers = [dict(record.headers) for record in records]
    return Counter((int(h["ecdctr-partition"]), int(h["ecdctr-offset"])) for h in headers)


def lose(kafka: ApacheKafka, node: KafkaNode, topic: str) -> None:
    """Kill the node and wait until it is no longer in sync."""
    node.kill()

    def in_sync() -> int:
        found = described(kafka, topic)
        return 0 if found is None else len(found["partitions"][0]["isr_nodes"])

    wait_for(lambda: in_sync() == 1, "take the node from the replicas in sync", every_s=0.2)


def too_few(dead: str) -> str:
    return (
        f'the dead-letter topic "{dead}" does not take letters: fewer of its replicas are in sync than its '
        f"min.insync.replicas requires ({dead}[0] has 1 of its 2 replicas in sync)"
    )


def test_case_a13_a_letter_is_written_once_although_the_app_is_built_anew_while_it_waits(
    cluster, second_node
):
    streams = Streams(cluster.address, create=False)
    streams.topics = streams.topics.model_copy(update={"replication": 3})
    make_topics_with_dead_letters_on_two_nodes(cluster, streams.topics)
    topic, ad = streams.topics.natural, streams.topics.ad
    dead = streams.topics.dead_letter(topic)
    lose(cluster, second_node, dead)
    streams.send(topic, [event(1), b"broken", event(2)], partition=0)
    streams.send(ad, [event(3)], partition=0)
    intake, said = MemoryIntake(), []

    async def main():
        letters = DeadLetters(streams.connection, streams.topics, on_waiting=said.append)
        await letters.start({})
        for _ in range(3):
            async with running(streams.app(intake, letters)) as until_true:
                await until_true(lambda: too_few(dead) in said and intake.positions[(ad, 0)] == 1)
                assert intake.positions[(topic, 0)] == 0
        await asyncio.to_thread(cluster.start_node, second_node)
        async with running(streams.app(intake, letters)) as until_true:
            await until_true(lambda: intake.positions[(topic, 0)] == 3)
        await letters.stop()
        return letters.counts

    assert asyncio.run(main()) == {"json": 1}
    assert intake.offsets(topic)[0] == [0, 2]
    assert said[-1] is None
    assert origins(streams.read(dead)) == {(0, 1): 1}


def health(site: Site) -> str:
    """The reason that ``/healthz`` states."""
    address = f"http://127.0.0.1:{site.settings.monitor.port}/healthz"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError:
        return ""
    return json.dumps(json.loads(body))


class TwoNodeSite(Site):
    """A site whose dead-letter topics need two of the nodes."""

    def __init__(self, folder: Path, kafka: ApacheKafka) -> None:
        self.cluster = kafka
        super().__init__(
            folder, kafka.address, f'kafka.brokers="{kafka.address}"', "topics.replication=3",
            f"monitor.port={free_port()}", "state.checkpoint_every_steps=200",
        )  # fmt: skip

    def make_topics(self) -> None:
        make_topics_with_dead_letters_on_two_nodes(self.cluster, self.settings.topics)


def test_case_a13_a_worker_says_that_letters_are_not_taken_and_goes_on_when_they_are(
    cluster, second_node, tmp_path
):
    site = TwoNodeSite(tmp_path / "site", cluster)
    topics = site.settings.topics
    dead = topics.dead_letter(topics.natural)
    site.produce(600)
    worker = site.start()
    site.train(600, worker)
    lose(cluster, second_node, dead)
    broken = send_raw(site.settings.kafka, topics.natural, 0, [(b"k", b"broken", [(b"h", None)])])
    began = time.monotonic()
    site.wait(lambda: too_few(dead) in site.log(), "say that letters wait", worker)
    site.wait(lambda: dead in health(site), "say so on /healthz", worker)
    assert time.monotonic() - began < allowance(NOT_TAKEN_S)
    site.produce(600, first=600)
    site.kill(worker)
    said = site.log().count(too_few(dead))
    worker = site.start()
    site.wait(lambda: site.log().count(too_few(dead)) > said, "say so after a restart", worker)
    code, seconds = site.terminate(worker)
    assert code == 0
    assert seconds < allowance(10)
    worker = site.start()
    cluster.start_node(second_node)
    site.train(1_201, worker)
    site.wait(lambda: dead not in health(site), "take it back on /healthz", worker)
    assert site.terminate(worker)[0] == 0
    assert site.books() == (0, 0)
    assert site.rebuild().identical
    assert origins(site.read(dead)) == {(0, broken): 1}
    assert "Traceback" not in site.log()
    site.end()


def test_case_a13_a_missing_write_right_on_a_dead_letter_topic_is_named_and_waited_for(cluster):
    topics = TopicSettings(natural="rights-natural", ad="rights-ad", replication=3)
    ensure_topics(cluster.connection(), topics)
    user = cluster.connection("USERS", username="trainer", password="secret", mechanism="PLAIN")
    dead = topics.dead_letter(topics.ad)
    for name in topics.domains:
        cluster.allow("trainer", "READ", "TOPIC", topics.dead_letter(name))
    said: list[str | None] = []

    async def main() -> None:
        letters = DeadLetters(user, topics, on_waiting=said.append)
        await letters.start({})
        sending = asyncio.ensure_future(letters.send([DeadLetter(topics.ad, 0, 1, "json", "d", b"v")]))
        began = time.monotonic()

        async def is_said() -> bool:
            return bool(said)

        await until(is_said, "say that the right is missing")
        assert time.monotonic() - began < allowance(NOT_TAKEN_S)
        assert said[0] is not None
        assert f'"{dead}"' in said[0] and '"trainer"' in said[0] and "right Write" in said[0]
        cluster.allow("trainer", "WRITE", "TOPIC", dead)
        assert await sending == 1
        await letters.stop()

    asyncio.run(main())
    assert said[-1] is None


# -- A19


def test_case_a19_a_deleted_topic_stays_deleted_while_clients_of_ours_run(cluster, tmp_path):
    brokers = f'kafka.brokers="{cluster.address}"'
    site = Site(tmp_path / "site", cluster.address, brokers, "topics.replication=3")
    topics = site.settings.topics
    dead = topics.dead_letter(topics.ad)

    def existing() -> set[str]:
        with cluster.admin() as admin:
            return {topics.ad, dead, "asked-for", "asked-for.dlq"} & set(admin.list_topics())

    try:
        site.produce(300)
        worker = site.start()
        site.train(300, worker)
        with cluster.admin() as admin:
            admin.delete_topics([topics.ad, dead])
        wait_for(lambda: not existing(), "delete the topics")
        # Another instance of each client that asks for topics.
        absent = TopicSettings(natural="asked-for", ad=topics.ad)
        with pytest.raises(StreamError, match="does not exist"):
            produce([frame(3)], site.settings.kafka, absent)
        with (
            KafkaLog(site.settings.kafka, factory.decoder(site.settings), absent.domains) as log,
            pytest.raises(StreamError, match="does not exist"),
        ):
            log.partitions()
        with closing(_producer(cluster)) as producer, pytest.raises(KafkaTimeoutError):
            producer.partitions_for(dead)
        done = command(
            site, "replay", "kafka", "--out", str(tmp_path / "replay"), "--set", "worker.connect_timeout_s=0"
        )
        assert done.returncode == 5 and topics.ad in done.stderr
        assert "Traceback" not in done.stderr
        until_s = time.monotonic() + STAYS_DELETED_S
        while time.monotonic() < until_s:
            assert existing() == set()
            time.sleep(0.5)
        # The brokers would have created them: a client that does not say otherwise does.
        with closing(_producer(cluster)) as producer, suppress(KafkaTimeoutError):
            producer._metadata.config["allow_auto_create_topics"] = True
            producer.partitions_for("asked-for")
        wait_for(lambda: existing() == {"asked-for"}, "be created")
        assert "Traceback" not in site.log()
    finally:
        site.end()


def _producer(kafka: ApacheKafka) -> KafkaProducer:
    return KafkaProducer(**kafka.connection().kafka_python(), max_block_ms=3_000)


# -- A24

SMALL = (
    "sim:seed={seed},days=64,live_from=60,history_per_day=150,natural_per_day=600,ads_per_day=150,users=200"
)


def test_case_a24_the_demo_runs_on_a_kafka_that_is_there_and_removes_its_topics(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(demo_module, "SIMULATOR", SMALL)
    out = Console(quiet=True)
    settings: KafkaSettings = cluster.connection()

    def topics() -> list[str]:
        with cluster.admin() as admin:
            return [name for name in admin.list_topics() if name.startswith("trial")]

    code = run_demo(out, tmp_path / "demo", brokers=cluster.address, prefix="trial", keep_topics=True)
    assert code == 0
    assert {"trial-natural", "trial-ad", "trial-natural.dlq", "trial-ad.dlq"} <= set(topics())
    assert partition_counts(settings, ["trial-ad"]) == {"trial-ad": 4}
    with pytest.raises(StreamError, match=r"trial-ad, .*exist at .*choose another --topic-prefix"):
        run_demo(out, tmp_path / "again", brokers=cluster.address, prefix="trial")
    assert "trial-ad" in topics(), "topics of another run are not deleted"
    with cluster.admin() as admin:
        admin.delete_topics(topics())
    wait_for(lambda: not topics(), "delete the topics")

    def failing(*_: object, **__: object) -> None:
        ensure_topics(settings, TopicSettings(natural="trial-natural", ad="trial-ad", replication=3))
        raise StreamError("in the middle")

    monkeypatch.setattr(demo_module, "train_tpm", failing)
    with pytest.raises(StreamError, match="in the middle"):
        run_demo(out, tmp_path / "failing", brokers=cluster.address, prefix="trial")
    wait_for(lambda: not topics(), "delete the topics of a demo that fails")
