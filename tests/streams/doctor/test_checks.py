"""Checks that need no broker: certificates, rights, topics, contents, clocks, the state folder."""

import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ecdctr.events.decoder import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, EventDecoder, to_arrow_message
from ecdctr.events.settings import FeatureSpec, KafkaSettings
from ecdctr.state.files import json_with_checksum
from ecdctr.state.lock import FolderLock
from ecdctr.state.settings import StateSettings
from ecdctr.streams.doctor.certificates import not_after, soonest_end
from ecdctr.streams.doctor.checks import Status
from ecdctr.streams.doctor.cluster import ClusterView, PartitionView, TopicView
from ecdctr.streams.doctor.contents import check_clocks, check_contents
from ecdctr.streams.doctor.fields import Times, examine_records
from ecdctr.streams.doctor.rights import check_rights
from ecdctr.streams.doctor.state_folder import check_state_folder
from ecdctr.streams.doctor.topics import check_topics
from ecdctr.streams.embedded import free_port
from ecdctr.streams.settings import TopicSettings
from tests.support.certificates import Authority

TOPICS = TopicSettings(natural="n", ad="a")
USER = KafkaSettings(security="sasl_ssl", username="trainer", password="x")
NOW = 1_700_000_000_000


class TestCertificates:
    def test_the_end_is_that_which_openssl_reads(self, tmp_path):
        made = Authority(tmp_path).issue("server", days=7)
        done = subprocess.run(
            ["openssl", "x509", "-noout", "-enddate", "-in", made.cert],
            capture_output=True,
            text=True,
            check=True,
        )
        expected = ssl.cert_time_to_seconds(done.stdout.strip().partition("=")[2])
        assert soonest_end(made.cert) == datetime.fromtimestamp(expected, UTC)
        assert soonest_end(made.store) == datetime.fromtimestamp(expected, UTC), (
            "a file with the key before it"
        )

    def test_what_is_not_a_certificate_has_no_end(self, tmp_path):
        (tmp_path / "file").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        assert soonest_end(tmp_path / "file") is None
        assert soonest_end(tmp_path / "missing") is None

    @pytest.mark.parametrize("cut", [0, 1, 2, 5, 30, 60, 100])
    def test_a_cut_certificate_is_an_error(self, tmp_path, cut):
        der = ssl.PEM_cert_to_DER_cert(Authority(tmp_path).cert.read_text())
        with pytest.raises(ValueError, match="certificate"):
            not_after(der[:cut])


def topic(name, *rights, config=None, leaders=(1,), in_sync=(1,), **fields) -> TopicView:
    partitions = tuple(PartitionView(i, leader, (1,), in_sync) for i, leader in enumerate(leaders))
    return TopicView(name, partitions=partitions, rights=frozenset(rights), config=config, **fields)


def view(*topics, group=None) -> ClusterView:
    return ClusterView({t.name: t for t in topics}, group)


def by_name(checks) -> dict:
    return {check.name: check for check in checks}


class TestRights:
    def test_each_right_has_its_line(self):
        found = by_name(
            check_rights(
                view(
                    topic("n", "READ"), TopicView("a", shown=False, exists=False, rights=frozenset()),
                    topic("n.dlq", "READ"), TopicView("a.dlq", exists=False),
                    TopicView("alerts", rights=None), group=frozenset({"DESCRIBE"}),
                ),
                USER, TOPICS, "alerts", "g",
            )
        )  # fmt: skip
        assert {name: check.status for name, check in found.items()} == {
            'Read on topic "n"': Status.OK,
            'Read on topic "a"': Status.FAILED,
            'Write on topic "n.dlq"': Status.FAILED,
            'Read on topic "n.dlq"': Status.OK,
            'Write on topic "a.dlq"': Status.SKIPPED,
            'Read on topic "a.dlq"': Status.SKIPPED,
            'Write on topic "alerts"': Status.SKIPPED,
            'Read on group "g"': Status.WARNING,
        }
        way_out = found['Write on topic "n.dlq"'].way_out
        assert way_out.endswith("--allow-principal User:trainer --operation Write --topic n.dlq")


class TestTopics:
    def checks(self, **of_natural):
        dead = [topic(name, config={"max.message.bytes": "1000"}) for name in ("n.dlq", "a.dlq")]
        natural = topic("n", **of_natural)
        return by_name(check_topics(view(natural, topic("a"), *dead), TOPICS, "", 30, "TPM would read"))

    def test_a_topic_that_keeps_everything_is_fine(self):
        found = self.checks(config={"retention.ms": "-1"})
        assert found['contents of topic "n"'].status is Status.OK
        assert "kept for ever" in found['contents of topic "n"'].found
        assert found['contents of topic "a"'].status is Status.SKIPPED, "its configuration may not be read"
        assert 'months in topic "n"' not in found

    @pytest.mark.parametrize(
        ("days", "said"), [(0.5, "loses records"), (7, "reaches back 7 days"), (31, "kept for 31 days")]
    )
    def test_retention_is_compared_with_what_is_read_later(self, days, said):
        found = self.checks(config={"retention.ms": str(int(days * 86_400_000))})
        check = found['contents of topic "n"']
        assert said in check.found and check.status is (Status.OK if days == 31 else Status.WARNING)
        assert ('months in topic "n"' in found) is (days < 31)

    def test_compaction_is_a_warning(self):
        found = self.checks(config={"cleanup.policy": "compact", "retention.ms": "604800000"})
        assert "cleanup.policy" in found['clean-up of topic "n"'].way_out

    def test_a_smaller_dead_letter_topic_is_a_warning(self):
        found = self.checks(config={"max.message.bytes": "2000"})
        assert found['message size of "n.dlq"'].status is Status.WARNING
        assert "12000" in found['message size of "n.dlq"'].way_out

    def test_a_partition_without_a_leader_fails(self):
        check = self.checks(leaders=(1, -1))['topic "n"']
        assert check.status is Status.FAILED and "partitions 1 have no leader" in check.found

    def test_only_topics_that_are_written_need_replicas_in_sync(self):
        config = {"min.insync.replicas": "2"}
        assert self.checks(config=config)['topic "n"'].status is Status.OK
        found = by_name(check_topics(view(topic("n.dlq", config=config)), TOPICS, "", 30, ""))
        assert found['topic "n.dlq"'].status is Status.FAILED

    @pytest.mark.parametrize(
        ("creation", "status"), [("", Status.WARNING), (None, Status.WARNING), ("no right", Status.FAILED)]
    )
    def test_a_missing_topic_fails_if_it_cannot_be_created(self, creation, status):
        found = by_name(
            check_topics(view(TopicView("n", exists=False, creation=creation)), TOPICS, "", 30, "")
        )
        assert found['topic "n"'].status is status


def record(offset, value, timestamp=NOW, headers=()):
    return SimpleNamespace(offset=offset, value=value, timestamp=timestamp, headers=headers, key=None)


def event(**fields) -> bytes:
    plain = {"event_id": 1, "ts": NOW, "user_id": "u", "item_id": 7, "label": 0, "price": 1.5, "other": [1]}
    return json.dumps({k: v for k, v in {**plain, **fields}.items() if v != "absent"}).encode()


@pytest.fixture
def decoder():
    return EventDecoder(
        [FeatureSpec(name="user", field="user_id"), FeatureSpec(name="price", kind="numeric")]
    )


class TestContents:
    def test_fields_are_counted_as_they_stand_in_the_messages(self, decoder):
        values = [event(label=1), event(price=None, user_id="v"), event(price=3), event(other="absent"), b"{"]
        sampled, _ = examine_records(decoder, "n", 0, {0: [record(i, v) for i, v in enumerate(values)]})
        found = {f.name: f for f in sampled.fields}
        assert (sampled.messages, sampled.rows, sampled.clicks, sampled.refused) == (5, 4, 1, 1)
        price, user, other = found["price"], found["user_id"], found["other"]
        assert (price.present, price.null, price.types, price.distinct) == (
            1.0,
            0.25,
            ("number", "integer"),
            2,
        )
        assert (user.used_as, user.types, user.distinct, user.example) == (
            "required, feature user (categorical)",
            ("text",),
            2,
            '"u"',
        )
        assert (other.used_as, other.present, other.types) == ("", 0.75, ("list",))

    def test_refusals_are_told_by_reason_with_one_place_each(self, decoder):
        values = [event(), event(label=7), event(price="absent"), event(price="absent"), b"not json"]
        sampled, _ = examine_records(decoder, "n", 0, {3: [record(100 + i, v) for i, v in enumerate(values)]})
        assert [(r.reason, r.events, r.partition, r.offset) for r in sampled.refusals] == [
            ("missing", 2, 3, 102), ("label", 1, 3, 101), ("json", 1, 3, 104),
        ]  # fmt: skip
        [check, _] = check_contents("n", sampled, "natural")
        assert check.status is Status.WARNING and "4 (80.0%)" in check.found
        assert "n[3] offset 102" in check.way_out and "price" in check.way_out

    def test_packed_messages_are_counted_by_row(self, decoder):
        frame = pl.DataFrame([json.loads(event(label=i % 2)) for i in range(10)]).drop("other")
        packed = record(5, to_arrow_message(frame), headers=[(CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE)])
        sampled, times = examine_records(decoder, "n", 0, {0: [packed, record(6, event())]})
        assert (sampled.messages, sampled.rows, sampled.clicks) == (2, 11, 5)
        assert {f.name: f.present for f in sampled.fields}["price"] == 1.0
        assert len(times.ahead_of_record) == 11

    @pytest.mark.parametrize("value", [b"", None, b"[1]", b"\xff\xfe", b"[" * 5000])
    def test_whatever_stands_in_a_message_is_refused_and_no_error(self, decoder, value):
        sampled, _ = examine_records(decoder, "n", 0, {0: [record(0, value, timestamp=None, headers=None)]})
        assert (sampled.rows, sampled.refused) == (0, 1)
        [check] = check_contents("n", sampled, "natural")
        assert check.status is Status.FAILED

    def test_a_topic_without_messages_is_not_checked(self, decoder):
        sampled, times = examine_records(decoder, "n", 0, {})
        [check] = check_contents("n", sampled, "natural")
        assert check.status is Status.SKIPPED
        assert list(check_clocks("n", times)) == []

    @pytest.mark.parametrize(("label", "said"), [(0, "none of 3"), (1, "each of 3")])
    def test_labels_that_teach_nothing_are_a_warning(self, decoder, label, said):
        records = {0: [record(i, event(label=label)) for i in range(3)]}
        sampled, _ = examine_records(decoder, "n", 0, records)
        [_, check] = check_contents("n", sampled, "natural")
        assert check.status is Status.WARNING and said in check.found


class TestClocks:
    @pytest.mark.parametrize(
        ("newest", "ahead", "status", "said"),
        [
            (NOW - 5_000, [-2_000, -2_000], Status.OK, "2.0 s (median) before"),
            (NOW + 3_600_000, [0], Status.WARNING, "1.0 h after the clock of this machine"),
            (NOW, [0, 86_400_000], Status.WARNING, "1 events (50.0%) are dated after"),
            (-1, [0], Status.SKIPPED, "no time stamps"),
        ],
    )
    def test_what_is_told(self, newest, ahead, status, said):
        [check] = check_clocks("n", Times(newest, np.array(ahead, dtype=np.int64)), now_ms=NOW)
        assert check.status is status and said in check.found


class TestStateFolder:
    def checks(self, folder):
        return by_name(check_state_folder(StateSettings(folder=folder)))

    def test_a_folder_that_does_not_exist_is_not_created(self, tmp_path):
        found = self.checks(tmp_path / "a" / "b")
        assert found["state folder"].status is Status.OK and "can be created" in found["state folder"].found
        assert not (tmp_path / "a").exists()

    def test_a_folder_in_use_names_its_owner_and_stays_locked(self, tmp_path):
        assert self.checks(tmp_path)["lock of the state folder"].status is Status.OK
        assert list(tmp_path.iterdir()) == []
        with FolderLock(tmp_path):
            check = self.checks(tmp_path)["lock of the state folder"]
            assert check.status is Status.WARNING and "process " in check.found
            done = subprocess.run(
                [sys.executable, "-c", f"from ecdctr.state.lock import *; FolderLock({str(tmp_path)!r}).acquire()"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert "StateLockedError" in done.stderr
        assert self.checks(tmp_path)["lock of the state folder"].status is Status.OK

    def test_a_file_in_its_place_fails(self, tmp_path):
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            assert self.checks(folder)["state folder"].status is Status.FAILED

    def test_case_s17_what_a_worker_would_refuse_fails(self, tmp_path):
        assert self.checks(tmp_path)["format of the state folder"].status is Status.OK
        (tmp_path / "LOCK").symlink_to(tmp_path / "nowhere")
        check = self.checks(tmp_path)["format of the state folder"]
        assert check.status is Status.FAILED and "LOCK is a link" in check.found
        (tmp_path / "LOCK").unlink()
        (tmp_path / "format.json").write_bytes(json_with_checksum({"format": 2}))
        check = self.checks(tmp_path)["format of the state folder"]
        assert check.status is Status.FAILED and "has format 2" in check.found


def test_a_certificate_that_ends_soon_is_a_warning(tmp_path):
    from ecdctr.streams.doctor.connection import _expiry

    now = datetime.now(UTC)
    ends = {
        timedelta(days=90): Status.OK,
        timedelta(days=5): Status.WARNING,
        timedelta(days=-1): Status.FAILED,
    }
    for left, status in ends.items():
        assert _expiry("TLS", "the certificate", now + left, "the broker's").status is status


def test_stages_that_were_not_reached_are_not_called_fine():
    from ecdctr.streams.doctor.connection import check_connection

    settings = KafkaSettings(
        brokers=f"127.0.0.1:{free_port()}", security="sasl_plaintext", mechanism="OAUTHBEARER",
        token_provider="tests.support.unsigned_tokens:failing",
    )  # fmt: skip
    checks, usable = check_connection(settings, 2.0)
    assert not usable
    assert {check.name.split()[0]: check.status for check in checks} == {
        "name": Status.SKIPPED, "port": Status.SKIPPED, "SASL": Status.FAILED, "advertised": Status.SKIPPED,
    }  # fmt: skip
