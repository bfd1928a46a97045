"""Apache Kafka with TLS, SCRAM or tokens, and ACLs: the guide, the least rights, ``ecdctr doctor``, tokens that expire."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from ecdctr.commands.doctor import WOULD_NOT_RUN, examine
from ecdctr.events.kafka import Cause, KafkaLog, probe_brokers
from ecdctr.settings import load_settings
from ecdctr.state.errors import BrokerRefusedError
from ecdctr.streams.producer import produce
from ecdctr.streams.topics import ensure_topics
from tests.support import unsigned_tokens
from tests.support.apache_kafka import ApacheKafka, Listener, missing
from tests.support.certificates import Authority
from tests.support.sites import Site, frame
from tests.support.waiting import PATIENCE_S, allowance, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "kafka.md"
PASSWORD = "trainer-secret"


class Locked:
    """One node with a listener for SCRAM and one for tokens, both with TLS, and ACLs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "tls")
        server = self.authority.issue("server", days=10)
        self.kafka = ApacheKafka(
            folder,
            listeners=[
                Listener("SECURE", "SASL_SSL", server, mechanisms=("SCRAM-SHA-512",)),
                Listener("TOKENS", "SASL_SSL", server, mechanisms=("OAUTHBEARER",)),
            ],
            acls=True,
            properties={"super.users": "User:ANONYMOUS;User:admin"},
        )
        self.password_file = folder / "password"
        self.password_file.write_text(PASSWORD + "\n", encoding="utf-8")

    @property
    def connection(self) -> list[str]:
        """Overrides for a client of the SCRAM listener."""
        return [
            f'kafka.brokers="{self.kafka.addresses("SECURE")}"', "kafka.security=sasl_ssl", "kafka.username=trainer",
            f'kafka.password_file="{self.password_file}"', f'kafka.ca_file="{self.authority.cert}"',
        ]  # fmt: skip

    @property
    def token_connection(self) -> list[str]:
        """Overrides for a client of the listener for tokens."""
        return [
            f'kafka.brokers="{self.kafka.addresses("TOKENS")}"', "kafka.security=sasl_ssl", "kafka.mechanism=OAUTHBEARER",
            f'kafka.token_provider="{unsigned_tokens.FUNCTION}"', f'kafka.ca_file="{self.authority.cert}"',
        ]  # fmt: skip


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    made = Locked(tmp_path_factory.mktemp("locked"))
    with made.kafka:
        made.kafka.add_scram_user("admin", "admin-secret")
        made.kafka.add_scram_user("trainer", PASSWORD)
        yield made


def rights(site: Site) -> list[tuple[str, str]]:
    """The least rights without which a worker does not run: operation, topic."""
    topics = site.settings.topics
    dead = [topics.dead_letter(name) for name in topics.domains]
    return [("READ", name) for name in topics.domains] + [
        (op, name) for name in dead for op in ("READ", "WRITE")
    ]


class LockedSite(Site):
    """Topics that the administrator made; the user has no right yet."""

    def __init__(self, folder: Path, locked: Locked, connection: list[str], *overrides: str) -> None:
        self.kafka = locked.kafka
        super().__init__(
            folder, "replaced:1", *connection, f"monitor.alerts_topic={folder.parent.name}-alerts",
            "monitor.port=0", *overrides,
        )  # fmt: skip

    def make_topics(self) -> None:
        topics = self.settings.topics
        for topic in topics.domains:
            self.kafka.create_topic(topic, 2)
            self.kafka.create_topic(topics.dead_letter(topic))
        self.kafka.create_topic(self.settings.monitor.alerts_topic)

    def produce(self, rows: int, first: int = 0) -> None:  # type: ignore[override]
        """As the super user: the worker may not write to the click topics."""
        produce([frame(rows, first)], self.kafka.connection(), self.settings.topics)

    def allow_the_least(self) -> None:
        for operation, topic in rights(self):
            self.kafka.allow("trainer", operation, "TOPIC", topic)


def doctor(config: Path | None, *overrides: str, messages: int = 1000) -> tuple[int, dict]:
    """Exit code and findings of ``ecdctr doctor --json``."""
    text = io.StringIO()
    code = examine(Console(file=text), config, list(overrides), as_json=True, messages=messages, topic=None)
    assert PASSWORD not in text.getvalue()
    return code, json.loads(text.getvalue())


def checks(found: dict, status: str) -> dict[str, str]:
    """Checks with this status: name, and what was found with the way out."""
    return {c["name"]: f"{c['found']}; {c['way_out']}" for c in found["checks"] if c["status"] == status}


# -- the guide


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_case_a18_the_commands_of_the_guide_lead_to_a_training_worker(locked, tmp_path):
    brokers = locked.kafka.addresses("SECURE")
    real = {
        "kafka-1.example:9093,kafka-2.example:9093": brokers,
        "/etc/kafka/ca.pem": str(locked.authority.cert),
        "/run/secrets/kafka-password": str(tmp_path / "kafka-password"),
        "ADMIN-PASSWORD": "admin-secret",
        "TRAINER-PASSWORD": PASSWORD,
        "state-dir": str(tmp_path / "state"),
        "--replication-factor 3": "--replication-factor 1",
        "$BROKER": brokers,
        "admin.properties": str(tmp_path / "admin.properties"),
        "scram.properties": str(tmp_path / "scram.properties"),
    }

    def replaced(text: str) -> str:
        for written, here in real.items():
            text = text.replace(written, here)
        return text

    (tmp_path / "kafka-password").write_text(PASSWORD + "\n", encoding="utf-8")
    for name, block in zip(("admin", "scram"), blocks("properties"), strict=True):
        (tmp_path / f"{name}.properties").write_text(replaced(block), encoding="utf-8")
    config = tmp_path / "ecdctr.toml"
    config.write_text(replaced(blocks("toml")[0]), encoding="utf-8")
    commands = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    administration = [shlex.split(replaced(c)) for c in commands if c.startswith("kafka-")]
    assert len(administration) >= 10
    for script, *arguments in administration:
        locked.kafka.tool(script, *arguments)

    small = ("model.dim=4", "model.hidden=[8]", "monitor.port=0")
    settings = load_settings(config, environ={}).settings
    produce([frame(400).drop("price")], locked.kafka.connection(), settings.topics)
    code, found = doctor(config, *small)
    assert code == 0, found
    assert checks(found, "failed") == {} and found["would_run"]
    assert 'messages of "ad-clicks"' in checks(found, "ok")

    options = [text for override in small for text in ("--set", override)]
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "ecdctr", "worker", "--config", str(config), *options],
            stdout=log,
            stderr=log,
            cwd=GUIDE.parents[1],
        )
    try:
        journal = tmp_path / "state" / "journal"
        wait_for(
            lambda: journal.is_dir() and any(file.stat().st_size for file in journal.iterdir()),
            "a step of the worker",
            alive=lambda: None if worker.poll() is None else f"it ended with {worker.returncode}",
            detail=lambda: (tmp_path / "worker.log").read_text(errors="replace"),
        )
        assert commands[-1] == "ecdctr worker" and "ecdctr doctor" in commands
    finally:
        worker.terminate()
        assert worker.wait(timeout=PATIENCE_S) == 0


# -- rights


def test_case_a18_every_missing_right_is_named_and_the_least_rights_are_enough(locked, tmp_path):
    site = LockedSite(tmp_path / "site", locked, locked.connection)
    site.produce(400)
    alerts, group = site.settings.monitor.alerts_topic, site.settings.worker.group
    needed = {f'{op.title()} on topic "{topic}"' for op, topic in rights(site)}

    code, found = doctor(site.config)
    assert code == WOULD_NOT_RUN
    refused = checks(found, "failed")
    assert set(refused) == needed, "all missing rights are named at once"
    for name, text in refused.items():
        assert 'the user "trainer" needs it' in text and "--allow-principal User:trainer" in text, name
    lesser = checks(found, "warning")
    assert f'Write on topic "{alerts}"' in lesser and f'Read on group "{group}"' in lesser

    site.allow_the_least()
    code, found = doctor(site.config)
    assert code == 0, checks(found, "failed")
    for operation, topic in rights(site):
        site.kafka.withdraw("trainer", operation, "TOPIC", topic)
        code, found = doctor(site.config, messages=0)
        assert (code, set(checks(found, "failed"))) == (
            WOULD_NOT_RUN,
            {f'{operation.title()} on topic "{topic}"'},
        )
        site.kafka.allow("trainer", operation, "TOPIC", topic)

    worker = site.start()
    try:
        site.train(400, worker)
        assert site.terminate(worker)[0] == 0
        assert "Traceback" not in site.log()
    finally:
        site.end()


def test_a_missing_right_is_one_sentence_in_every_command(locked, tmp_path):
    site = LockedSite(tmp_path / "site", locked, locked.connection)
    topics = site.settings.topics
    for topic in topics.domains:
        locked.kafka.allow("trainer", "READ", "TOPIC", topic)
    with pytest.raises(BrokerRefusedError) as caught:
        produce([frame(10)], site.settings.kafka, topics)
    sentence = str(caught.value)
    assert 'the user "trainer" does not have the right Write on topic' in sentence
    assert "\n" not in sentence and len(sentence) < 300 and "Request" not in sentence

    other = topics.model_copy(update={"natural": "not-there", "ad": "not-there-either"})
    with pytest.raises(
        BrokerRefusedError, match=r'"not-there" does not exist or is not shown to .* right Create'
    ) as caught:
        ensure_topics(site.settings.kafka, other)
    assert "\n" not in str(caught.value) and "Request" not in str(caught.value)


# -- doctor


def test_doctor_names_what_is_wrong_with_the_topics_and_changes_nothing(locked, tmp_path):
    site = LockedSite(tmp_path / "site", locked, locked.connection, "topics.dead_letter_suffix=.letters")
    site.allow_the_least()
    topics, kafka = site.settings.topics, locked.kafka
    natural, ad = topics.domains
    for topic in (natural, ad, topics.dead_letter(natural), topics.dead_letter(ad)):
        kafka.allow("trainer", "DESCRIBE_CONFIGS", "TOPIC", topic)
    kafka.tool(
        "kafka-configs.sh", "--bootstrap-server", kafka.address, "--alter", "--entity-type", "topics", "--entity-name", natural,
        "--add-config", "cleanup.policy=compact,max.message.bytes=2000000",
    )  # fmt: skip
    kafka.tool(
        "kafka-configs.sh", "--bootstrap-server", kafka.address, "--alter", "--entity-type", "topics", "--entity-name",
        topics.dead_letter(ad), "--add-config", "min.insync.replicas=2",
    )  # fmt: skip
    with kafka.admin() as admin:
        before = set(admin.list_topics())

    def told() -> dict[str, str]:
        # The configuration of a topic takes a moment to reach the broker.
        return checks(doctor(site.config)[1], "warning")

    warnings = wait_for(
        lambda: w if f'clean-up of topic "{natural}"' in (w := told()) else None, "the changed configuration"
    )
    assert "cleanup.policy = compact" in warnings[f'clean-up of topic "{natural}"']
    assert "max.message.bytes" in warnings[f'message size of "{topics.dead_letter(natural)}"']
    assert "10 days" not in warnings, warnings
    assert any(
        "is valid until" in text and "renew" in text
        for name, text in warnings.items()
        if name.startswith("TLS")
    )
    code, found = doctor(site.config)
    failed = checks(found, "failed")
    assert code == WOULD_NOT_RUN
    assert "min.insync.replicas = 2" in failed[f'topic "{topics.dead_letter(ad)}"']
    with kafka.admin() as admin:
        assert set(admin.list_topics()) == before
        assert site.settings.worker.group not in {found["group_id"] for found in admin.list_groups()}


@pytest.mark.parametrize(
    ("change", "stage", "said"),
    [
        ('kafka.password_file=""', "configuration", "kafka.password_file"),
        ("kafka.username=nobody", "SASL", 'refuses the user kafka.username = "nobody"'),
        ("kafka.security=sasl_plaintext", "TLS", "expects TLS"),
        ("kafka.ca_file=", "TLS", "not from an authority"),
        ("kafka.mechanism=PLAIN", "SASL", "it accepts SCRAM-SHA-512"),
        ('kafka.brokers="127.0.0.1:1"', "port", "nothing listens"),
    ],
)
def test_case_a16_doctor_names_the_stage_that_fails(locked, tmp_path, change, stage, said):
    connection = [o for o in locked.connection if not (change.startswith("kafka.ca_file") and "ca_file" in o)]
    overrides = connection + ([] if change == "kafka.ca_file=" else [change])
    began = time.monotonic()
    code, found = doctor(None, *overrides, f'state.folder="{tmp_path / "state"}"')
    assert code == WOULD_NOT_RUN
    [(name, text)] = checks(found, "failed").items()
    assert name.startswith(stage) and said in text
    assert time.monotonic() - began < allowance(10)


def test_doctor_ends_while_a_broker_hangs(locked, tmp_path):
    node = locked.kafka.nodes[0]
    node.suspend()
    try:
        code, found = doctor(None, *locked.connection, f'state.folder="{tmp_path / "state"}"')
    finally:
        node.resume()
        locked.kafka.wait_ready()
    assert code == WOULD_NOT_RUN
    assert any("does not answer" in text for text in checks(found, "failed").values())
    assert "state folder" in checks(found, "ok"), "the checks after it are made"


# -- tokens


def test_case_a17_a_worker_outlives_its_tokens(locked, tmp_path, monkeypatch):
    log = tmp_path / "tokens.log"
    monkeypatch.setenv("TOKEN_SECONDS", "6")
    monkeypatch.setenv("TOKEN_LOG", str(log))
    site = LockedSite(tmp_path / "site", locked, locked.token_connection)
    site.allow_the_least()
    try:
        site.produce(1_000)
        worker = site.start()
        site.train(1_000, worker)
        made = unsigned_tokens.made(log)
        assert made >= 1
        # The broker ends the sessions of tokens that have expired: what comes after needs two more of them.
        site.wait(lambda: unsigned_tokens.made(log) >= made + 2, "make new tokens", worker)
        site.produce(1_000, first=1_000)
        site.train(2_000, worker)
        assert site.terminate(worker)[0] == 0
        assert site.books() == (0, 0)
        assert "Traceback" not in site.log() and "eyJ" not in site.log(), "no token is logged"
    finally:
        site.end()


@pytest.mark.parametrize(
    ("function", "cause", "said"),
    [
        ("expired", Cause.CREDENTIALS, "refuses the token from kafka.token_provider"),
        ("failing", Cause.TOKEN, "no credentials were found"),
    ],
)
def test_case_a17_a_token_that_is_refused_or_missing_is_named(
    locked, tmp_path, decoder, function, cause, said
):
    overrides = [*locked.token_connection, f'kafka.token_provider="{unsigned_tokens.__name__}:{function}"']
    kafka = load_settings(None, overrides, environ={}).settings.kafka
    found = probe_brokers(kafka, timeout_s=10)
    assert found is not None and found.cause is cause and said in str(found)
    assert "\n" not in str(found) and "eyJ" not in str(found)
    code, answer = doctor(None, *overrides, f'state.folder="{tmp_path / "state"}"')
    [(name, text)] = checks(answer, "failed").items()
    assert code == WOULD_NOT_RUN and name.startswith("SASL") and said in text


def test_case_a17_both_clients_authenticate_by_tokens(locked, decoder):
    kafka = load_settings(None, locked.token_connection, environ={}).settings.kafka
    assert probe_brokers(kafka, timeout_s=10) is None
    locked.kafka.create_topic("by-token")
    locked.kafka.allow("trainer", "READ", "TOPIC", "by-token")
    with KafkaLog(kafka, decoder, {"by-token": 0}) as log:
        assert log.end(log.partitions()) == {("by-token", 0): 0}


@pytest.fixture
def decoder():
    from ecdctr.events.decoder import EventDecoder
    from ecdctr.events.settings import default_features

    return EventDecoder(default_features())
