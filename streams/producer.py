"""``produce``: sends event frames to the click topics, keyed by user, in event order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import polars as pl
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError
from kafka.partitioner.default import murmur2

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.decoder import ARROW_CONTENT_TYPE, CONTENT_TYPE_HEADER, to_arrow_message, to_json_messages
from ecdctr.events.kafka import close_at_once, in_one_sentence, short_text
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import DataError, StreamError
from ecdctr.streams.retry import call_until_available
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import partition_counts

__all__ = ["partition_of", "produce"]

_SLICE_ROWS = 8_192
_SLICES_IN_FLIGHT = 4  # bounds the memory if events are read faster than the broker accepts them
_PACED_SLICES_PER_S = 20
_HEADERS = [(CONTENT_TYPE_HEADER, ARROW_CONTENT_TYPE)]


def produce(
    frames: Iterable[pl.DataFrame],
    connection: KafkaSettings,
    topics: TopicSettings,
    *,
    packed: int = 0,
    rows_per_s: float | None = None,
    speedup: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    connect_timeout_s: float = 60.0,
) -> dict[str, int]:
    """Send events to the two click topics and return when the brokers have acknowledged all of them.

    The user determines the partition, as with Kafka's default partitioner: the rows of a user keep their order. Within a partition,
    rows have the order of the frames.

    Parameters
    ----------
    frames
        Event frames in event order, with a column ``domain`` ("natural" or "ad", or 0 and 1).
    connection, topics
        Brokers and topics. The topics must exist.
    packed
        Rows per packed Arrow message; 0: one JSON object per message.
    rows_per_s
        Largest number of rows per second.
    speedup
        Largest number of seconds of event time per second; 60 sends an hour in a minute.
    progress
        Called with the rows sent so far and the event time in ms.
    connect_timeout_s
        How long to wait for brokers that do not answer, before the first row is sent.

    Returns
    -------
    dict
        Rows sent to each topic.

    Raises
    ------
    BrokerUnavailableError
        No broker answers, or it stopped answering.
    StreamError
        A topic does not exist, or a message is larger than the broker accepts.
    """
    names = dict(zip(DOMAIN_NAMES, (topics.natural, topics.ad), strict=True))
    counts = call_until_available(
        lambda: partition_counts(connection, list(names.values())), connect_timeout_s, lambda: False
    )
    for topic in names.values():
        if topic not in counts:
            raise StreamError(f'topic "{topic}" does not exist: create it with `ecdctr topics --create`')
    sent = dict.fromkeys(names.values(), 0)
    pace = _Pace(rows_per_s, speedup)
    try:
        with _Sender(connection) as sender:
            for frame in frames:
                for part in _slices(frame, rows_per_s, speedup):
                    pace.wait(sum(sent.values()), int(part["ts"][0]))
                    for domain, rows in _by_domain(part):
                        topic = names[domain]
                        if packed:
                            _send_packed(sender, topic, counts[topic], rows, packed)
                        else:
                            _send_json(sender, topic, counts[topic], rows)
                        sent[topic] += len(rows)
                    sender.end_slice()
                    if progress is not None:
                        progress(sum(sent.values()), int(part["ts"][-1]))
    except MessageSizeTooLargeError as error:
        way_out = (
            "send fewer rows per message (--packed)" if packed else "raise the topic's max.message.bytes"
        )
        raise StreamError(
            f"a message is larger than the broker accepts: {short_text(error)}; {way_out}"
        ) from error
    except KafkaError as error:
        found = in_one_sentence(error, connection, "Write", list(names.values()))
        raise type(found)(f"sending failed after {sum(sent.values()):,} rows: {found}") from error
    return sent


@lru_cache(maxsize=1 << 18)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's default partitioner (murmur2) chooses for a key.

    Kafka's test vector is murmur2("21") = -973932308:

    >>> partition_of(b"21", 1000) == (-973932308 & 0x7FFFFFFF) % 1000
    True
    """
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class _Sender:
    """A kafka-python producer that raises the errors of its sends, with bounded memory."""

    def __init__(self, connection: KafkaSettings) -> None:
        self._producer = KafkaProducer(
            **connection.kafka_python(),
            acks="all",
            enable_idempotence=True,
            linger_ms=20,
            batch_size=256 * 1024,
            max_request_size=64 * 1024 * 1024,
            metrics_enabled=False,
        )
        self._in_flight: deque[list[Any]] = deque()
        self._current: list[Any] = []

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.end_slice()
                while self._in_flight:
                    self._wait_for_oldest()
        finally:
            # All sends are acknowledged, or an error is being raised: nothing is sent after it.
            close_at_once(self._producer)

    def send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        self._current.append(
            self._producer.send(topic, value=value, key=key, headers=headers, partition=partition)
        )

    def end_slice(self) -> None:
        """Wait for the oldest slice when enough of them are in flight."""
        self._in_flight.append(self._current)
        self._current = []
        if len(self._in_flight) >= _SLICES_IN_FLIGHT:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        for future in self._in_flight.popleft():
            if not future.is_done or future.failed():
                future.get(timeout=180)


class _Pace:
    """Limits the rows, or the event time, per second."""

    def __init__(self, rows_per_s: float | None, speedup: float | None) -> None:
        self.rows_per_s, self.speedup = rows_per_s, speedup
        self._began = time.monotonic()
        self._first_ts: int | None = None

    def wait(self, rows: int, ts: int) -> None:
        """Return when as many as ``rows`` rows may have been sent and event time ``ts`` (ms) may be reached."""
        if self._first_ts is None:
            self._first_ts = ts
        due = 0.0
        if self.rows_per_s:
            due = rows / self.rows_per_s
        if self.speedup:
            due = max(due, (ts - self._first_ts) / 1000 / self.speedup)
        ahead = due - (time.monotonic() - self._began)
        if ahead > 0:
            time.sleep(ahead)


def _slices(frame: pl.DataFrame, rows_per_s: float | None, speedup: float | None) -> Iterator[pl.DataFrame]:
    rows = _SLICE_ROWS
    if rows_per_s:
        rows = max(1, min(rows, int(rows_per_s / _PACED_SLICES_PER_S)))
    elif speedup:
        rows = 256
    return frame.iter_slices(rows)


def _by_domain(frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Rows of each domain, in their order."""
    column = frame["domain"]
    numbers: Mapping[Any, str] = dict(enumerate(DOMAIN_NAMES))
    named = (
        column.replace_strict(numbers, default=None, return_dtype=pl.String)
        if column.dtype.is_integer()
        else column.cast(pl.String)
    )
    unknown = frame.filter(~named.is_in(DOMAIN_NAMES).fill_null(False))
    if len(unknown):
        raise DataError(f'domain {unknown["domain"][0]!r} is neither "natural" nor "ad"')
    for domain in DOMAIN_NAMES:
        rows = frame.filter(named == domain)
        if len(rows):
            yield domain, rows


def _send_json(sender: _Sender, topic: str, partitions: int, rows: pl.DataFrame) -> None:
    for key, value in to_json_messages(rows):
        sender.send(topic, partition_of(key, partitions), key, value)


def _send_packed(sender: _Sender, topic: str, partitions: int, rows: pl.DataFrame, size: int) -> None:
    users = rows["user_id"].cast(pl.String)
    unique = users.unique()
    where = users.replace_strict(
        unique, pl.Series([partition_of(key.encode(), partitions) for key in unique]), return_dtype=pl.Int64
    )
    for partition in range(partitions):
        for message in rows.filter(where == partition).iter_slices(size):
            if len(message):
                sender.send(topic, partition, None, to_arrow_message(message), _HEADERS)
