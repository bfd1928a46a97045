"""``TopicState``: what the brokers show of topics; ``topic_problem``: why they cannot be read or written now, as one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import errors
from aiokafka.protocol.metadata import MetadataRequest

from ecdctr.events.kafka.broker_connection import Address, BrokerConnection, join_address, split_address
from ecdctr.events.kafka.own_loop import run_in_own_loop
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError

__all__ = ["TopicState", "name_keys", "naming_partitions", "topic_problem"]

Key = tuple[str, int]

TIMEOUT_S = 2.0
_NAMED = 8
"""Partitions that a sentence lists; the others are counted."""
_UNKNOWN = errors.UnknownTopicOrPartitionError.errno


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
class TopicState:
    """What a broker's metadata shows of some topics.

    Attributes
    ----------
    brokers
        Address of each broker.
    shown
        The partitions of each topic that is shown.
    absent
        The error code of each topic that is not shown: it does not exist, or it is being created.
    hidden
        Topics that this client may not see.
    led_by
        The partitions that each broker leads.
    leaderless
        The partitions without a leader that can be addressed.
    behind
        Of partitions with fewer replicas in sync than they have: both numbers.
    """

    brokers: dict[int, Address] = field(default_factory=dict)
    shown: dict[str, frozenset[Key]] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    led_by: dict[int, list[Key]] = field(default_factory=dict)
    leaderless: list[Key] = field(default_factory=list)
    behind: dict[Key, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Any) -> TopicState:
        """From aiokafka's response to a request for metadata."""
        found = cls({node: (str(host), int(port)) for node, host, port, *_ in metadata.brokers})
        for code, topic, _, partitions in metadata.topics:
            if code == errors.TopicAuthorizationFailedError.errno:
                found.hidden.append(topic)
                continue
            if not partitions:
                found.absent[topic] = code
                continue
            found.shown[topic] = frozenset((topic, partition) for _, partition, *_ in partitions)
            for _, partition, leader, replicas, in_sync, *_ in sorted(partitions, key=lambda p: p[1]):
                key = (topic, partition)
                if leader not in found.brokers:
                    found.leaderless.append(key)
                    continue
                found.led_by.setdefault(leader, []).append(key)
                if len(in_sync) < len(replicas):
                    found.behind[key] = (len(in_sync), len(replicas))
        return found


def name_keys(keys: Iterable[Key]) -> str:
    """Partitions as a list for a sentence, of which the first are named."""
    return _list([f"{topic}[{partition}]" for topic, partition in sorted(keys)])


async def _problem(
    settings: KafkaSettings, topics: Sequence[str], write: bool, timeout_s: float
) -> str | None:
    metadata = await _metadata(settings, topics, timeout_s)
    if metadata is None:
        return None
    found = TopicState.of(metadata)
    unknown = [f'"{t}"' for t, code in found.absent.items() if code == _UNKNOWN]
    sentences = []
    if unknown:
        sentences.append(f"{_topics(unknown)} not exist")
    if found.hidden:
        user = f'the user "{settings.username}"' if settings.uses_sasl else "this client"
        topics_ = _list([f'topic "{t}"' for t in found.hidden])
        sentences.append(f"{user} lacks the right to see {topics_}")
    if found.leaderless:
        no_leader = "has no leader" if len(found.leaderless) == 1 else "have no leader"
        sentences.append(f"{name_keys(found.leaderless)} {no_leader}")
    sentences += await _unreachable(found, timeout_s)
    if write and not sentences:
        sentences += [
            f"{name_keys([key])} has {in_sync} of its {replicas} replicas in sync"
            for key, (in_sync, replicas) in found.behind.items()
        ]
    return "; ".join(sentences) or None


async def _metadata(settings: KafkaSettings, topics: Sequence[str], timeout_s: float) -> Any:
    """The first answer of the configured brokers; None if none answers in time."""

    async def ask(address: str) -> Any:
        broker = BrokerConnection(settings, split_address(address))
        try:
            return await broker.send(MetadataRequest(list(topics), False), timeout_s)
        finally:
            broker.close()

    tasks = [asyncio.ensure_future(ask(address)) for address in settings.addresses]
    for done in asyncio.as_completed(tasks, timeout=timeout_s):
        try:
            answer = await done
        except (OSError, TimeoutError, errors.KafkaError):
            continue
        return answer
    return None


async def _unreachable(found: TopicState, timeout_s: float) -> list[str]:
    nodes = sorted(found.led_by)
    outcomes = await asyncio.gather(*(_connect(*found.brokers[node], timeout_s) for node in nodes))
    return [
        f"the leader of {name_keys(found.led_by[node])} advertises {join_address(found.brokers[node])}, which cannot be reached "
        f"from here ({reason})"
        for node, reason in zip(nodes, outcomes, strict=True)
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
