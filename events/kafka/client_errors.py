"""Errors of the Kafka clients in one sentence: the clients' own texts may hold a whole request, and do not name the right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import (
    BrokerRefusedError,
    BrokerUnavailableError,
    DamagedRecordsError,
    StreamError,
)

__all__ = ["damaged_records", "in_one_sentence", "is_damage", "missing_right", "short_text", "user_of"]

_LONGEST = 200
_DUMP = re.compile(r"Request '.*?' failed with response '.*", re.DOTALL)
_DAMAGED = ("CorruptRecordError", "CorruptRecordException", "RecordTooLargeError")
"""A batch that is longer than the response is sent whole; if it is cut nevertheless, its length is damaged."""
_NO_DETAIL = ("None", "set()", "")


def short_text(error: BaseException) -> str:
    """The error's class and message in one line without requests and responses.

    >>> from kafka.errors import PolicyViolationError
    >>> short_text(PolicyViolationError("Request 'CreateTopicsRequest(...)' failed with response 'CreateTopicsResponse(...)'."))
    'PolicyViolationError'
    >>> short_text(ValueError("first\\nsecond"))
    'ValueError: first'
    """
    name = type(error).__name__
    text = _DUMP.sub("", str(error.args[0]) if error.args else "").strip()
    first = text.splitlines()[0].removeprefix(f"{name}: ") if text else ""
    if len(first) > _LONGEST:
        first = first[:_LONGEST] + "..."
    return name if first in _NO_DETAIL else f"{name}: {first}"


def in_one_sentence(
    error: BaseException, settings: KafkaSettings, right: str = "Read", topics: Sequence[str] = ()
) -> StreamError:
    """The error to raise where a request of a client failed.

    Parameters
    ----------
    error
        An error of kafka-python or aiokafka.
    settings
        Of the connection, to name brokers and user.
    right
        The right that the request needs on its topic.
    topics
        Topics of the request, for errors that do not name one.

    Returns
    -------
    BrokerRefusedError
        A right is missing: the sentence names the right, topic or group, and user.
    BrokerUnavailableError
        Any other error.

    Examples
    --------
    >>> from kafka.errors import TopicAuthorizationFailedError
    >>> mine = KafkaSettings(security="sasl_ssl", username="trainer", password="x")
    >>> print(in_one_sentence(TopicAuthorizationFailedError({"ads"}), mine, "Write"))
    the user "trainer" does not have the right Write on topic "ads": grant it, or configure a user that has it
    """
    return missing_right(error, settings.principal, right, topics) or BrokerUnavailableError(
        f"{', '.join(settings.addresses)} can be reached, but a request failed: {short_text(error)}"
    )


def missing_right(
    error: BaseException, who: str, right: str = "Read", topics: Sequence[str] = ()
) -> BrokerRefusedError | None:
    """The error to raise where a request failed for want of a right; None for any other error.

    Parameters
    ----------
    error, right, topics
        As in :func:`in_one_sentence`.
    who
        The client as the subject of the sentence: ``KafkaSettings.principal``, or :func:`user_of` a client.
    """
    kind = type(error).__name__
    if kind == "TopicAuthorizationFailedError":
        resource = _topics(error.args[0] if error.args else (), topics)
    elif kind == "GroupAuthorizationFailedError":
        resource, right = "the consumer group", "Read"
    elif "ClusterAuthorizationFailedError" in f"{kind} {error}":
        # A producer that may repeat a request safely needs Write on any topic; before Kafka 2.8, a right on the cluster.
        writes = right == "Write" and topics
        resource = _topics((), topics) if writes else "the cluster"
    else:
        return None
    return BrokerRefusedError(
        f"{who} does not have the right {right} on {resource}: grant it, or configure a user that has it"
    )


def damaged_records(
    error: BaseException, topic: str, partition: int, offset: int
) -> DamagedRecordsError | None:
    """The error to raise where a client found that records are damaged; None for any other error.

    Parameters
    ----------
    error
        An error of kafka-python or aiokafka.
    topic, partition, offset
        What was to be read next.

    Examples
    --------
    >>> from kafka.errors import CorruptRecordError
    >>> print(damaged_records(CorruptRecordError("Record batch for partition ads-0 at offset 40 failed crc check"), "ads", 0, 42))
    ads[0] cannot be read at offset 42: its leader returns records that are damaged (CorruptRecordError: Record batch for partition ads-0 at offset 40 failed crc check). Nothing is skipped: make a replica that is whole the leader, or, if there is none, delete the records up to the end of the damaged batch and start with --reset-offsets (docs/operations.md)
    """
    if not is_damage(error):
        return None
    return DamagedRecordsError(
        f"{topic}[{partition}] cannot be read at offset {offset}: its leader returns records that are damaged ({short_text(error)}). "
        "Nothing is skipped: make a replica that is whole the leader, or, if there is none, delete the records up to the end of the "
        "damaged batch and start with --reset-offsets (docs/operations.md)"
    )


def is_damage(error: BaseException) -> bool:
    """Whether a client found that records are damaged."""
    return type(error).__name__ in _DAMAGED


def user_of(client: Any) -> str:
    """The user of a kafka-python client, as the subject of a sentence."""
    user = getattr(client, "config", {}).get("sasl_plain_username")
    return "this client" if user is None else f'the user "{user}"'


def _topics(named: object, asked: Sequence[str]) -> str:
    found = (
        [named] if isinstance(named, str) else list(named) if isinstance(named, set | list | tuple) else []
    )
    names = sorted(str(name) for name in found if not _DUMP.match(str(name))) or sorted(asked)
    if not names:
        return "the topic"
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{'topic' if len(names) == 1 else 'topics'} {quoted}"
