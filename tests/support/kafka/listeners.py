"""Listeners of Apache Kafka, and the ``server.properties`` of a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Certificate

__all__ = ["INTERNAL", "Listener", "server_properties"]

_UNSECURED = "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"


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


INTERNAL = Listener("PLAINTEXT", "PLAINTEXT")
"""The listener that nodes and harness use; with ACLs, its anonymous user is the only super user."""


def server_properties(
    number: int,
    folder: Path,
    ports: Mapping[int, Mapping[str, int]],
    listeners: Sequence[Listener],
    *,
    plain_users: Mapping[str, str],
    acls: bool,
) -> dict[str, str]:
    """The configuration of node ``number`` of a cluster.

    Parameters
    ----------
    folder
        The node's folder; its data go to ``data`` in it.
    ports
        ``{node: {listener: port}}`` of all nodes, ``CONTROLLER`` included.
    listeners
        All listeners other than ``CONTROLLER``.
    plain_users
        ``{user: password}`` of the mechanism PLAIN.
    acls
        Use ``StandardAuthorizer``.
    """
    replicas, own = len(ports), ports[number]
    listen = [f"{listener.name}://127.0.0.1:{own[listener.name]}" for listener in listeners]
    advertised = [
        f"{listener.name}://{listener.advertised or f'127.0.0.1:{own[listener.name]}'}"
        for listener in listeners
    ]
    protocols = {listener.name: listener.security for listener in listeners} | {"CONTROLLER": "PLAINTEXT"}
    out = {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p['CONTROLLER']}" for n, p in ports.items()),
        "listeners": ",".join([*listen, f"CONTROLLER://127.0.0.1:{own['CONTROLLER']}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
        "inter.broker.listener.name": INTERNAL.name,
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(folder / "data"),
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
        "log.cleaner.backoff.ms": "1000",
    }
    if acls:
        out["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        out["super.users"] = "User:ANONYMOUS"
    for listener in listeners:
        out |= listener.properties(plain_users)
    return out
