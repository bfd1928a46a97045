"""Apache Kafka for tests: one or three KRaft nodes on loopback, which tests may stop, kill and suspend.

Without jars (:mod:`tests.support.kafka.node`) or without Java, tests that need it are skipped and state the reason.

The listener ``PLAINTEXT`` is always there: the nodes and the harness use it, and with ``acls`` its anonymous user is
the only super user. Further listeners are added by :class:`Listener`.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    NewTopic,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.embedded import free_port
from tests.support.kafka.listeners import INTERNAL, Listener, server_properties
from tests.support.kafka.node import KafkaNode, java, missing

__all__ = ["ApacheKafka", "KafkaNode", "Listener", "missing"]

START_S = 180.0
"""A node is ready in 6 s on an idle machine; the limit is for a machine that runs other tests too."""
_ASK_EVERY_S = 0.1
_TOOLS = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
}

for _client in ("kafka", "aiokafka"):
    logging.getLogger(_client).setLevel(logging.CRITICAL)


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
        self.listeners = (INTERNAL, *listeners)
        self._plain_users = dict(plain_users or {})
        self._acls = acls
        self._properties = dict(properties or {})
        names = [*(listener.name for listener in self.listeners), "CONTROLLER"]
        ports = iter(_free_ports(nodes * len(names)))
        self.nodes = [
            KafkaNode(i + 1, folder / f"node-{i + 1}", {name: next(ports) for name in names})
            for i in range(nodes)
        ]

    @classmethod
    def attached(cls, folder: Path, started: Mapping[str, Any]) -> ApacheKafka:
        """A cluster without further listeners that another process runs; ``started`` is its :meth:`to_json`."""
        kafka = cls(folder)
        kafka.nodes = [
            KafkaNode(node["number"], folder / f"node-{node['number']}", node["ports"], node["pid"])
            for node in started["nodes"]
        ]
        return kafka

    def to_json(self) -> dict[str, Any]:
        """What another process needs for :meth:`attached`."""
        return {"nodes": [{"number": n.number, "ports": n.ports, "pid": n.pid} for n in self.nodes]}

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

        A cluster that was killed starts again with an empty log.

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
                while not wanted <= node.brokers():
                    if not node.running:
                        raise RuntimeError(f"node {node.number} of Apache Kafka ended:\n{node.log_tail()}")
                    if time.monotonic() > deadline:
                        raise RuntimeError(
                            f"node {node.number} of Apache Kafka did not see nodes {sorted(wanted)} within "
                            f"{START_S:.0f} s:\n{node.log_tail()}"
                        )
                    time.sleep(_ASK_EVERY_S)
            elif node.ended:
                raise RuntimeError(f"node {node.number} of Apache Kafka ended:\n{node.log_tail()}")

    def _format(self) -> None:
        cluster = _short_uuid()
        ports = {node.number: node.ports for node in self.nodes}
        for node in self.nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(node.folder / "data", ignore_errors=True)
            found = server_properties(
                node.number,
                node.folder,
                ports,
                self.listeners,
                plain_users=self._plain_users,
                acls=self._acls,
            )
            lines = [f"{key}={value}" for key, value in (found | self._properties).items()]
            path = node.folder / "server.properties"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            done = subprocess.run(
                java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", path),
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"the storage of Apache Kafka: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def tool(self, script: str, *arguments: str) -> str:
        """Run one of Kafka's command-line tools, by the name of its script, and return its output."""
        done = subprocess.run(
            java(_TOOLS[script], *arguments), capture_output=True, text=True, check=False, timeout=START_S
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
            while node.running and len(node.leaders(name)) < partitions:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"node {node.number} shows no leaders of topic {name!r}")
                time.sleep(_ASK_EVERY_S)

    def configure_topic(self, name: str, **config: str) -> None:
        """Change settings of a topic, named as in :meth:`create_topic`, and wait until the brokers report them."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        with self.admin() as admin:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=settings)])
            deadline = time.monotonic() + START_S
            while True:
                found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
                values = {key: entry["value"] for key, entry in found["topic"][name].items()}
                if settings.items() <= values.items():
                    return
                if time.monotonic() > deadline:
                    raise RuntimeError(f"topic {name!r} does not take {settings}: {values}")
                time.sleep(_ASK_EVERY_S)

    def leader(self, topic: str, partition: int = 0) -> KafkaNode:
        """The node that leads a partition."""
        for node in self.nodes:
            if node.running and (found := node.leaders(topic).get(partition)) is not None:
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


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


def _short_uuid() -> str:
    """22 letters, as Kafka writes uuids; none begins with a hyphen, which would look like an option."""
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


def _acl(user: str, operation: str, kind: str, name: str) -> ACL:
    pattern = ResourcePattern(ResourceType[kind], name)
    return ACL(f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
