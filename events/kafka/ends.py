"""``EndsReader``: where the partitions of the click topics end, and why that cannot be said of some of them.

kafka-python reports the ends of all partitions or of none: one leader that does not answer makes the rest unknown, too. Here each
leader is asked on a connection of its own, with its own time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from aiokafka import errors
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy

from ecdctr.events.kafka.broker_connection import Address, BrokerConnection, join_address, split_address
from ecdctr.events.kafka.members import GroupMember, group_members
from ecdctr.events.kafka.probe import probe_brokers
from ecdctr.events.kafka.problems import BrokerProblem, Cause
from ecdctr.events.kafka.topic_state import TopicState, name_keys
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import ConfigError

__all__ = ["EndsReader", "LogEnds", "LogProblem", "LogProblemKind"]

log = logging.getLogger("ecdctr.events")
Key = tuple[str, int]

METADATA_S = 1.0
"""Limit of one request for metadata, with the connection that it may need."""
LEADER_S = 3.0
"""Limit of the requests to one leader."""
READ_S = 1.0
"""How long :meth:`EndsReader.read` waits for the leaders; a slower answer is part of a later result."""
_SECRETS = ("kafka.password_file", "kafka.token_provider", "kafka.oauth_client_secret_file")
"""Keys whose errors are not of a certificate."""
_READ_COMMITTED = 1
_WAIT_MS, _MAX_BYTES = 20, 1 << 20
"""Of the fetch; the embedded broker answers nothing without a wait."""


class LogProblemKind(StrEnum):
    """What is wrong with the brokers, a topic or a partition."""

    NO_BROKER = "no_broker"
    RIGHT = "right"
    PASSWORD = "password"
    CERTIFICATE = "certificate"
    NO_LEADER = "no_leader"
    TOPIC_MISSING = "topic_missing"


_KINDS = {
    Cause.RIGHT: LogProblemKind.RIGHT,
    Cause.CREDENTIALS: LogProblemKind.PASSWORD,
    Cause.TOKEN_REFUSED: LogProblemKind.PASSWORD,
    Cause.MECHANISM: LogProblemKind.PASSWORD,
    Cause.SASL_EXPECTED: LogProblemKind.PASSWORD,
    Cause.SASL_UNEXPECTED: LogProblemKind.PASSWORD,
    Cause.UNKNOWN_CA: LogProblemKind.CERTIFICATE,
    Cause.EXPIRED: LogProblemKind.CERTIFICATE,
    Cause.HOST_NAME: LogProblemKind.CERTIFICATE,
    Cause.CLIENT_CERTIFICATE_MISSING: LogProblemKind.CERTIFICATE,
    Cause.CLIENT_CERTIFICATE_REFUSED: LogProblemKind.CERTIFICATE,
    Cause.TLS_EXPECTED: LogProblemKind.CERTIFICATE,
    Cause.TLS_UNEXPECTED: LogProblemKind.CERTIFICATE,
    Cause.TLS_OTHER: LogProblemKind.CERTIFICATE,
}
"""All other causes: no broker can be used now."""


@dataclass(frozen=True, slots=True)
class LogProblem:
    """Why the ends of some partitions, or of all, are not known.

    Attributes
    ----------
    kind
        Kind of problem.
    text
        A sentence without a full stop; it names the broker or the topic, and what to do.
    partitions
        The partitions that it concerns; empty: all of a topic, or all.
    """

    kind: LogProblemKind
    text: str
    partitions: tuple[Key, ...] = ()

    @classmethod
    def of(cls, problem: BrokerProblem, partitions: Iterable[Key] = ()) -> LogProblem:
        """From the result of a probe."""
        kind = _KINDS.get(problem.cause, LogProblemKind.NO_BROKER)
        return cls(kind, str(problem), tuple(sorted(partitions)))


@dataclass(frozen=True, slots=True)
class LogEnds:
    """What one call of :meth:`EndsReader.read` found.

    Attributes
    ----------
    shown
        The partitions of each topic that the metadata shows; a topic that is not shown is not a key.
    ends
        Next offset to be read of each partition whose leader has answered: the last stable offset, that is, the records of open
        transactions come after it.
    written
        Next offset to be written (high watermark), of those of these partitions whose leader was asked in this call: not
        older than the call.
    problems
        What is wrong, for partitions that have no end here.
    answered
        Whether any broker has answered.
    """

    shown: Mapping[str, frozenset[Key]] = field(default_factory=dict)
    ends: Mapping[Key, int] = field(default_factory=dict)
    written: Mapping[Key, int] = field(default_factory=dict)
    problems: tuple[LogProblem, ...] = ()
    answered: bool = False


@dataclass(slots=True)
class _Answer:
    """What one leader has answered; ``problems`` by partition."""

    ends: dict[Key, int] = field(default_factory=dict)
    written: dict[Key, int] = field(default_factory=dict)
    problems: list[LogProblem] = field(default_factory=list)


class EndsReader:
    """Asks the leader of each partition where it ends. Used in one event loop; keeps one connection to each broker that it asks.

    No topic is ever created by asking.

    Parameters
    ----------
    settings
        Brokers and security. Password and certificates are read again for each connection. Is told the addresses that the brokers
        advertise.
    topics
        The topics, all of whose partitions are asked for.
    """

    def __init__(self, settings: KafkaSettings, topics: Iterable[str]) -> None:
        self._settings, self._topics = settings, sorted(topics)
        self._brokers: dict[Address, BrokerConnection] = {}
        self._last: Address | None = None  # the broker that answered the last request for metadata
        self._asking: dict[Address, tuple[frozenset[Key], asyncio.Task[_Answer]]] = {}

    async def close(self) -> None:
        """Close the connections."""
        tasks = [task for _, task in self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for broker in self._brokers.values():
            broker.close()

    async def read(self) -> LogEnds:
        """The ends of all partitions whose leaders answer within :data:`READ_S`.

        1. Ask for the metadata: the broker that answered last, and if it does not answer, all others at once.
        2. Ask each leader; one that is still being asked from an earlier call is not asked a second time.
        3. Return what has been answered. A leader that refuses or does not answer is probed for the reason.
        """
        metadata = await self._metadata()  # 1
        if metadata is None:
            return LogEnds(problems=await self._no_broker())
        shown, leaders, problems = self._leaders(metadata)
        asked_now = [address for address in leaders if address not in self._asking]
        for address, keys in leaders.items():  # 2
            if address not in self._asking:
                task = asyncio.create_task(self._ask_leader(address, keys))
                self._asking[address] = (frozenset(keys), task)
        if self._asking:
            await asyncio.wait([task for _, task in self._asking.values()], timeout=READ_S)
        ends: dict[Key, int] = {}
        written: dict[Key, int] = {}
        for address, (asked, task) in list(self._asking.items()):  # 3
            if not task.done():
                continue
            del self._asking[address]
            answer, current = task.result(), leaders.get(address, [])
            ends |= answer.ends
            if address in asked_now:
                written |= answer.written
            if asked.intersection(
                current
            ):  # otherwise the partitions have moved to another leader in the meantime
                problems += answer.problems
        return LogEnds(shown, ends, written, tuple(problems), answered=True)

    async def members(self, group: str) -> tuple[GroupMember, ...]:
        """The members of a consumer group; an error of any kind if no broker can say."""
        if self._last is None:
            return ()
        return await group_members(self._broker, self._last, group)

    # -- 1

    async def _metadata(self) -> Any:
        request = MetadataRequest(self._topics, False)
        addresses = list(map(split_address, self._settings.addresses))
        if self._last in addresses:
            with contextlib.suppress(Exception):
                return await self._broker(self._last).send(request, METADATA_S)
            addresses.remove(self._last)
        tasks = {asyncio.create_task(self._broker(a).send(request, METADATA_S)): a for a in addresses}
        try:
            for done in asyncio.as_completed(tasks):
                with contextlib.suppress(Exception):
                    response = await done
                    self._last = next(a for task, a in tasks.items() if _succeeded(task))
                    return response
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return None

    async def _no_broker(self) -> tuple[LogProblem, ...]:
        found = await self._probe(self._settings)
        return () if found is None else (found,)

    async def _probe(self, settings: KafkaSettings, partitions: Sequence[Key] = ()) -> LogProblem | None:
        """The reason why these brokers cannot be used; None if they can be used now."""
        try:
            problem = await asyncio.to_thread(probe_brokers, settings, self._topics)
        except ConfigError as error:
            kind = (
                LogProblemKind.PASSWORD
                if any(key in str(error) for key in _SECRETS)
                else LogProblemKind.CERTIFICATE
            )
            return LogProblem(kind, str(error), tuple(sorted(partitions)))
        if problem is None:
            return None
        is_advertised = problem.address not in self._settings.brokers
        return LogProblem.of(replace(problem, is_advertised=is_advertised), partitions)

    def _leaders(
        self, metadata: Any
    ) -> tuple[dict[str, frozenset[Key]], dict[Address, list[Key]], list[LogProblem]]:
        """The partitions that are shown, those of each leader, and what is wrong with the others."""
        found = TopicState.of(metadata)
        if found.brokers:
            self._settings.advertise(map(join_address, found.brokers.values()))
        leaders: dict[Address, list[Key]] = {}
        for node, keys in found.led_by.items():
            leaders.setdefault(found.brokers[node], []).extend(keys)
        address = "the cluster" if self._last is None else join_address(self._last)
        problems = [
            LogProblem.of(BrokerProblem(Cause.RIGHT, address, f'topic "{topic}"', self._settings))
            for topic in found.hidden
        ]
        problems += [_missing(topic, code) for topic, code in found.absent.items()]
        if found.leaderless:
            text = (
                f"{name_keys(found.leaderless)} has no leader: the brokers that hold it are away; start one of them. The records of "
                "other partitions are read"
            )
            problems.append(LogProblem(LogProblemKind.NO_LEADER, text, tuple(sorted(found.leaderless))))
        return found.shown, leaders, problems

    # -- 2

    async def _ask_leader(self, address: Address, keys: list[Key]) -> _Answer:
        try:
            return await self._ends_of(address, keys)
        except Exception as error:  # of the network, of TLS, of the protocol; the probe finds the reason
            log.debug("%s did not report the ends of its partitions: %r", join_address(address), error)
        found = await self._probe(self._settings.only(join_address(address)), keys)
        if found is None:
            return _Answer()  # it answers again
        text = f"{found.text}. It leads {name_keys(keys)}"
        return _Answer(problems=[LogProblem(found.kind, text, found.partitions)])

    async def _ends_of(self, address: Address, keys: list[Key]) -> _Answer:
        """The ends that the leader lists, corrected by a fetch from there.

        Some brokers list the first offset of the last batch + 1. The offsets in the response to a fetch are right on all brokers, and
        a fetch from the listed end returns no records on those that list it correctly. It also needs the right to read.
        """
        broker = self._broker(address)
        refused: dict[tuple[int, str], list[Key]] = {}
        latest = OffsetResetStrategy.LATEST
        asked = _by_topic((topic, (partition, latest)) for topic, partition in keys)
        response = await broker.send(OffsetRequest(-1, _READ_COMMITTED, asked), LEADER_S)
        listed: dict[Key, int] = {}
        for topic, partitions in response.topics:
            for partition, code, _, offset in partitions:
                if code:
                    refused.setdefault((code, topic), []).append((topic, partition))
                else:
                    listed[(topic, partition)] = offset
        answer = _Answer()
        if listed:
            asked = _by_topic((topic, (partition, end, 1)) for (topic, partition), end in listed.items())
            response = await broker.send(
                FetchRequest(_WAIT_MS, 1, _MAX_BYTES, _READ_COMMITTED, asked), LEADER_S
            )
            for topic, partitions in response.topics:
                for partition, code, written, stable, *_ in partitions:
                    key = (topic, partition)
                    if code == errors.OffsetOutOfRangeError.errno:  # truncated between the two requests
                        continue
                    if code:
                        refused.setdefault((code, topic), []).append(key)
                        continue
                    answer.ends[key] = max(listed[key], written if stable < 0 else stable)
                    answer.written[key] = max(answer.ends[key], written)
        answer.problems = [self._refusal(address, code, found) for (code, _), found in refused.items()]
        return answer

    def _refusal(self, address: Address, code: int, keys: list[Key]) -> LogProblem:
        error = errors.for_code(code)
        if error is errors.TopicAuthorizationFailedError:
            kind = LogProblemKind.RIGHT
            user = f'the user "{self._settings.username}"' if self._settings.uses_sasl else "this client"
            text = f'{join_address(address)} does not let {user} read topic "{keys[0][0]}": grant the right to read it'
        else:
            kind = LogProblemKind.NO_LEADER
            text = f"{join_address(address)} does not report where {name_keys(keys)} ends ({error.__name__})"
        return LogProblem(kind, text, tuple(sorted(keys)))

    def _broker(self, address: Address) -> BrokerConnection:
        if address not in self._brokers:
            self._brokers[address] = BrokerConnection(self._settings, address)
        return self._brokers[address]


def _missing(topic: str, code: int) -> LogProblem:
    if code == errors.LeaderNotAvailableError.errno:
        return LogProblem(
            LogProblemKind.NO_LEADER, f'topic "{topic}" has no leaders yet: it is being created'
        )
    return LogProblem(
        LogProblemKind.TOPIC_MISSING,
        f'topic "{topic}" does not exist: create it with `ecdctr topics --create`, or correct the topics in the configuration. If it '
        "was deleted, its records are gone",
    )


def _succeeded(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _by_topic(items: Iterable[tuple[str, tuple[int, ...]]]) -> list[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for topic, item in items:
        found.setdefault(topic, []).append(item)
    return list(found.items())
