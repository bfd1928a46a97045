"""``DeadLetters``: sends rejected records to ``<topic>.dlq``, once each, before the valid rows around them are learned."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Protocol

from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import StreamError
from ecdctr.streams.dead_letters.lane import Lane
from ecdctr.streams.dead_letters.letter import ROLLED_BACK, DeadLetter, Identity, letters_of
from ecdctr.streams.dead_letters.read_back import Tail
from ecdctr.streams.retry import call_until_available
from ecdctr.streams.settings import TopicSettings

__all__ = ["DeadLetter", "DeadLetterSink", "DeadLetters", "MemoryDeadLetters", "letters_of"]

TAIL = 100_000  # dead letters per partition that are read at start, at most, to find those that were already sent

Key = tuple[str, int]
_Known = Future[None] | None
"""None: an earlier run wrote it."""


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

    Each dead-letter topic has a :class:`Lane`, which writes each letter exactly once and waits for as long as the topic takes
    none; whoever sends a letter waits with it, so nothing is learned that comes after it. A topic that takes no letters does
    not hold up the other one.

    A caller that is cancelled while it waits (the stream app is built anew) does not cancel the letter: when its record is read
    and rejected again, the new caller waits for the same letter. After a crash, messages after the positions of the last
    checkpoint are read again and rejected again; letters that the topic already contains are not sent a second time.

    Parameters
    ----------
    connection, topics
        Brokers and topics.
    tail
        Maximum number of dead letters per partition of a dead-letter topic that are read at start. If the worker died after it
        had sent more letters than this to one partition since its last checkpoint, the others would be sent twice.
    on_waiting
        Called in a thread with one sentence while letters cannot be written, and with None when they can be again.
    connect_timeout_s
        How long :meth:`start` waits for brokers that do not answer, and for partitions without a leader.
    stop_requested
        Ends that wait when it returns True.

    Attributes
    ----------
    counts
        Events sent by this process, by reason.
    examples
        The last of them by reason: where it was read, and what is wrong with which field.
    already_there
        Number of letters that were not sent because an earlier run had sent them.
    """

    def __init__(
        self,
        connection: KafkaSettings,
        topics: TopicSettings,
        *,
        tail: int = TAIL,
        on_waiting: Callable[[str | None], None] = lambda _: None,
        connect_timeout_s: float = 60.0,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.topics = topics
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.already_there = 0
        self._on_waiting = on_waiting
        self._connect_timeout_s, self._stop_requested = connect_timeout_s, stop_requested
        self._sentences: dict[str, str] = {}  # by dead-letter topic
        self._known: dict[Key, dict[Identity, _Known]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tails = {name: Tail(connection, topics.dead_letter(name), tail) for name in topics.domains}
        self._lanes = {
            name: Lane(
                connection,
                topics.dead_letter(name),
                self._tails[name],
                on_written=self._written,
                on_waiting=partial(self._waiting, topics.dead_letter(name)),
            )
            for name in topics.domains
        }
        self._running = False

    async def start(self, positions: Mapping[Key, int]) -> None:
        """Connect, and find the letters after the checkpoint's positions that have already been sent.

        Parameters
        ----------
        positions
            Next offset of every partition at the last checkpoint.

        Raises
        ------
        BrokerUnavailableError
            The brokers did not answer, or a dead-letter topic had no leader, for ``connect_timeout_s``.
        BrokerRefusedError
            A broker refuses the connection or shows a topic to nobody of this name.
        StopRequestedError
            A stop was requested.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._start, positions)
        self._running = True

    def _start(self, positions: Mapping[Key, int]) -> None:
        try:
            for name, lane in self._lanes.items():
                read = partial(self._tails[name].read, self._stop_requested)
                for identity in self._until_available(read):
                    key = identity[:2]
                    if identity[2] >= positions.get(key, 0):
                        self._known.setdefault(key, {})[identity] = None
                self._until_available(lane.start)
        except BaseException:
            for lane in self._lanes.values():
                lane.stop()
            raise

    def _until_available(self, call: Callable[[], set[Identity] | None]) -> set[Identity]:
        return call_until_available(call, self._connect_timeout_s, self._stop_requested) or set()

    async def stop(self) -> None:
        """Disconnect. Letters in flight fail; their offsets are read again after a restart."""
        self._running = False
        await asyncio.gather(*(asyncio.to_thread(lane.stop) for lane in self._lanes.values()))

    async def send(self, letters: Sequence[DeadLetter]) -> int:
        """Return when the brokers have acknowledged every letter; the result is the number of those that were new.

        Raises
        ------
        StreamError
            The worker stopped before they were acknowledged.
        """
        if not self._running:
            raise StreamError("dead letters can only be sent between start() and stop()")
        self._forget(letters)
        new: dict[str, list[DeadLetter]] = {}
        waits: set[Future[None]] = set()
        for letter in letters:
            known = self._known.setdefault((letter.topic, letter.partition), {})
            identity = letter.identity()
            if identity not in known:
                new.setdefault(letter.topic, []).append(letter)
            elif (future := known[identity]) is None:
                self.already_there += 1
                known[identity] = _done()  # counted once, however often the record is read again
            else:
                waits.add(future)
        for topic, group in new.items():
            future = self._lanes[topic].put(group)
            waits.add(future)
            for letter in group:
                self._known[(topic, letter.partition)][letter.identity()] = future
        await asyncio.gather(*(asyncio.wrap_future(future) for future in waits if not _is_written(future)))
        for letter in letters:
            if letter.reason == ROLLED_BACK:  # a step is rolled back once
                self._known[(letter.topic, letter.partition)].pop(letter.identity(), None)
        return sum(map(len, new.values()))

    def _forget(self, letters: Sequence[DeadLetter]) -> None:
        """Forget letters of records that are not read again.

        A call for a partition contains all letters from the position of reading on, so those of earlier records are done with.
        """
        first: dict[Key, int] = {}
        for letter in letters:
            if letter.reason != ROLLED_BACK:
                key = (letter.topic, letter.partition)
                first[key] = min(first.get(key, letter.offset), letter.offset)
        for key, offset in first.items():
            known = self._known.get(key)
            if known:
                self._known[key] = {
                    identity: future
                    for identity, future in known.items()
                    if identity[2] >= offset
                    or identity[3] == ROLLED_BACK
                    or (future is not None and not future.done())
                }

    def _written(self, letters: Sequence[DeadLetter]) -> None:
        """Called in a lane's thread."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._count, letters)

    def _count(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self.counts[letter.reason] += letter.events
            where = f"{letter.topic}[{letter.partition}] at offset {letter.offset}"
            self.examples[letter.reason] = f"{where}: {letter.detail}"

    def _waiting(self, topic: str, sentence: str | None) -> None:
        """Called in a lane's thread."""
        if sentence is None:
            self._sentences.pop(topic, None)
        else:
            self._sentences[topic] = sentence
        self._on_waiting("; ".join(self._sentences.values()) or None)


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


def _is_written(future: Future[None]) -> bool:
    return future.done() and future.exception() is None
