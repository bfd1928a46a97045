"""Apache Kafka for tests: one or three KRaft nodes on loopback, which tests may stop, kill and suspend.

The jars come from the folder that ``ECDCTR_KAFKA_LIBS`` names, or from ``.kafka/libs``, which ``make kafka`` fills.
Without jars or without Java the fixtures skip their tests and state the reason.

The listener ``PLAINTEXT`` is always there: the nodes and the harness use it, and with ``acls`` its anonymous user is
the only super user. Further listeners are added by :class:`Listener`.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    NewTopic,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.embedded import free_port
from tests.support.certificates import Certificate

__all__ = ["ApacheKafka", "KafkaNode", "Listener", "apache_broker", "missing"]

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0
"""A node is ready in 6 s on an idle machine; the limit is for a machine that runs other tests too."""
_ASK_EVERY_S = 0.1
_STOP_S = 60.0
_LOG_LINES = 60
_TOOLS = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
}
_UNSECURED = "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
_JVM = ("-Xmx384m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

for _client in ("kafka", "aiokafka"):
    logging.getLogger(_client).setLevel(logging.CRITICAL)


def missing() -> str | None:
    """What is missing on this machine to run Apache Kafka; None if nothing is."""
    if shutil.which("java") is None:
        return "Apache Kafka needs Java: there is no `java` on the PATH"
    if not any(_libs().glob("kafka_2.13-*.jar")):
        return f"no jars of Apache Kafka in {_libs()}: run `make kafka`, or set ECDCTR_KAFKA_LIBS"
    return None


def _libs() -> Path:
    return Path(os.environ.get("ECDCTR_KAFKA_LIBS") or ROOT / ".kafka" / "libs")


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener of every node.

    Attributes
    ----------
    name
        Kafka's name of the listener, in capital letters; ``PLAINTEXT`` and ``CONTROLLER`` are taken.
    security
        One of ``PLAINTEXT``, ``SSL``, ``SASL_PLAINTEXT``, ``SASL_SSL``.
    certificate
        The certificate that a TLS listener presents.
    client_authority
        PEM file of the authority that client certificates have to come from; None: no client certificate is needed.
    mechanisms
        SASL mechanisms that are enabled. OAUTHBEARER takes unsigned tokens, see ``tests.support.unsigned_tokens``.
    advertised
        ``host:port`` that the broker returns to clients; default: the address on which it listens.
    """

    name: str
    security: str
    certificate: Certificate | None = None
    client_authority: Path | None = None
    mechanisms: tuple[str, ...] = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    advertised: str | None = None

    def properties(self, plain_users: Mapping[str, str]) -> dict[str, str]:
        """The lines of ``server.properties`` that configure it."""
        prefix = f"listener.name.{self.name.lower()}."
        out: dict[str, str] = {}
        if self.certificate is not None:
            out |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(self.certificate.store)}
        if self.client_authority is not None:
            out |= {
                "ssl.client.auth": "required",
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.client_authority),
            }
        if self.security.startswith("SASL"):
            out["sasl.enabled.mechanisms"] = ",".join(self.mechanisms)
            users = "".join(f' user_{user}="{password}"' for user, password in plain_users.items())
            modules = {
                "PLAIN": f"plain.PlainLoginModule required{users}",
                "OAUTHBEARER": 'oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker"',
            }
            for mechanism in self.mechanisms:
                module = modules.get(mechanism, "scram.ScramLoginModule required")
                out[f"{mechanism.lower()}.sasl.jaas.config"] = f"org.apache.kafka.common.security.{module};"
            if "OAUTHBEARER" in self.mechanisms:
                # Takes unsigned tokens; a session ends with its token only where re-authentication is on.
                out["oauthbearer.sasl.server.callback.handler.class"] = _UNSECURED
                out["oauthbearer.connections.max.reauth.ms"] = "3600000"
        return {prefix + key: value for key, value in out.items()}


_INTERNAL = Listener("PLAINTEXT", "PLAINTEXT")


class KafkaNode:
    """One node: broker and controller in one process.

    Tests get nodes from :attr:`ApacheKafka.nodes`.
    """

    def __init__(self, number: int, folder: Path, ports: Mapping[str, int]) -> None:
        self.number, self.folder, self.ports = number, folder, dict(ports)
        self.log_file = folder / "node.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running node."""
        if self._process is None:
            raise RuntimeError(f"node {self.number} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process exists (a suspended one does)."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process; :meth:`ApacheKafka.start_node` also waits until it answers."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                _java("kafka.Kafka", self.folder / "server.properties"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def stop(self) -> None:
        """Stop gracefully (SIGTERM): leaders move to other nodes first. A node that takes too long is killed."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def suspend(self) -> None:
        """SIGSTOP: the connections stay open, and the node does not respond."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def log_tail(self) -> str:
        """The last warnings, errors and stack traces of its output; everything else is left out."""
        if not self.log_file.exists():
            return "(no output)"
        lines = self.log_file.read_text(errors="replace").splitlines()
        # Lines that begin with a tab are of the printed configuration, but for those of a stack trace.
        wrong = [
            line for line in lines if " INFO " not in line and (not line.startswith("\t") or "\tat " in line)
        ]
        return "\n".join((wrong or lines)[-_LOG_LINES:])


class ApacheKafka:
    """A cluster of Apache Kafka in a folder.

    Parameters
    ----------
    folder
        Configuration, data and logs of the nodes.
    nodes
        1 or 3; of three, topics have three replicas of which two must be in sync.
    listeners
        Listeners in addition to ``PLAINTEXT``.
    plain_users
        ``{user: password}`` of the mechanism PLAIN. Users of SCRAM are added with :meth:`add_scram_user`.
    acls
        Use Kafka's ``StandardAuthorizer``: users of other listeners may do only what :meth:`allow` grants.
    properties
        Further lines of ``server.properties``.

    Examples
    --------
    >>> with ApacheKafka(folder) as kafka:  # doctest: +SKIP
    ...     print(kafka.address)
    127.0.0.1:23456
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        listeners: Sequence[Listener] = (),
        *,
        plain_users: Mapping[str, str] | None = None,
        acls: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.listeners = (_INTERNAL, *listeners)
        self._plain_users = dict(plain_users or {})
        self._acls = acls
        self._properties = dict(properties or {})
        names = [*(listener.name for listener in self.listeners), "CONTROLLER"]
        ports = iter(_free_ports(nodes * len(names)))
        self.nodes = [
            KafkaNode(i + 1, folder / f"node-{i + 1}", {name: next(ports) for name in names})
            for i in range(nodes)
        ]

    # -- addresses

    @property
    def address(self) -> str:
        """``host:port`` of every node's PLAINTEXT listener, with commas."""
        return self.addresses()

    def addresses(self, listener: str = "PLAINTEXT") -> str:
        """``host:port`` of every node's listener of this name, with commas."""
        return ",".join(f"127.0.0.1:{node.ports[listener]}" for node in self.nodes)

    def connection(self, listener: str = "PLAINTEXT", **settings: Any) -> KafkaSettings:
        """Settings of a client of this listener; ``settings`` adds to them or replaces them."""
        security = next(found.security for found in self.listeners if found.name == listener)
        return KafkaSettings(
            **{"brokers": self.addresses(listener), "security": security.lower(), **settings}
        )

    # -- start and stop

    def start(self) -> ApacheKafka:
        """Format the storage, start all nodes and wait until each answers and sees the others.

        Raises
        ------
        RuntimeError
            A node ended or did not answer in time; the message holds the end of its log.
        """
        reason = missing()
        if reason is not None:
            raise RuntimeError(reason)
        atexit.register(self.kill)
        try:
            self._format()
            for node in self.nodes:
                node.launch()
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def start_node(self, node: KafkaNode) -> None:
        """Start a node that was stopped or killed, and wait until every running node sees it."""
        node.launch()
        self.wait_ready()

    def stop(self) -> None:
        """Stop all nodes; calling it twice is fine."""
        # Together: a node that stops alone waits for a controller that can move its partitions.
        for node in self.nodes:
            if node.running:
                node.resume()
                os.kill(node.pid, signal.SIGTERM)
        for node in self.nodes:
            node.stop()
        atexit.unregister(self.kill)

    def kill(self) -> None:
        """kill -9 of all nodes."""
        for node in self.nodes:
            node.kill()
        atexit.unregister(self.kill)

    def __enter__(self) -> ApacheKafka:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self) -> None:
        """Wait until each running node names all running nodes as brokers; a node that ends is an error."""
        running = [node for node in self.nodes if node.running]
        wanted = {node.number for node in running}
        deadline = time.monotonic() + START_S
        for node in self.nodes:
            if node in running:
                while not wanted <= _brokers_seen_by(node):
                    if not node.running:
                        raise RuntimeError(f"node {node.number} of Apache Kafka ended:\n{node.log_tail()}")
                    if time.monotonic() > deadline:
                        raise RuntimeError(
                            f"node {node.number} of Apache Kafka did not see nodes {sorted(wanted)} within "
                            f"{START_S:.0f} s:\n{node.log_tail()}"
                        )
                    time.sleep(_ASK_EVERY_S)
            elif node._process is not None:
                raise RuntimeError(f"node {node.number} of Apache Kafka ended:\n{node.log_tail()}")

    def _format(self) -> None:
        cluster = _short_uuid()
        for node in self.nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
            lines = [f"{key}={value}" for key, value in self._server_properties(node).items()]
            path = node.folder / "server.properties"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            done = subprocess.run(
                _java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", path),
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"the storage of Apache Kafka: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _server_properties(self, node: KafkaNode) -> dict[str, str]:
        replicas = len(self.nodes)
        bound = {listener.name: node.ports[listener.name] for listener in self.listeners}
        listen = [f"{name}://127.0.0.1:{port}" for name, port in bound.items()]
        advertised = [
            f"{listener.name}://{listener.advertised or f'127.0.0.1:{bound[listener.name]}'}"
            for listener in self.listeners
        ]
        protocols = {listener.name: listener.security for listener in self.listeners}
        out = {
            "process.roles": "broker,controller",
            "node.id": str(node.number),
            "controller.quorum.voters": ",".join(
                f"{n.number}@127.0.0.1:{n.ports['CONTROLLER']}" for n in self.nodes
            ),
            "listeners": ",".join([*listen, f"CONTROLLER://127.0.0.1:{node.ports['CONTROLLER']}"]),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in {**protocols, "CONTROLLER": "PLAINTEXT"}.items()
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(node.folder / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(min(2, replicas)),
            "offsets.topic.replication.factor": str(replicas),
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(min(2, replicas)),
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": "16777216",
        }
        if self._acls:
            out["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            out["super.users"] = "User:ANONYMOUS"
        for listener in self.listeners:
            out |= listener.properties(self._plain_users)
        return out | self._properties

    def tool(self, script: str, *arguments: str) -> str:
        """Run one of Kafka's command-line tools, by the name of its script, and return its output."""
        done = subprocess.run(
            _java(_TOOLS[script], *arguments), capture_output=True, text=True, check=False, timeout=START_S
        )
        output = done.stdout + done.stderr
        if done.returncode or "Error while executing" in output:
            raise RuntimeError(f"{script} {' '.join(arguments)}: {output[-2000:]}")
        return output

    # -- topics, users, permissions

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        """kafka-python's admin client as the super user."""
        admin = KafkaAdminClient(bootstrap_servers=self.address.split(","))
        try:
            yield admin
        finally:
            admin.close()

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """Create a topic and wait until every running node shows all leaders of it.

        ``config`` has the topic's settings with underscores: ``compression_type="zstd"``.
        """
        settings = {key.replace("_", "."): value for key, value in config.items()}
        with self.admin() as admin:
            admin.create_topics([NewTopic(name, partitions, -1, topic_configs=settings)])
        deadline = time.monotonic() + START_S
        for node in self.nodes:
            while node.running and len(_leaders(node, name)) < partitions:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"node {node.number} shows no leaders of topic {name!r}")
                time.sleep(_ASK_EVERY_S)

    def leader(self, topic: str, partition: int = 0) -> KafkaNode:
        """The node that leads a partition."""
        for node in self.nodes:
            if node.running and (found := _leaders(node, topic).get(partition)) is not None:
                return next(n for n in self.nodes if n.number == found)
        raise RuntimeError(f"no node names a leader of {topic}[{partition}]")

    def add_scram_user(self, name: str, password: str, mechanism: str = "SCRAM-SHA-512") -> None:
        """Create a user of SCRAM, or change the password of one."""
        kind = ScramMechanism[mechanism.replace("-", "_")]
        with self.admin() as admin:
            failed = admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(name, kind, password, iterations=4096)]
            )
        if any(failed.values()):
            raise RuntimeError(f"SCRAM user {name!r}: {failed}")

    def allow(self, user: str, operation: str, kind: str, name: str) -> None:
        """Grant a permission: ``allow("alice", "READ", "TOPIC", "natural-clicks")``."""
        with self.admin() as admin:
            failed = admin.create_acls([_acl(user, operation, kind, name)])["failed"]
        if failed:
            raise RuntimeError(f"{operation} on {kind} {name!r} for {user!r}: {failed}")

    def withdraw(self, user: str, operation: str, kind: str, name: str) -> None:
        """Revoke a permission that :meth:`allow` granted."""
        with self.admin() as admin:
            admin.delete_acls([_acl(user, operation, kind, name)])


@pytest.fixture(scope="session")
def apache_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """One node of Apache Kafka for tests that do not stop or reconfigure it; they are skipped where it cannot run."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with ApacheKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


def _java(main: str, *arguments: str | Path) -> list[str]:
    command = ["java", *_JVM, "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    command += ["-cp", f"{_libs()}/*", main, *map(str, arguments)]
    # The kernel ends the node with the process that started it, even if that is killed.
    return ["setpriv", "--pdeathsig", "KILL", *command] if shutil.which("setpriv") else command


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


def _short_uuid() -> str:
    """22 letters, as Kafka writes uuids; none begins with a hyphen, which would look like an option."""
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


def _brokers_seen_by(node: KafkaNode) -> set[int]:
    cluster = _metadata(node, None)
    return set() if cluster is None else {broker.nodeId for broker in cluster.brokers()}


def _leaders(node: KafkaNode, topic: str) -> dict[int, int]:
    cluster = _metadata(node, topic)
    if cluster is None:
        return {}
    partitions = cluster.partitions_for_topic(topic) or ()
    found = {p: cluster.leader_for_partition(TopicPartition(topic, p)) for p in partitions}
    return {partition: leader for partition, leader in found.items() if leader not in (None, -1)}


def _metadata(node: KafkaNode, topic: str | None) -> Any:
    """The cluster's metadata as one node returns it; None while the node does not respond."""
    if not node.running:
        return None

    async def ask() -> Any:
        client = AIOKafkaClient(
            bootstrap_servers=f"127.0.0.1:{node.ports['PLAINTEXT']}", request_timeout_ms=2_000
        )
        try:
            await client.bootstrap()
            if topic is not None:
                await client.set_topics([topic])
            return client.cluster
        except (KafkaError, OSError):
            return None
        finally:
            await client.close()

    return asyncio.run(ask())


def _acl(user: str, operation: str, kind: str, name: str) -> ACL:
    pattern = ResourcePattern(ResourceType[kind], name)
    return ACL(f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
