"""``Lane``: writes the letters of one dead-letter topic, each exactly once, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from ecdctr.events.kafka import close_at_once, probe_brokers, stating_the_reason, topic_problem
from ecdctr.events.settings import KafkaSettings
from ecdctr.monitor.dashboard import Reason
from ecdctr.state.errors import ConfigError, StreamError
from ecdctr.streams.dead_letters.letter import DeadLetter, Form, Identity
from ecdctr.streams.dead_letters.read_back import Tail
from ecdctr.streams.retry import MENDED_LATER

__all__ = ["Lane"]

log = logging.getLogger("ecdctr.dead_letters")

SAID_AFTER_S = 1.5
"""Letters that are not acknowledged within this time are reported, with the reason; it is asked for again as often."""
_PARTITION = 0  # so that the letters of a topic have one order
_RETRY_S = 1.0
_POLL_S = 0.05
_GROUP_BYTES = 4 * 1024 * 1024
_LOG_AGAIN_S = 60.0
# The producer repeats a request with the same sequence number until the brokers answer, so that they recognise what they have
# already written. If it gave up and the letter were sent anew, the letter could be written twice.
_FOR_EVER_MS = 2**31 - 1
_JOIN_S = 3.0
_PROBE_S = 0.9
_LIMIT_HOLDS_S = 600.0
"""How long a size that was refused is taken for the topic's limit; an operator may raise it."""
_TOO_FEW = (NotEnoughReplicasError, NotEnoughReplicasAfterAppendError)
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_REFUSED = (*_TOO_LARGE, InvalidRecordError, ValueError, TypeError)
"""Errors that are about the letter itself, if it was sent alone: it was not written, and will not be as it is."""

Group = tuple[Sequence[DeadLetter], "Future[None]"]


class Lane:
    """Writes letters to one topic, in the order in which they are given.

    1. Take all groups of letters that wait, up to some megabytes, and send them; wait until each is acknowledged or refused.
    2. A letter that is refused for its size is sent in its next smaller :class:`Form`; one without a key, which a compacted
       topic refuses, gets one. If several were sent together, each is first sent alone, because the producer gives all of them
       the error of one.
    3. After any other error, connect again, and read back which of the letters the topic holds: a producer that has failed
       does not tell what it has written.
    4. While letters wait, say why, and try for as long as it takes. No letter is given up.

    Parameters
    ----------
    connection, topic
        Brokers and dead-letter topic.
    tail
        Reads what the topic holds.
    on_written
        Called in the lane's thread with each group of letters that is durable, before its future is done.
    on_waiting
        Called in the lane's thread with one sentence while the letters are not taken, and with None when they are again.
    """

    def __init__(
        self,
        connection: KafkaSettings,
        topic: str,
        tail: Tail,
        *,
        on_written: Callable[[Sequence[DeadLetter]], None],
        on_waiting: Callable[[str | None], None],
    ) -> None:
        self.topic = topic
        self._connection, self._tail = connection, tail
        self._on_written, self._on_waiting = on_written, on_waiting
        self._queue: deque[Group] = deque()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._producer: KafkaProducer | None = None
        self._thread = threading.Thread(target=self._run, name=f"dead-letters-{topic}", daemon=True)
        self._since: float | None = None  # when the letters at hand were first sent
        self._asked_at = self._logged_at = 0.0
        self._sentence: str | None = None
        self._newest = -1  # highest offset of the acknowledged letters at hand
        self._repeated: Exception | None = None  # the last error after which the producer tried again
        self._limit, self._limit_until = (
            0,
            0.0,
        )  # size of a letter that was refused, and until when that counts

    def start(self) -> None:
        """Connect, then write in the background; raises what the connection raises."""
        self._producer = self._connect()
        self._thread.start()

    def put(self, letters: Sequence[DeadLetter]) -> Future[None]:
        """Add letters; the future is done when they are durable, and cannot be cancelled."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        self._queue.append((letters, future))
        self._wake.set()
        return future

    def stop(self) -> None:
        """End; the futures of letters that are not durable fail, and their records are read again after a restart."""
        self._ended.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    # -- in the lane's thread

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.wait()
            self._wake.clear()
            while self._queue and not self._ended.is_set():
                self._write_some()
        producer, self._producer = self._producer, None
        if producer is not None:
            close_at_once(producer)
        count = sum(len(letters) for letters, _ in self._queue)
        self._fail(
            StreamError(
                f'{count} dead letters were not acknowledged by "{self.topic}" before the worker stopped; after a restart their '
                "records are read and rejected again"
            )
        )

    def _write_some(self) -> None:
        groups = [self._queue[0]]
        size = _size(groups[0][0])
        for group in list(self._queue)[1:]:
            size += _size(group[0])
            if size > _GROUP_BYTES:
                break
            groups.append(group)
        self._since, self._newest = time.monotonic(), -1
        try:
            self._write([letter for letters, _ in groups for letter in letters])
        except Exception as error:  # a fault of this class must not leave the agents waiting for ever
            log.debug("dead letters", exc_info=True)
            self._fail(StreamError(f'writing to "{self.topic}" failed: {type(error).__name__}: {error}'))
            return
        if self._ended.is_set():
            return
        if self._newest >= 0:  # only now: a letter that failed may stand before one that did not
            self._tail.passed(_PARTITION, self._newest)
        self._heal()
        for letters, future in groups:
            self._queue.popleft()
            self._on_written(letters)
            future.set_result(None)

    def _fail(self, error: StreamError) -> None:
        while self._queue:
            self._queue.popleft()[1].set_exception(error)

    def _write(self, letters: list[DeadLetter]) -> None:
        """Return when all are durable, or when the lane has ended."""
        forms = {
            i: self._first_form(letter) for i, letter in enumerate(letters)
        }  # of those that are not durable yet
        together = True
        while forms and not self._ended.is_set():
            chosen = list(forms) if together else [next(iter(forms))]
            errors = self._attempt([(letters[i], forms[i]) for i in chosen])
            failed = {i: error for i, error in zip(chosen, errors, strict=True) if error is not None}
            for i in [i for i in chosen if i not in failed]:
                del forms[i]
            if not failed or self._ended.is_set():
                continue
            i, error = next(iter(failed.items()))
            if not any(isinstance(error, _REFUSED) for error in failed.values()):
                self._wait(error)
                there = self._reconnect(read_back=True)  # 3
            elif len(chosen) > 1:
                together = False
                there = self._reconnect(read_back=True)
            else:
                letters[i], forms[i] = self._accept(letters[i], forms[i], error)
                there = self._reconnect(read_back=False)
            for i in [i for i in forms if letters[i].identity() in there]:
                del forms[i]

    def _first_form(self, letter: DeadLetter) -> Form:
        if time.monotonic() > self._limit_until or letter.message().size < self._limit:
            return Form.WHOLE
        return Form.SHORT

    def _accept(self, letter: DeadLetter, form: Form, error: Exception) -> tuple[DeadLetter, Form]:  # 2
        """The letter and the form to try after a refusal."""
        if isinstance(error, InvalidRecordError) and letter.key is None:
            return letter.with_key(), form
        if form is Form.LEAST:
            self._wait(error)
            return letter, form
        if form is Form.WHOLE and isinstance(error, _TOO_LARGE):
            log.info('"%s" refuses a letter for its size: such letters are shortened', self.topic)
            self._limit, self._limit_until = letter.message().size, time.monotonic() + _LIMIT_HOLDS_S
        return letter, Form(form + 1)

    def _attempt(self, letters: Sequence[tuple[DeadLetter, Form]]) -> list[Exception | None]:
        """Send, and wait for all acknowledgements; the result has the error of each letter."""
        assert self._producer is not None
        self._repeated = None
        sent: list[Any] = []
        for letter, form in letters:
            # A producer without metadata of the topic would let each letter wait for it.
            no_metadata = bool(sent) and isinstance(sent[-1], KafkaTimeoutError)
            sent.append(sent[-1] if no_metadata else self._enqueue(self._producer, letter, form))
        waiting = [future for future in sent if not isinstance(future, Exception)]
        began = time.monotonic()
        while not all(future.is_done for future in waiting):
            is_young = time.monotonic() - began < SAID_AFTER_S
            if self._ended.wait(_POLL_S / 10 if is_young else _POLL_S):
                return [StreamError("stopped")] * len(sent)
            if not is_young:
                self._say_waiting(None)
        errors: list[Exception | None] = []
        for future in sent:
            if isinstance(future, Exception):
                errors.append(future)
            elif future.failed():
                errors.append(future.exception)
            else:
                self._newest = max(self._newest, future.value.offset)
                errors.append(None)
        return errors

    def _enqueue(self, producer: KafkaProducer, letter: DeadLetter, form: Form) -> Any:
        """The future of the letter, or the error with which the producer refused it."""
        try:
            message = letter.message(form)
            return producer.send(
                self.topic,
                value=message.value,
                key=message.key,
                headers=message.headers,
                partition=_PARTITION,
            )
        except (KafkaError, ValueError, TypeError) as error:
            return error

    # -- connections

    def _connect(self) -> KafkaProducer:
        with stating_the_reason(self._connection, [self.topic]):
            producer = KafkaProducer(
                **self._connection.kafka_python(),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                batch_size=256 * 1024,
                max_request_size=64 * 1024 * 1024,
                max_block_ms=2_000,
                bootstrap_timeout_ms=5_000,
                request_timeout_ms=10_000,
                metadata_max_age_ms=10_000,
                delivery_timeout_ms=_FOR_EVER_MS,
                metrics_enabled=False,
            )
        # The producer repeats what failed without a word; this is how to know why.
        dispatch = producer._sender._dispatch_error

        def noted(batch: Any, error: Exception, partition_response: Any) -> None:
            self._repeated = error
            dispatch(batch, error, partition_response)

        producer._sender._dispatch_error = noted
        return producer

    def _reconnect(self, *, read_back: bool) -> set[Identity]:
        """Replace the producer; with ``read_back`` return the identities of letters of which it is not known that they are there."""
        failed, self._producer = self._producer, None
        if failed is not None:
            close_at_once(failed)
        there: set[Identity] | None = None if read_back else set()
        while not self._ended.is_set():
            try:
                if there is None:
                    there = self._tail.read(self._ended.is_set)
                self._producer = self._connect()
            except MENDED_LATER as error:
                self._wait(error)
            else:
                break
        return there or set()

    # -- why letters wait

    def _wait(self, error: Exception) -> None:
        """Pause before the next try."""
        self._say_waiting(error)
        self._ended.wait(_RETRY_S)

    def _say_waiting(self, error: Exception | None) -> None:
        """Say that letters wait, and why, if they have waited for :data:`SAID_AFTER_S`.

        The lines in the log are written here, when the reason changes and every minute; the log of health leaves this reason out.
        """
        now = time.monotonic()
        assert self._since is not None
        if now - max(self._since, self._asked_at) < SAID_AFTER_S:
            return
        try:
            reason = self._reason(error)
        except ConfigError as unreadable:  # a password or a certificate that is being replaced
            reason = str(unreadable)
        self._asked_at = time.monotonic()
        sentence = f'the dead-letter topic "{self.topic}" does not take letters: {reason}'
        if sentence != self._sentence or now - self._logged_at > _LOG_AGAIN_S:
            self._logged_at = now
            log.warning(
                "%s; training waits with nothing lost, and continues when it takes them (waiting for %.0f s) [%s]",
                sentence, now - self._since, Reason.DEAD_LETTERS_WAIT.value,
            )  # fmt: skip
        self._sentence = sentence
        self._on_waiting(sentence)

    def _reason(self, error: Exception | None) -> str:
        error = error or self._repeated
        if isinstance(error, MENDED_LATER):
            return str(error)
        # A user who may write to no topic gets no producer id: an error without a class of its own.
        if isinstance(error, TopicAuthorizationFailedError) or "ClusterAuthorizationFailed" in str(error):
            return f"{self._connection.principal} does not have the right Write on it: grant it"
        if isinstance(error, _TOO_LARGE):
            least = DeadLetter(self.topic, 0, 2**63 - 1, "missing", "", None).message(Form.LEAST).size
            return f"its max.message.bytes is less than the smallest letter needs, about {least + 100} bytes: raise it"
        problem = probe_brokers(self._connection, [self.topic], _PROBE_S)
        if problem is not None:
            return str(problem)
        found = topic_problem(self._connection, [self.topic], write=True, timeout_s=_PROBE_S)
        if isinstance(error, _TOO_FEW):
            detail = "" if found is None else f" ({found})"
            return f"fewer of its replicas are in sync than its min.insync.replicas requires{detail}"
        if found is not None:
            return found
        return "its leader does not acknowledge them" if error is None else f"{type(error).__name__}: {error}"

    def _heal(self) -> None:
        if self._sentence is not None:
            assert self._since is not None
            log.info(
                'the dead-letter topic "%s" takes records again, after %.0f s [%s]',
                self.topic, time.monotonic() - self._since, Reason.DEAD_LETTERS_WAIT.value,
            )  # fmt: skip
            self._sentence = None
            self._on_waiting(None)
        self._since = None


def _size(letters: Sequence[DeadLetter]) -> int:
    return sum(len(letter.value or b"") + 500 for letter in letters)
