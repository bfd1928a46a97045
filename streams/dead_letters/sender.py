"""``DeadLetters``: what does not fit goes to ``<topic>.dlq``, once, before its good neighbours go on."""

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

from ecdctr.events.kafka import partition_offsets, true_ends
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, StreamError
from ecdctr.streams.dead_letters.letter import DeadLetter, Identity, identity_of, letters_of
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import partition_counts

__all__ = ["DeadLetter", "DeadLetterSink", "DeadLetters", "MemoryDeadLetters", "letters_of"]

log = logging.getLogger("ecdctr.dead_letters")

TAIL = 100_000  # dead letters read at start, at most, to know which are there already
_RETRY_S = 1.0
_ANSWER_S = 150.0  # beyond the producer's own delivery timeout: it answers first
_TAIL_TIMEOUT_S = 120.0

T = TypeVar("T")
Key = tuple[str, int]


class DeadLetterSink(Protocol):
    """Where dead letters go."""

    counts: Counter[str]

    async def send(self, letters: Sequence[DeadLetter]) -> int:
        """Return when every letter is kept for good; gives how many were new."""
        ...


class MemoryDeadLetters:
    """Keeps dead letters in a list: for tests and for replay."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.letters: list[DeadLetter] = []
        self._there: set[Identity] = set()

    async def send(self, letters: Sequence[DeadLetter]) -> int:
        """Keep those that are not there yet."""
        new = [letter for letter in letters if letter.identity() not in self._there]
        for letter in new:
            self._there.add(letter.identity())
            self.letters.append(letter)
            self.counts[letter.reason] += letter.events
        return len(new)


class DeadLetters:
    """Sends dead letters to Kafka.

    The producer is kafka-python's, idempotent, driven from a thread: a batch that was written but whose
    answer was lost is not written twice, and the event loop goes on while an agent awaits the answer.

    After a crash the messages behind the last counted offset come again, and their dead letters with
    them: those that the topic already holds are not sent twice.

    Parameters
    ----------
    connection, topics
        Where to.
    tail
        Dead letters read back at start, at most. More than that many, sent but not yet counted when the
        worker died, would be there twice.

    Attributes
    ----------
    counts
        Events sent by this process, by reason.
    already_there
        Letters that were not sent because an earlier run had.
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
        """Connect, and learn which letters of offsets that are not yet counted are there already.

        Parameters
        ----------
        positions
            Next offset of every partition, as the checkpoint and the journal have it.
        """
        self._there = await self._in_thread(
            lambda: read_identities(self.connection, self.topics, positions, self.tail)
        )
        self._producer = await self._in_thread(self._connect)

    async def stop(self) -> None:
        """Disconnect. Letters still under way fail, and come again with their offsets after a restart."""
        self._stop_now.set()
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._in_thread(partial(_close, producer))
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, letters: Sequence[DeadLetter]) -> int:
        """Return when the brokers have acknowledged every letter; while they are away, wait and try again."""
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
                raise StreamError(f"{len(left)} dead letters were not acknowledged before the end")
        for letter in new:
            self.counts[letter.reason] += letter.events
        return len(new)

    def _try(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Send in order and wait; gives those that have to be sent again. Runs in a thread."""
        producer = self._producer
        if producer is None:
            raise StreamError("dead letters can be sent between start() and stop() only")
        sent = [(letter, self._enqueue(producer, letter)) for letter in letters]
        left = []
        failure: KafkaError | None = None
        for letter, future in sent:
            try:
                if future is None:
                    raise KafkaError("the producer takes no more")
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
        """A producer that has given up may be of no more use: take a new one, as soon as one connects."""
        _close(failed)
        while not self._stop_now.wait(_RETRY_S):
            try:
                self._producer = self._connect()
            except BrokerUnavailableError as error:
                log.warning("%s", error)
            else:
                return

    def _enqueue(self, producer: KafkaProducer, letter: DeadLetter) -> Any:
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
        except KafkaError:
            return None

    def _connect(self) -> KafkaProducer:
        try:
            return KafkaProducer(
                **self.connection.kafka_python(),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                batch_size=256 * 1024,
                max_request_size=64 * 1024 * 1024,
                metrics_enabled=False,
            )
        except KafkaError as error:
            raise BrokerUnavailableError(
                f"no broker answers at {', '.join(self.connection.addresses)} ({type(error).__name__}): "
                "start one, or set kafka.brokers"
            ) from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def read_identities(
    connection: KafkaSettings, topics: TopicSettings, positions: Mapping[Key, int], tail: int
) -> set[Identity]:
    """Letters in the dead-letter topics whose origin is not counted yet, from the last ``tail`` of each."""
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
                    f"the end of {', '.join(names)} was not read in {_TAIL_TIMEOUT_S:.0f} s"
                )
            for records in consumer.poll(timeout_ms=500, max_records=5_000).values():
                out.update(identity_of(record) for record in records)
            for tp in [tp for tp, end in unread.items() if consumer.position(tp) >= end]:
                del unread[tp]
    finally:
        consumer.close()
    return {found for found in out if found[2] >= positions.get(found[:2], 0)}


def _close(producer: KafkaProducer) -> None:
    with suppress(KafkaError):  # what is under way fails; its senders are told
        producer.close(timeout=0)
