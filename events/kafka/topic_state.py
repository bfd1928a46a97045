"""``topic_problem``: why topics of a cluster that answers cannot be read or written now, as one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import errors
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from ecdctr.events.kafka.own_loop import run_in_own_loop
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError

__all__ = ["naming_partitions", "topic_problem"]

TIMEOUT_S = 2.0
_NAMED = 5
"""Partitions that a sentence lists; the others are counted."""


def topic_problem(
    settings: KafkaSettings, topics: Sequence[str], *, write: bool = False, timeout_s: float = TIMEOUT_S
) -> str | None:
    """Ask the brokers for the state of topics, and connect to the leaders of their partitions.

    1. A topic that the brokers do not show: it does not exist, or the right to see it is missing.
    2. A partition without a leader.
    3. A leader whose advertised address cannot be reached from here.
    4. With ``write``: a partition with fewer replicas in sync than it has, which may be fewer than ``min.insync.replicas``.

    Parameters
    ----------
    settings
        Brokers and security.
    topics
        Their names; no topic is created by this request.
    write
        Whether records are to be written.
    timeout_s
        Limit for the answer, and again for the connections.

    Returns
    -------
    str or None
        The problems, without a full stop; None if there is none, or if no broker answers (see
        :func:`~ecdctr.events.kafka.probe.probe_brokers`).
    """
    return run_in_own_loop(_problem(settings, topics, write, timeout_s))


@contextmanager
def naming_partitions(settings: KafkaSettings, topics: Sequence[str]) -> Iterator[None]:
    """Run a block that reads these topics; if the brokers are unavailable to it, its error names partitions and addresses."""
    try:
        yield
    except BrokerUnavailableError as error:
        why = topic_problem(settings, topics)
        if why is None:
            raise
        raise BrokerUnavailableError(why) from error


@dataclass(slots=True)
class _Found:
    missing: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    leaderless: list[str] = field(default_factory=list)
    led_by: dict[int, list[str]] = field(default_factory=dict)
    behind: list[str] = field(default_factory=list)


async def _problem(
    settings: KafkaSettings, topics: Sequence[str], write: bool, timeout_s: float
) -> str | None:
    metadata = await _metadata(settings, topics, timeout_s)
    if metadata is None:
        return None
    found = _sort(metadata)
    sentences = []
    if found.missing:
        sentences.append(f"{_topics(found.missing)} not exist")
    if found.hidden:
        user = f'the user "{settings.username}"' if settings.uses_sasl else "this client"
        sentences.append(f"{user} lacks the right to see {_list(found.hidden)}")
    if found.leaderless:
        no_leader = "has no leader" if len(found.leaderless) == 1 else "have no leader"
        sentences.append(f"{_list(found.leaderless)} {no_leader}")
    sentences += await _unreachable(metadata, found.led_by, timeout_s)
    if write and not sentences:
        sentences += found.behind
    return "; ".join(sentences) or None


async def _metadata(settings: KafkaSettings, topics: Sequence[str], timeout_s: float) -> Any:
    """The first answer of the configured brokers; None if none answers in time."""
    options = settings.aiokafka()
    del options["bootstrap_servers"]

    async def ask(address: str) -> Any:
        host, _, port = address.rpartition(":")
        connection = await create_conn(
            host.strip("[]"),
            int(port),
            client_id="ecdctr-probe",
            request_timeout_ms=int(1000 * timeout_s),
            **options,
        )
        try:
            return await connection.send(MetadataRequest(list(topics), False))
        finally:
            connection.close()

    tasks = [asyncio.ensure_future(ask(address)) for address in settings.addresses]
    for done in asyncio.as_completed(tasks, timeout=timeout_s):
        try:
            answer = await done
        except (OSError, TimeoutError, errors.KafkaError):
            continue
        return answer
    return None


def _sort(metadata: Any) -> _Found:
    found = _Found()
    for code, topic, _, partitions in metadata.topics:
        if code == errors.TopicAuthorizationFailedError.errno:
            found.hidden.append(f'topic "{topic}"')
        elif code == errors.UnknownTopicOrPartitionError.errno:
            found.missing.append(f'"{topic}"')
        for _, partition, leader, replicas, in_sync, *_ in sorted(partitions, key=lambda p: p[1]):
            name = f"{topic}[{partition}]"
            if leader < 0:
                found.leaderless.append(name)
                continue
            found.led_by.setdefault(leader, []).append(name)
            if len(in_sync) < len(replicas):
                found.behind.append(f"{name} has {len(in_sync)} of its {len(replicas)} replicas in sync")
    return found


async def _unreachable(metadata: Any, led_by: dict[int, list[str]], timeout_s: float) -> list[str]:
    addresses = {node: (host, port) for node, host, port, *_ in metadata.brokers}
    wanted = sorted(node for node in led_by if node in addresses)
    outcomes = await asyncio.gather(*(_connect(*addresses[node], timeout_s) for node in wanted))
    return [
        f"the leader of {_list(led_by[node])} advertises {addresses[node][0]}:{addresses[node][1]}, which cannot be reached "
        f"from here ({reason})"
        for node, reason in zip(wanted, outcomes, strict=True)
        if reason is not None
    ]


async def _connect(host: str, port: int, timeout_s: float) -> str | None:
    """Why no connection can be made; None: one was made."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer within {timeout_s:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    writer.transport.abort()
    return None


def _topics(names: Sequence[str]) -> str:
    return f"topic {names[0]} does" if len(names) == 1 else f"topics {_list(names)} do"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
