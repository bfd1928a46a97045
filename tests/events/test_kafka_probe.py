"""The reason why a broker cannot be used, against listeners of Apache Kafka of each kind."""

import asyncio
import socket
import time

import pytest

from ecdctr.events.kafka import BrokerProblem, Cause, KafkaLog, probe_brokers
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError
from ecdctr.streams.dead_letters import DeadLetters
from ecdctr.streams.embedded import EmbeddedBroker, free_port
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import ensure_topics
from tests.support.apache_kafka import ApacheKafka, Listener, missing
from tests.support.certificates import Authority
from tests.support.waiting import allowance

QUICK_S = 3.0
"""The probe limits itself to 0.9 s; the rest is for a busy machine."""
PASSWORDS = {"alice": "alice-secret", "bob": "bob-secret"}

needs_kafka = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
]


class Cluster:
    """One node with a listener of each kind, the authorities, and settings that fit."""

    def __init__(self, folder) -> None:
        self.authority = Authority(folder / "tls")
        self.other = Authority(folder / "tls", "other-authority")
        server = self.authority.issue("server")
        self.client, self.foreign = self.authority.issue("client"), self.other.issue("client")
        self.kafka = ApacheKafka(
            folder,
            listeners=[
                Listener("TLS", "SSL", server),
                Listener("EXPIRED", "SSL", self.authority.issue("expired", days=-1)),
                Listener("ELSEWHERE", "SSL", self.authority.issue("elsewhere", "DNS:kafka.example")),
                Listener("MUTUAL", "SSL", server, client_authority=self.authority.cert),
                Listener("USERS", "SASL_PLAINTEXT"),
                Listener("SCRAM", "SASL_SSL", server, mechanisms=("SCRAM-SHA-512",)),
                Listener("INWARD", "PLAINTEXT", advertised=f"127.0.0.1:{free_port()}"),
            ],
            plain_users=PASSWORDS,
            acls=True,
        )

    def settings(self, listener: str, **changes) -> KafkaSettings:
        """What fits the listener, with these changes."""
        security = self.kafka.connection(listener, username="x", password="x").security
        fitting: dict = {}
        if security.endswith("ssl"):
            fitting["ca_file"] = self.authority.cert
        if security.startswith("sasl"):
            fitting |= {"username": "alice", "password": PASSWORDS["alice"]}
        if listener == "MUTUAL":
            fitting |= {"cert_file": self.client.cert, "key_file": self.client.key}
        return self.kafka.connection(listener, **{**fitting, **changes})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    made = Cluster(tmp_path_factory.mktemp("probe"))
    with made.kafka:
        made.kafka.add_scram_user("alice", PASSWORDS["alice"])
        yield made


PATIENT_S = 10.0
"""A broker on a busy machine may answer later than the probe usually waits."""


def problem_of(settings: KafkaSettings, topics=(), **timeout: float) -> BrokerProblem:
    """The problem that the probe finds, in time."""
    began = time.monotonic()
    found = probe_brokers(settings, topics, **timeout)
    assert time.monotonic() - began < allowance(QUICK_S)
    assert found is not None
    print(f"{found.cause:<28} {time.monotonic() - began:.3f} s  {found}")  # noqa: T201
    for password in PASSWORDS.values():
        assert password not in str(found)
    return found


@pytest.mark.parametrize("listener", ["PLAINTEXT", "TLS", "MUTUAL", "USERS", "SCRAM"])
class TestFitting:
    pytestmark = needs_kafka

    def test_settings_that_fit_have_no_problem(self, listener, cluster):
        assert probe_brokers(cluster.settings(listener), timeout_s=30) is None


# case: listener, changes, cause, what the sentence has to name
REFUSALS = {
    "TLS against plaintext": ("PLAINTEXT", {"security": "ssl"}, Cause.TLS_UNEXPECTED, 'set kafka.security to "plaintext"'),
    "SASL over TLS against SASL over plaintext": ("USERS", {"security": "sasl_ssl"}, Cause.TLS_UNEXPECTED, '"sasl_plaintext"'),
    "plaintext against TLS": ("TLS", {"security": "plaintext"}, Cause.TLS_EXPECTED, 'set kafka.security to "ssl"'),
    "SASL over plaintext against TLS": ("SCRAM", {"security": "sasl_plaintext"}, Cause.TLS_EXPECTED, '"sasl_ssl"'),
    "unknown authority": ("TLS", {"ca_file": "other"}, Cause.UNKNOWN_CA, "other-authority.pem"),
    "the system's authorities": ("TLS", {"ca_file": None}, Cause.UNKNOWN_CA, "kafka.ca_file is not set"),
    "expired certificate": ("EXPIRED", {}, Cause.EXPIRED, "certificate has expired"),
    "host name": ("ELSEWHERE", {}, Cause.HOST_NAME, "127.0.0.1"),
    "client certificate missing": ("MUTUAL", {"cert_file": None, "key_file": None}, Cause.CLIENT_CERTIFICATE_MISSING, "kafka.cert_file"),
    "client certificate foreign": ("MUTUAL", {"cert_file": "foreign", "key_file": "foreign"}, Cause.CLIENT_CERTIFICATE_REFUSED, "other-authority-client.pem"),
    "mechanism": ("SCRAM", {"mechanism": "PLAIN"}, Cause.MECHANISM, "it accepts SCRAM-SHA-512"),
    "password of PLAIN": ("USERS", {"mechanism": "PLAIN", "password": "wrong"}, Cause.CREDENTIALS, '"alice"'),
    "password of SCRAM": ("SCRAM", {"password": "wrong"}, Cause.CREDENTIALS, '"alice"'),
    "user": ("SCRAM", {"username": "nobody"}, Cause.CREDENTIALS, '"nobody"'),
    "no user": ("USERS", {"security": "plaintext"}, Cause.SASL_EXPECTED, 'set kafka.security to "sasl_plaintext"'),
    "a user against a listener without": ("PLAINTEXT", {"security": "sasl_plaintext", "username": "alice", "password": "x"}, Cause.SASL_UNEXPECTED, '"plaintext"'),
    "advertised address": ("INWARD", {}, Cause.ADVERTISED, "advertised.listeners"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
class TestRefusals:
    pytestmark = needs_kafka

    def test_case_a16_the_reason_is_named_at_once(self, case, cluster):
        listener, changes, cause, named = REFUSALS[case]
        files = {
            ("ca_file", "other"): cluster.other.cert,
            ("cert_file", "foreign"): cluster.foreign.cert,
            ("key_file", "foreign"): cluster.foreign.key,
        }
        changes = {key: files.get((key, value), value) for key, value in changes.items()}
        settings = cluster.settings(listener, **changes)
        found = problem_of(settings, timeout_s=PATIENT_S)
        assert found.cause is cause, found
        assert named in str(found)
        assert settings.addresses[0] in str(found)
        assert found.may_pass is (cause is Cause.ADVERTISED)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
class TestRights:
    pytestmark = needs_kafka

    def test_a_right_that_is_withdrawn(self, mechanism, cluster, decoder):
        topic, kafka = f"rights-{mechanism.lower()}", cluster.kafka
        kafka.create_topic(topic)
        kafka.allow("alice", "READ", "TOPIC", topic)
        settings = cluster.settings("USERS", mechanism=mechanism)
        assert probe_brokers(settings, [topic]) is None
        with KafkaLog(settings, decoder, {topic: 0}) as log:
            assert log.partitions() == [(topic, 0)]
        kafka.withdraw("alice", "READ", "TOPIC", topic)
        found = problem_of(settings, [topic], timeout_s=PATIENT_S)
        assert found.cause is Cause.RIGHT
        assert f'topic "{topic}"' in str(found) and 'the user "alice"' in str(found)
        with pytest.raises(BrokerRefusedError, match=f'topic "{topic}" to the user "alice"'):
            KafkaLog(settings, decoder, {topic: 0})


class TestSuspended:
    pytestmark = needs_kafka

    def test_a_broker_that_hangs(self, cluster):
        node = cluster.kafka.nodes[0]
        node.suspend()
        try:
            assert problem_of(cluster.settings("SCRAM")).cause is Cause.TIMEOUT
        finally:
            node.resume()
        cluster.kafka.wait_ready()
        assert probe_brokers(cluster.settings("SCRAM"), timeout_s=10) is None


class TestUsers:
    """What uses the probe ends at once, too."""

    pytestmark = needs_kafka

    def test_commands_on_topics(self, cluster):
        settings = cluster.settings("SCRAM", password="wrong")
        began = time.monotonic()
        with pytest.raises(BrokerRefusedError, match=r"refuses the user .* with SCRAM-SHA-512"):
            ensure_topics(settings, TopicSettings())
        assert time.monotonic() - began < allowance(QUICK_S)

    def test_dead_letters_without_a_right_to_their_topic(self, cluster):
        letters = DeadLetters(cluster.settings("USERS"), TopicSettings(natural="n", ad="a"))
        with pytest.raises(BrokerRefusedError, match=r'topic "(n|a)\.dlq" to the user "alice"'):
            asyncio.run(letters.start({}))


@pytest.fixture
def decoder():
    from ecdctr.events.decoder import EventDecoder
    from ecdctr.events.settings import default_features

    return EventDecoder(default_features())


def test_a_name_that_does_not_resolve():
    found = problem_of(KafkaSettings(brokers="no-such-host.invalid:9092"))
    assert found.cause in (Cause.NAME, Cause.TIMEOUT)  # a resolver may need longer than the probe waits
    assert "no-such-host.invalid:9092" in str(found)
    assert found.may_pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_where_nothing_listens(host, decoder):
    settings = KafkaSettings(brokers=f"{host}:{free_port()}")
    found = problem_of(settings)
    assert found.cause is Cause.REFUSED
    assert "ecdctr broker" in str(found)
    assert found.may_pass
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match=f"nothing listens at {settings.addresses[0]}"):
        KafkaLog(settings, decoder, {"any": 0})
    assert time.monotonic() - began < allowance(QUICK_S)


@pytest.mark.parametrize("security", ["plaintext", "ssl"])
def test_a_broker_that_is_silent(security):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and never answers
        found = problem_of(KafkaSettings(brokers=f"127.0.0.1:{silent.getsockname()[1]}", security=security))
    assert found.cause is Cause.TIMEOUT
    assert found.may_pass


def test_a_broker_that_closes_every_connection():
    async def main():
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(problem_of, KafkaSettings(brokers=f"127.0.0.1:{port}"))

    assert asyncio.run(main()).cause is Cause.CLOSED


@pytest.mark.broker
def test_one_usable_broker_of_several_is_enough():
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(brokers=[f"127.0.0.1:{free_port()}", broker.address])
        assert probe_brokers(settings, ["absent"]) is None
        found = problem_of(KafkaSettings(brokers=broker.address, security="ssl"))
        assert found.cause is Cause.TLS_UNEXPECTED
    assert problem_of(settings).cause is Cause.REFUSED
