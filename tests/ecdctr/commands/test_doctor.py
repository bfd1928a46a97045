"""``ecdctr doctor`` on the embedded broker, and where there is none."""

import io
import json
import time

import pytest
from kafka import KafkaAdminClient
from rich.console import Console

from ecdctr.commands.doctor import WOULD_NOT_RUN, _print_checks, _print_fields, examine
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import ConfigError
from ecdctr.streams.doctor import Check, FieldFinding, Report, Sampled, Status
from ecdctr.streams.embedded import free_port
from ecdctr.streams.producer import produce
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import ensure_topics
from tests.support.sites import frame
from tests.support.waiting import allowance


def run(overrides, *, as_json=True, messages=1000, topic=None, terminal=False):
    """Exit code and output."""
    text = io.StringIO()
    out = Console(file=text, force_terminal=terminal, width=200)
    code = examine(out, None, overrides, as_json=as_json, messages=messages, topic=topic)
    return code, json.loads(text.getvalue()) if as_json else text.getvalue()


def status(found) -> dict[str, str]:
    return {check["name"]: check["status"] for check in found["checks"]}


@pytest.fixture
def nowhere(tmp_path):
    return [f'kafka.brokers="127.0.0.1:{free_port()}"', f'state.folder="{tmp_path / "state"}"']


class TestBroker:
    @pytest.fixture
    def topics(self, broker, request):
        name = f"doctor-{abs(hash(request.node.nodeid))}"
        return TopicSettings(natural=f"{name}-n", ad=f"{name}-a", partitions=2)

    @pytest.fixture
    def overrides(self, broker, topics, tmp_path):
        return [
            f'kafka.brokers="{broker.address}"', f"topics.natural={topics.natural}", f"topics.ad={topics.ad}",
            f'state.folder="{tmp_path / "state"}"', "worker.group=doctor-group", 'monitor.alerts_topic=""',
        ]  # fmt: skip

    def names(self, broker) -> set[str]:
        admin = KafkaAdminClient(bootstrap_servers=broker.address)
        try:
            return set(admin.list_topics())
        finally:
            admin.close()

    def test_topics_with_good_messages(self, broker, topics, overrides, tmp_path):
        connection = KafkaSettings(brokers=broker.address)
        ensure_topics(connection, topics)
        produce([frame(400)], connection, topics)
        before = self.names(broker)
        code, found = run(overrides, messages=100)
        assert code == 0, found
        assert "failed" not in status(found).values()
        assert status(found)[f'messages of "{topics.natural}"'] == "ok"
        sample = found["topics"][topics.natural]
        assert sample["messages"] == sample["rows"] == 100
        fields = {f["name"]: f for f in sample["fields"]}
        assert fields["user_id"]["types"] == ["text"] and fields["price"]["used_as"] == ""
        assert self.names(broker) == before
        assert not (tmp_path / "state").exists()

    def test_missing_topics_are_told_and_not_created(self, broker, topics, overrides):
        code, found = run(overrides)
        assert code == 0
        assert status(found)[f'topic "{topics.natural}"'] == "warning"
        assert not self.names(broker) & set(topics.domains)

    def test_one_topic_only(self, broker, topics, overrides):
        ensure_topics(KafkaSettings(brokers=broker.address), topics)
        _, found = run(overrides, topic=topics.ad)
        assert f'messages of "{topics.natural}"' not in status(found)
        assert f'messages of "{topics.ad}"' in status(found)

    @pytest.mark.parametrize("terminal", [False, True])
    def test_refused_messages_are_shown_with_an_example(self, broker, topics, overrides, terminal):
        connection = KafkaSettings(brokers=broker.address)
        ensure_topics(connection, topics)
        produce([frame(40).drop("user_id").with_columns(user_id=None)], connection, topics)
        code, text = run(overrides, as_json=False, terminal=terminal)
        assert code == WOULD_NOT_RUN
        assert "a worker would refuse all of them" in text and "user_id" in text
        assert f"{topics.natural}[" in text and "would not run" in text
        assert ("\x1b" in text) is terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_of_messages_do_not_reach_the_terminal(terminal):
    report = Report([Check("messages", Status.FAILED, "found \x1b[2J", "see \x07")])
    fields = [FieldFinding("\x1b]0;title\x07", "", 1.0, 0.0, ("text",), 1, '"a"')]
    text = io.StringIO()
    out = Console(file=text, force_terminal=terminal, width=200)
    _print_checks(out, report)
    _print_fields(out, "topic", Sampled(messages=1, fields=fields))
    shown = text.getvalue()
    assert "\x07" not in shown and "\x1b[2J" not in shown and "\x1b]" not in shown
    assert r"\x1b[2J" in shown and r"\x1b]0;title\x07" in shown


class TestNoBroker:
    def test_the_rest_is_checked_and_listed_as_not_reached(self, nowhere):
        began = time.monotonic()
        code, found = run(nowhere)
        assert time.monotonic() - began < allowance(10)
        assert code == WOULD_NOT_RUN and not found["would_run"]
        found = status(found)
        assert found["configuration"] == found["state folder"] == "ok"
        assert found["rights, topics and messages"] == "not checked"
        assert sum(value == "failed" for value in found.values()) == 1

    def test_a_wrong_configuration_is_a_finding(self, nowhere):
        code, found = run([*nowhere, "kafka.broker=a:1"])
        assert code == WOULD_NOT_RUN
        [check] = found["checks"]
        assert check["status"] == "failed" and "kafka.broker" in check["found"]

    def test_features_that_do_not_fit_are_a_finding(self, nowhere):
        code, found = run([*nowhere, "events.list_field=user_id"])
        assert code == WOULD_NOT_RUN
        assert status(found)["configuration"] == "failed"
        assert status(found)["state folder"] == "ok"

    def test_another_topic_is_an_error(self, nowhere):
        with pytest.raises(ConfigError, match="--topic other"):
            run(nowhere, topic="other")
