"""The log is not the one that was learned from: made anew, cut, compacted, or without its head. Each is found and named on Apache Kafka."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import NewTopic

from ecdctr.events.kafka import KafkaLog
from ecdctr.events.kafka import log as log_module
from ecdctr.state.checkpoints import CheckpointStore
from ecdctr.state.errors import OffsetsLostError
from ecdctr.state.journals import JournalEntry
from ecdctr.state.positions import Positions
from ecdctr.streams.retention import CHOICES
from tests.support.apache_kafka import ApacheKafka, missing
from tests.support.sites import Site, frame
from tests.support.waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

SESSION = "worker.session_timeout_s=6"
"""The least that Apache Kafka accepts by default."""


class ConfiguredSite(Site):
    """Click topics with settings of their own on a cluster of Apache Kafka."""

    def __init__(self, folder: Path, kafka: ApacheKafka, *overrides: str, **topic: str) -> None:
        self.kafka, self.topic = kafka, topic
        super().__init__(folder, kafka.address, SESSION, *overrides)

    def make_topics(self) -> None:
        for topic in self.settings.topics.domains:
            self.kafka.create_topic(topic, 2, **self.topic)
        super().make_topics()

    def last_base(self) -> int:
        """Step of the last checkpoint before the newest one: an audit of the newest one can begin nowhere later."""
        return CheckpointStore(self.folders.checkpoints).list()[-2].step


def at_checkpoint(site: Site) -> dict:
    loaded = CheckpointStore(site.folders.checkpoints).newest()
    return dict(Positions.from_json(loaded.meta["positions"]))


def costs(site: Site) -> dict[str, tuple[int, int]]:
    """``{choice: (lost, doubled)}`` as the worker's last message states them."""
    found = re.findall(
        r"--reset-offsets (\w+): ([\d,]+) offsets are lost, ([\d,]+) are learned a second time", site.log()
    )
    return {
        choice: (int(lost.replace(",", "")), int(doubled.replace(",", "")))
        for choice, lost, doubled in found[-len(CHOICES) :]
    }


def ends_with_5(site: Site, *options: str) -> str:
    """Start a worker that refuses; its output."""
    before = len(site.log())
    worker = site.start(*options)
    assert worker.wait(timeout=PATIENCE_S) == 5, site.log()[before:]
    text = site.log()[before:]
    assert "Traceback" not in text
    return text


def learn_to_the_end(site: Site, *options: str) -> None:
    before, ends = len(site.log()), sum(site.ends().values())
    worker = site.start(*options)
    site.wait(lambda: "live from step" in site.log()[before:], "be live", worker)
    site.wait(lambda: site.learned() == ends, "learn to the end", worker)
    assert site.terminate(worker)[0] == 0


def test_case_a9_a_topic_made_anew_is_found_though_it_has_grown_beyond_the_positions(apache_broker, tmp_path):
    site = Site(tmp_path / "site", apache_broker.address, SESSION)
    try:
        site.produce(1_000)
        worker = site.start()
        site.train(1_000, worker)
        assert site.terminate(worker)[0] == 0
        at = at_checkpoint(site)
        with apache_broker.admin() as admin:
            admin.delete_topics(list(site.settings.topics.domains))
        for topic in site.settings.topics.domains:
            apache_broker.create_topic(topic, 2)
        site.produce(frame(3_000, first=5_000))
        ends = site.ends()
        assert all(ends[key] > at[key] > 0 for key in ends), "the ends tell nothing"

        text = ends_with_5(site)
        for topic in site.settings.topics.domains:
            assert re.search(rf'topic "{topic}" partition 0: .*was deleted and created again', text)
        assert costs(site) == {"earliest": (0, 0), "latest": (3_000, 0), "checkpoint": (0, 0)}

        learn_to_the_end(site, "--reset-offsets", "checkpoint")
        reset = next(e for e in site.entries() if e.kind == "reset")
        assert dict(Positions.from_json(reset.extra["positions"])) == dict.fromkeys(ends, 0)
        assert sum(e.rows for e in site.entries() if e.step > reset.step and e.parts) == 3_000
        rebuilt = site.rebuild()
        assert rebuilt.identical, rebuilt.verdict
    finally:
        site.end()


def test_case_a9_a_topic_made_anew_is_found_while_the_worker_runs(apache_broker, tmp_path):
    site = Site(tmp_path / "site", apache_broker.address, SESSION)
    ad = site.settings.topics.ad
    try:
        site.produce(1_000)
        worker = site.start()
        site.train(1_000, worker)
        learned = site.ends()
        with apache_broker.admin() as admin:
            admin.delete_topics([ad])
        apache_broker.create_topic(ad, 2)
        site.produce(frame(3_000, first=5_000, ad_every=1))
        assert all(end > learned[key] for key, end in site.ends().items() if key[0] == ad)
        site.wait(lambda: worker.poll() is not None, "find that the topic is another one")
        assert worker.returncode == 5, site.log()
        assert "the log is no longer the one that was learned from" in site.log()
        text = ends_with_5(site)
        assert re.search(rf'topic "{ad}" partition 0: .*was deleted and created again', text)
        assert site.settings.topics.natural not in text.partition("the log no longer holds")[2]
    finally:
        site.end()


class CutSite(Site):
    """Click topics on the first two of three nodes; the second may become leader without having all records."""

    def __init__(self, folder: Path, kafka: ApacheKafka) -> None:
        self.kafka = kafka
        brokers = f'kafka.brokers="{kafka.addresses()}"'
        super().__init__(folder, kafka.addresses(), SESSION, "topics.replication=3", brokers)

    def make_topics(self) -> None:
        first, second, _ = (node.number for node in self.kafka.nodes)
        config = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
        with self.kafka.admin() as admin:
            admin.create_topics(
                [
                    NewTopic(
                        topic,
                        replica_assignments={0: [first, second], 1: [first, second]},
                        topic_configs=config,
                    )
                    for topic in self.settings.topics.domains
                ]
            )
        super().make_topics()

    def leaders(self) -> set[int]:
        """Numbers of the nodes that lead the click topics; empty while a partition has no leader."""
        try:
            return {
                self.kafka.leader(topic, partition).number
                for topic in self.settings.topics.domains
                for partition in (0, 1)
            }
        except RuntimeError:
            return set()


def test_case_a9_an_unclean_leader_election_is_found_though_the_log_has_grown_beyond_the_positions(tmp_path):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with ApacheKafka(tmp_path / "kafka", nodes=3) as kafka:
        site = CutSite(tmp_path / "site", kafka)
        try:
            first, second, _ = kafka.nodes
            site.produce(1_000)
            worker = site.start()
            site.train(1_000, worker)
            second.kill()
            site.produce(600, first=1_000)  # only the first node has these
            site.train(1_600, worker)
            learned = {}
            for entry in site.entries():
                learned.update({(p.topic, p.partition): p.end for p in entry.parts})
            with site.paused(worker):  # it must not see the short log
                first.kill()
                kafka.start_node(second)
                wait_for(lambda: site.leaders() == {second.number}, "elect the second node")
                cut = site.ends()
                assert sum(cut.values()) == 1_000
                site.produce(frame(3_000, first=2_000))
                ends = site.ends()
            assert all(ends[key] > learned[key] > cut[key] for key in ends), "the ends tell nothing"

            site.wait(lambda: worker.poll() is not None, "find the cut")
            assert worker.returncode == 5, site.log()
            assert re.search(r"was cut at offset \d+ by an unclean leader election", site.log()), site.log()
            assert at_checkpoint(site) == learned, "nothing of the new log was learned, and the state is kept"

            text = ends_with_5(site)
            for (topic, partition), offset in cut.items():
                assert re.search(
                    rf'topic "{topic}" partition {partition}: .*election cut it at offset {offset} ', text
                )
            assert costs(site) == {"earliest": (0, 1_000), "latest": (3_000, 0), "checkpoint": (0, 0)}
            learn_to_the_end(site, "--reset-offsets", "checkpoint")
            reset = next(e for e in site.entries() if e.kind == "reset")
            assert dict(Positions.from_json(reset.extra["positions"])) == cut
            assert sum(e.rows for e in site.entries() if e.step > reset.step and e.parts) == 3_000
        finally:
            site.end()


COMPACTED = {
    "cleanup_policy": "compact",
    "segment_ms": "200",
    "min_cleanable_dirty_ratio": "0.01",
}


Offset = tuple[str, int, int]


def held_offsets(site: Site) -> set[Offset]:
    """Topic, partition and offset of every record that the click topics have now."""
    return {
        (topic, r.partition, r.offset) for topic in site.settings.topics.domains for r in site.read(topic)
    }


def offsets_of(entry: JournalEntry) -> set[Offset]:
    return {(part.topic, part.partition, o) for part in entry.parts for o in range(part.first, part.end)}


def reduced_steps(site: Site, entries: Sequence[JournalEntry]) -> list[int]:
    """The steps of a journal of which the log has lost at least one record."""
    held = held_offsets(site)
    return [entry.step for entry in entries if offsets_of(entry) - held]


def wait_for_compaction(site: Site, first: int, removed: Callable[[], bool]) -> None:
    """Send newer records of every key until ``removed`` returns True."""
    sent = 0

    def done() -> bool:
        nonlocal sent
        site.produce(400, first=first + 400 * sent)  # a segment is closed by the next record
        sent += 1
        return removed()

    wait_for(done, "compact", every_s=1.0)


def test_case_a10_rows_that_compaction_removed_are_refused_as_lost_offsets(apache_broker, tmp_path):
    site = ConfiguredSite(
        tmp_path / "site", apache_broker, "state.checkpoint_every_steps=100000", **COMPACTED
    )
    try:
        site.produce(800)
        worker = site.start()
        site.train(800, worker)
        assert f'topic "{site.settings.topics.ad}" has cleanup.policy=compact' in site.log()
        site.kill(worker)
        entries = [entry for entry in site.entries() if entry.parts]
        all_learned = set().union(*map(offsets_of, entries))
        wait_for_compaction(site, 800, lambda: len(all_learned & held_offsets(site)) < 0.5 * len(all_learned))

        before = held_offsets(site)
        text = ends_with_5(site)
        after = held_offsets(site)
        found = re.search(
            r"journal step (\d+) learned (\d+) rows .* the log now has (\d+) rows there: .*compaction", text
        )
        assert found, text
        step, learned, held = map(int, found.groups())
        (entry,) = [e for e in entries if e.step == step]
        assert entry.rows == learned > held
        gone = re.search(r"of the ([\d,]+) rows .* learned, ([\d,]+) are gone for good", text)
        assert gone, text
        rest = [entry for entry in entries if entry.step >= step]
        learned_by_rest = set().union(*map(offsets_of, rest))
        assert int(gone[1].replace(",", "")) == sum(e.rows for e in rest) == len(learned_by_rest)
        # The cleaner may remove more while the worker counts; in the end both figures are usually equal.
        still = int(gone[1].replace(",", "")) - int(gone[2].replace(",", ""))
        assert len(learned_by_rest & after) <= still <= len(learned_by_rest & before)

        learn_to_the_end(site, "--reset-offsets", "checkpoint")
        reset = next(e for e in site.entries() if e.kind == "reset")
        assert reset.step == step, "the steps before it were repeated"
    finally:
        site.end()


def test_case_a10_the_audit_names_the_log_and_not_the_model(apache_broker, tmp_path):
    """It begins at the oldest checkpoint after which all rows are there, and says why; without such a checkpoint it fails."""
    site = ConfiguredSite(tmp_path / "site", apache_broker, **COMPACTED)

    def close_segments_after(ms: str) -> None:
        for topic in site.settings.topics.domains:
            apache_broker.configure_topic(topic, segment_ms=ms)

    try:
        site.produce(1_500)
        worker = site.start()
        site.train(1_500, worker)
        # The segment with the first half of the rows is closed by the first of the others, which stay in an open one: the
        # cleaner does not touch that.
        site.produce(frame(8, first=1_500, ad_every=2))
        close_segments_after("3600000")
        site.produce(1_492, first=1_508)
        site.train(3_000, worker)
        assert site.terminate(worker)[0] == 0
        entries = [entry for entry in site.entries() if entry.parts]
        latest = site.last_base()

        lost = wait_for(lambda: reduced_steps(site, entries), "compact", every_s=1.0)
        assert max(lost) < latest, "the cleaner has touched the open segment"
        rebuilt = site.rebuild()
        assert rebuilt.identical, rebuilt.verdict
        assert rebuilt.base is not None and "no record any more (compaction)" in rebuilt.verdict

        close_segments_after(COMPACTED["segment_ms"])
        wait_for_compaction(site, 3_000, lambda: max(reduced_steps(site, entries)) > latest)
        with pytest.raises(OffsetsLostError, match="no record any more \\(compaction\\)"):
            site.rebuild()
    finally:
        site.end()


def test_case_a11_a_log_without_its_head_is_replayed_from_the_oldest_checkpoint_that_reaches(
    apache_broker, tmp_path
):
    site = Site(tmp_path / "site", apache_broker.address, SESSION)
    try:
        site.produce(4_000)
        worker = site.start()
        site.train(4_000, worker)
        assert site.terminate(worker)[0] == 0
        assert len(site.checkpoints()) >= 3
        oldest, second, *_ = CheckpointStore(site.folders.checkpoints).list()
        key = max(at_checkpoint(site))

        def delete(upto: int) -> None:
            with apache_broker.admin() as admin:
                admin.delete_records({TopicPartition(*key): upto})
            wait_for(lambda: _beginning(site)[key] == upto, "delete records")

        delete(Positions.from_json(oldest.meta["positions"])[key])
        result = _replay_journal(site)
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"rebuilding from checkpoint {oldest.name} on, because" in result.stderr
        assert "(retention)" in result.stderr and "identical" in result.stdout

        delete(Positions.from_json(oldest.meta["positions"])[key] + 1)
        rebuilt = site.rebuild()
        assert rebuilt.identical and rebuilt.base == second.name, rebuilt.verdict

        delete(site.ends()[key])
        result = _replay_journal(site)
        assert result.returncode == 5, result.stdout + result.stderr
        assert re.search(
            r"the model can be rebuilt only from step \d+ on, because .*begins at offset", result.stderr
        )
        assert "Traceback" not in result.stderr and "Error" not in result.stderr
    finally:
        site.end()


def _beginning(site: Site) -> dict:
    from ecdctr import factory

    with factory.kafka_log(site.settings, factory.decoder(site.settings)) as log:
        return log.beginning(log.partitions())


def _replay_journal(site: Site) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ecdctr", "replay", "--journal", "--config", str(site.config)],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def test_case_a15_a_broker_that_hangs_during_a_replay_is_waited_for(tmp_path, monkeypatch):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with ApacheKafka(tmp_path / "kafka") as kafka:
        site = Site(tmp_path / "site", kafka.address, SESSION)
        try:
            site.produce(1_000)
            worker = site.start()
            site.train(1_000, worker)
            assert site.terminate(worker)[0] == 0
            (node,) = kafka.nodes
            waits: list[str] = []

            class Resume(logging.Handler):
                def emit(self, record: logging.LogRecord) -> None:
                    if "waiting for records" in record.getMessage():
                        waits.append(record.getMessage())
                        node.resume()

            fetch = KafkaLog.fetch
            calls = []

            def hang_first(self, *arguments):
                if not calls:
                    node.suspend()
                calls.append(arguments)
                return fetch(self, *arguments)

            monkeypatch.setattr(KafkaLog, "fetch", hang_first)
            monkeypatch.setattr(log_module, "CHECK_S", 2.0)
            handler = Resume()
            logging.getLogger("ecdctr.kafka").addHandler(handler)
            try:
                rebuilt = site.rebuild()
            finally:
                logging.getLogger("ecdctr.kafka").removeHandler(handler)
            assert rebuilt.identical, rebuilt.verdict
            assert waits and f"{site.name}-" in waits[0]
        finally:
            site.end()


def test_case_a8_a_topic_that_is_not_shown_is_no_proof_of_a_loss(apache_broker, tmp_path):
    """The topic is deleted; the other one is still there. It is neither called lost, nor made anew by this worker."""
    site = Site(tmp_path / "site", apache_broker.address, SESSION)
    ad, natural = site.settings.topics.ad, site.settings.topics.natural
    try:
        site.produce(1_000)
        worker = site.start()
        site.train(1_000, worker)
        with apache_broker.admin() as admin:
            admin.delete_topics([ad])
        site.wait(site.says(f'topic "{ad}"'), "name the topic", worker)
        rows = frame(400, first=1_000).drop("domain").to_dicts()
        site.send(natural, [json.dumps(row).encode() for row in rows])
        site.train(1_400, worker)
        assert site.terminate(worker)[0] == 0
        assert f"{natural}[0] ends" not in site.log() and "--reset-offsets" not in site.log()
    finally:
        site.end()
