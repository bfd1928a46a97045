"""Reading Apache Kafka: transactions, foreign members of the group, new partitions, backfills, and the end of a worker."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from ecdctr.streams.embedded import free_port
from tests.support.apache_kafka import ApacheKafka
from tests.support.committed import committed
from tests.support.sites import Site, frame
from tests.support.transactions import TransactionalProducer, messages
from tests.support.waiting import allowance, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def site(apache_broker: ApacheKafka, tmp_path) -> Iterator[Site]:
    made = Site(tmp_path / "site", apache_broker.address)
    yield made
    made.end()


def check_books(site: Site, rows: dict[str, int]) -> None:
    """Every offset up to the ends was covered once, these rows were trained, and the journal rebuilds the last checkpoint."""
    assert site.books() == (0, 0)
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert dict(rebuilt.engine.progress.rows) == rows


def seconds_until(site: Site, worker, done, what: str) -> float:
    began = time.monotonic()
    site.wait(done, what, worker)
    return time.monotonic() - began


def test_case_a1_k5_transactions_are_read_up_to_their_markers_and_aborted_rows_never(site):
    natural, ad = site.settings.topics.natural, site.settings.topics.ad
    rows = frame(2_000)
    of = {
        name: messages(rows.filter(rows["domain"] == domain))
        for name, domain in ((natural, "natural"), (ad, "ad"))
    }
    with TransactionalProducer(site.settings.kafka, site.name) as producer:
        for at in range(0, 1_200, 200):
            producer.transaction(natural, of[natural][at : at + 200], at // 200 % 2, commit=at != 400)
        producer.transaction(ad, of[ad][:100], 0)
        producer.transaction(ad, of[ad][100:200], 0, commit=False)
        producer.transaction(ad, of[ad][200:300], 1)
        learned = {"natural": 1_000, "ad": 200}

        worker = site.start()
        total = sum(site.ends().values())
        assert total == 1_200 + 300 + 9, "each transaction leaves a marker"
        # The last rows, and the markers behind them, do not wait for worker.max_behind_s (30 s).
        assert seconds_until(site, worker, lambda: site.learned() == total, "learn all") < allowance(20)

        # While a transaction is open, what was written before it is learned, and nothing waits.
        producer.begin()
        producer.send(natural, of[natural][1_200:1_400], 0)
        site.send(natural, of[natural][1_400:1_500])  # its second half, in partition 1, is not held up
        stable = site.ends()
        assert stable[(natural, 0)] == 200 * 3 + 3
        site.wait(lambda: site.learned() == sum(stable.values()), "learn what is stable", worker)
        site.kill(worker)
        producer.end()
        worker = site.start()
        total = sum(site.ends().values())
        site.wait(lambda: site.learned() == total, "learn the rows of the transaction", worker)
        learned["natural"] += 300

        producer.transaction(natural, of[natural][:50], 1, commit=False)  # nothing but an aborted transaction
        total = sum(site.ends().values())
        assert seconds_until(site, worker, lambda: site.learned() == total, "pass over it") < allowance(20)
        assert site.terminate(worker)[0] == 0
    check_books(site, learned)


@contextmanager
def foreign_member(site: Site) -> Iterator[set]:
    """A consumer of another program in the worker's group, and what it was assigned."""
    loop = asyncio.new_event_loop()

    async def start():
        consumer = AIOKafkaConsumer(
            *site.settings.topics.domains,
            **site.settings.kafka.aiokafka(),
            group_id=site.settings.worker.group,
            client_id="other-program",
            session_timeout_ms=60_000,
            enable_auto_commit=False,
        )
        await consumer.start()
        return consumer

    consumer = loop.run_until_complete(start())
    try:
        yield consumer.assignment()
    finally:
        loop.run_until_complete(consumer.stop())
        loop.close()


def test_case_a4_k6_two_state_folders_and_a_foreign_member_in_one_group_each_learn_everything(site, tmp_path):
    other = Site(tmp_path / "other", site.settings.kafka.addresses[0], copy_of=site)
    try:
        site.produce(2_000)
        workers = {made: made.start() for made in (site, other)}
        for made, worker in workers.items():
            made.train(2_000, worker)
        with foreign_member(site) as assigned:
            assert len(assigned) == 4
            site.produce(2_000, first=2_000)
            for made, worker in workers.items():
                made.train(4_000, worker)
                made.wait(made.says("other-program at"), "name the member", worker)
        for made, worker in workers.items():
            assert made.terminate(worker)[0] == 0
            assert made.log().count("has members of other programs: other-program at") == 1
            check_books(made, {"natural": 3_000, "ad": 1_000})
    finally:
        other.end()


def test_case_a5_partitions_that_are_added_are_read_within_ten_seconds(site, apache_broker):
    site.produce(1_000)
    worker = site.start()
    site.train(1_000, worker)
    with apache_broker.admin() as admin:
        admin.create_partitions(dict.fromkeys(site.settings.topics.domains, 4))
    wait_for(lambda: len(site.ends()) == 8, "see the new partitions")
    site.produce(2_000, first=1_000)  # the producer asks for the number of partitions
    # Rows of the new partitions wait for worker.max_wait_s, too.
    assert seconds_until(site, worker, lambda: site.learned() == 3_000, "learn all") < allowance(15)
    assert site.terminate(worker)[0] == 0
    ends = site.ends()
    assert len(ends) == 8 and all(ends.values())
    check_books(site, {"natural": 2_250, "ad": 750})


def test_case_a21_rows_that_are_older_than_those_learned_do_not_stand_still(apache_broker, tmp_path):
    site = Site(tmp_path / "site", apache_broker.address, "worker.buffer_rows=1000")
    try:
        site.produce(2_000, first=20_000)
        worker = site.start()
        site.wait(lambda: site.learned() == 2_000, "learn the newer rows", worker)
        site.produce(8_000)
        site.wait(lambda: site.learned() == 10_000, "learn the older rows", worker)
        assert site.terminate(worker)[0] == 0
        check_books(site, {"natural": 7_500, "ad": 2_500})
    finally:
        site.end()


def test_case_a22_a_clean_stop_commits_the_offsets_of_its_checkpoint(site):
    site.produce(1_500)
    worker = site.start()
    site.train(1_500, worker)
    assert site.terminate(worker)[0] == 0
    assert site.at_checkpoint() == site.ends()
    assert committed(site) == site.ends()


def test_case_a22_sigterm_while_it_starts_exits_0_without_a_traceback(site):
    site.produce(200)

    def handles_sigterm(worker) -> bool:
        status = Path(f"/proc/{worker.pid}/status").read_text(encoding="utf-8")
        caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    stages = {
        "handle SIGTERM": lambda worker, _: handles_sigterm(worker),
        "read the log": lambda _, before: site.log().count("live from step") > before,
        "read the topics": lambda _, __: site.learned() == 200,
    }
    for what, reached in stages.items():
        before = site.log().count("live from step")
        worker = site.start(new_interpreter=True)
        site.wait(lambda: reached(worker, before), what, worker)  # noqa: B023
        code, seconds = site.terminate(worker)
        assert (code, seconds < allowance(10)) == (0, True), f"{what}: {site.log()}"
    assert "Traceback" not in site.log() and "Exception" not in site.log()


def test_case_a22_sigterm_while_no_broker_answers_exits_0_without_a_traceback(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    site = Site(tmp_path / "site", address, copy_of=Named("nowhere"))
    try:
        worker = site.start(new_interpreter=True)
        site.wait(site.says("trying again"), "wait for a broker", worker)
        code, seconds = site.terminate(worker)
        assert (code, seconds < allowance(10)) == (0, True), site.log()
        assert "Traceback" not in site.log()
    finally:
        site.end()


class Named:
    """Stands for a site whose topics were not created."""

    def __init__(self, name: str) -> None:
        self.name = name
