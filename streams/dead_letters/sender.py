"""``DeadLetters``: sends rejected records to ``<topic>.dlq``, once each, before the valid rows around them are learned."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, MessageSizeTooLargeError

from ecdctr.events.kafka import partition_offsets, stating_the_reason, true_ends
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, StreamError
from ecdctr.streams.dead_letters.letter import DeadLetter, Identity, identity_of, letters_of
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import partition_counts

__all__ = ["DeadLetter", "DeadLetterSink", "DeadLetters", "MemoryDeadLetters", "letters_of"]

log = logging.getLogger("ecdctr.dead_letters")

TAIL = 100_000  # dead letters per partition that are read at start, at most, to find those that were already sent
_RETRY_S = 1.0
_ANSWER_S = 150.0  # longer than the producer's delivery timeout, so that its error comes first
_TAIL_TIMEOUT_S = 120.0

T = TypeVar("T")
Key = tuple[str, int]


class DeadLetterSink(Protocol):
    """Receives dead letters."""

    counts: Counter[str]

    async def send(self, letters: Sequence[DeadLetter]) -> int:
        """Return when every letter is durable; the result is the number of new ones."""
        ...


class MemoryDeadLetters:
    """Stores dead letters in a list, for tests and benchmarks."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.letters: list[DeadLetter] = []
        self._there: set[Identity] = set()

    async def send(self, letters: Sequence[DeadLetter]) -> int:
        """Append those that are not in the list yet."""
        new = [letter for letter in letters if letter.identity() not in self._there]
        for letter in new:
            self._there.add(letter.identity())
            self.letters.append(letter)
            self.counts[letter.reason] += letter.events
        return len(new)


class DeadLetters:
    """Sends dead letters to Kafka.

    The producer of kafka-python is idempotent and runs in a thread: a batch that was written but whose acknowledgement
    was lost is not written twice, and the event loop is not blocked while an agent waits for the acknowledgement.

    After a crash, messages after the positions of the last checkpoint are read again and rejected again; letters that the topic
    already contains are not sent a second time.

    Parameters
    ----------
    connection, topics
        Brokers and topics.
    tail
        Maximum number of dead letters per partition of a dead-letter topic that are read at start. If the worker died after it
        had sent more letters than this to one partition since its last checkpoint, the others would be sent twice.

    Attributes
    ----------
    counts
        Events sent by this process, by reason.
    already_there
        Number of letters that were not sent because an earlier run had sent them.
    """

    def __init__(self, connection: KafkaSettings, topics: TopicSettings, *, tail: int = TAIL) -> None:
        self.connection = connection
        self.topics = topics
        self.tail = tail
        self.counts: Counter[str] = Counter()
        self.already_there = 0
        self._there: set[Identity] = set()
        self._producer: KafkaProducer | None = None
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="dead-letters")
        self._stop_now = threading.Event()

    async def start(self, positions: Mapping[Key, int]) -> None:
        """Connect, and find the letters after the checkpoint's positions that have already been sent.

        Parameters
        ----------
        positions
            Next offset of every partition at the last checkpoint.
        """
        self._there = await self._in_thread(
            lambda: read_identities(self.connection, self.topics, positions, self.tail)
        )
        self._producer = await self._in_thread(self._connect)

    async def stop(self) -> None:
        """Disconnect. Letters in flight fail; their offsets are read again after a restart."""
        self._stop_now.set()
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._in_thread(partial(_close, producer))
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, letters: Sequence[DeadLetter]) -> int:
        """Return when the brokers have acknowledged every letter; while no broker is available, wait and try again."""
        new = []
        for letter in letters:
            if letter.identity() in self._there:
                self._there.discard(letter.identity())
                self.already_there += 1
            else:
                new.append(letter)
        left = new
        while left:
            left = await self._in_thread(partial(self._try, left))
            if left and self._stop_now.is_set():
                raise StreamError(
                    f"{len(left)} dead letters were not acknowledged before the worker stopped; after a restart their records "
                    "are read and rejected again"
                )
        for letter in new:
            self.counts[letter.reason] += letter.events
        return len(new)

    def _try(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Send in order and wait; return the letters that must be sent again. Runs in a thread."""
        producer = self._producer
        if producer is None:
            raise StreamError("dead letters can only be sent between start() and stop()")
        sent = [(letter, self._enqueue(producer, letter)) for letter in letters]
        left = []
        failure: KafkaError | None = None
        for letter, future in sent:
            try:
                if isinstance(future, KafkaError):
                    raise KafkaError(f"the producer did not accept the letter: {future}")
                future.get(timeout=_ANSWER_S)
            except MessageSizeTooLargeError:
                if letter.value is None:
                    raise
                left.append(letter.without_value())
            except KafkaError as error:
                left.append(letter)
                failure = error
        if failure is not None and not self._stop_now.is_set():
            log.warning("%d dead letters not acknowledged (%s): trying again", len(left), failure)
            self._reconnect(producer)
        return left

    def _reconnect(self, failed: KafkaProducer) -> None:
        """Replace a producer that has failed, as soon as a new one can connect."""
        _close(failed)
        while not self._stop_now.wait(_RETRY_S):
            try:
                self._producer = self._connect()
            except (BrokerUnavailableError, BrokerRefusedError) as error:
                log.warning("%s", error)
            else:
                return

    def _enqueue(self, producer: KafkaProducer, letter: DeadLetter) -> Any:
        """Return the future of the letter, or the error with which the producer refused it."""
        try:
            return producer.send(
                self.topics.dead_letter(letter.topic),
                value=letter.value,
                key=letter.key,
                partition=0,
                headers=letter.all_headers(),
            )
        except MessageSizeTooLargeError:
            if letter.value is None:
                raise
            return self._enqueue(producer, letter.without_value())
        except KafkaError as error:
            return error

    def _connect(self) -> KafkaProducer:
        names = [self.topics.dead_letter(topic) for topic in self.topics.domains]
        with stating_the_reason(self.connection, names):
            return KafkaProducer(
                **self.connection.kafka_python(),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                batch_size=256 * 1024,
                max_request_size=64 * 1024 * 1024,
                metrics_enabled=False,
            )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def read_identities(
    connection: KafkaSettings, topics: TopicSettings, positions: Mapping[Key, int], tail: int
) -> set[Identity]:
    """Identities of letters whose origin is at or after ``positions``, among the last ``tail`` of each partition."""
    names = [topics.dead_letter(name) for name in topics.domains]
    counts = partition_counts(connection, names)
    tps = [TopicPartition(name, p) for name, n in counts.items() for p in range(n)]
    if not tps:
        return set()
    consumer = KafkaConsumer(
        **connection.kafka_python(), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        ends = true_ends(consumer, tps)
        beginning = partition_offsets(consumer, tps, "beginning")
        unread = {tp: end for tp, end in ends.items() if end > beginning[tp]}
        consumer.assign(list(unread))
        for tp, end in unread.items():
            consumer.seek(tp, max(beginning[tp], end - tail))
        out: set[Identity] = set()
        deadline = time.monotonic() + _TAIL_TIMEOUT_S
        while unread:
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(
                    f"the last {tail} letters of {', '.join(names)} were not read within {_TAIL_TIMEOUT_S:.0f} s; "
                    "start the worker again"
                )
            for records in consumer.poll(timeout_ms=500, max_records=5_000).values():
                out.update(identity_of(record) for record in records)
            for tp in [tp for tp, end in unread.items() if consumer.position(tp) >= end]:
                del unread[tp]
    finally:
        consumer.close()
    return {found for found in out if found[2] >= positions.get(found[:2], 0)}


def _close(producer: KafkaProducer) -> None:
    with suppress(KafkaError):  # letters in flight fail, and their senders get the error
        producer.close(timeout=0)
