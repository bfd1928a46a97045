"""The Kafka log read by offset: whole ranges for replay, exact offset ranges (``Part``) for recovery and audit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ecdctr.events.align import Chunk
from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka.held import LogState, losses
from ecdctr.events.kafka.identity import compacted_topics, epoch_ends, topic_ids
from ecdctr.events.kafka.offsets import partition_offsets, stable_ends, true_ends
from ecdctr.events.kafka.partition_reader import OutOfRangeError, PartitionReader
from ecdctr.events.kafka.probe import stating_the_reason
from ecdctr.events.kafka.topic_state import naming_partitions
from ecdctr.events.plausible_time import NO_DECISIONS, TimeDecisions, TimeRule, written_at
from ecdctr.events.records import RecordReject, decode_records
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerUnavailableError, OffsetsLostError, StreamError
from ecdctr.state.positions import LogIdentity, Part

__all__ = ["SECOND_LOOK_S", "KafkaLog"]

_logger = logging.getLogger("ecdctr.kafka")
Key = tuple[str, int]

CHECK_S = 10.0
"""After this time without a record, it is logged what is waited for, and whether the log holds it is checked."""
_POLL_MS = 500
_BOOTSTRAP_MS = 10_000
MAX_POLL_RECORDS = 10_000
_REQUEST_MS = 10_000
"""A broker to which a connection was made and that does not answer a request for this long is given up."""
_METADATA_AGE_MS = 5_000
"""Longest time until a new leader is known, in place of one that does not answer."""
OFFSETS_S = 10.0
"""Limit for a request of first or end offsets; whoever waits for a broker asks again and says so."""
NEW_TOPIC_S = 2.0
"""How long a topic that was created a moment ago may be absent from the metadata of another broker."""
SECOND_LOOK_S = 2.0
"""Two looks at the log, this far apart, decide that records are lost: a broker that has just started may report an old state."""
_RETRY_S = 0.05
_FAILED_S = 0.25
"""Pause after a read that failed."""


class KafkaLog:
    """Reads partitions of the click topics from given offsets, outside any consumer group.

    Records of aborted transactions are never returned, and those of an open transaction only when it is committed
    (``read_committed``). Each partition is read by a client of its own. One client for all would have to pause the partitions that are
    not wanted now, and kafka-python 3.0 loses its position in a partition that is paused in the middle of a fetch.

    Parameters
    ----------
    connection
        Brokers and security.
    decoder
        Decodes the records.
    topics
        ``{topic: domain}``.
    timeout_s
        Limit for a request about the log: its partitions, offsets and identity.
    stall_s
        Limit for records that the log holds and does not return; ``inf``: wait without a limit. While one of the methods that read
        waits, it logs every :data:`CHECK_S` seconds for what.
    on_wait
        Called several times a second while records are waited for; an error that it raises ends the wait.

    Attributes
    ----------
    dead_rows
        Number of rejected events.
    on_reject
        Called with topic, partition and each rejected event.
    gaps
        Offsets without a record in the ranges of the last :meth:`fetch`: removed by compaction, or transaction markers.
    """

    def __init__(
        self,
        connection: KafkaSettings,
        decoder: EventDecoder,
        topics: Mapping[str, int],
        *,
        timeout_s: float = 60.0,
        stall_s: float = 600.0,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self.connection = connection
        self.decoder = decoder
        self.topics = dict(topics)
        self.timeout_s, self.stall_s, self.on_wait = timeout_s, stall_s, on_wait
        self._time_rule = TimeRule(decoder.max_ahead_ms)
        self.dead_rows = self.gaps = 0
        self.on_reject: Callable[[str, int, RecordReject], None] | None = None
        self._offsets_s = min(timeout_s, OFFSETS_S)
        self._readers: dict[Key, PartitionReader] = {}
        self._connected = False  # only the first client probes the brokers
        self._consumer = self._client("read_uncommitted")  # for metadata and offsets only
        self._connected = True

    def close(self) -> None:
        """Disconnect."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._consumer.close()

    def __enter__(self) -> KafkaLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _client(self, isolation_level: str = "read_committed") -> Any:
        with stating_the_reason(self.connection, list(self.topics), probe_first=not self._connected):
            # assign(), never subscribe(): no group is joined, and nothing is committed.
            return KafkaConsumer(
                **self.connection.kafka_python(),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level=isolation_level,
                max_poll_records=MAX_POLL_RECORDS,
                fetch_max_wait_ms=50,
                bootstrap_timeout_ms=_BOOTSTRAP_MS,
                request_timeout_ms=_REQUEST_MS,
                metadata_max_age_ms=_METADATA_AGE_MS,
                max_partition_fetch_bytes=4 * 1024 * 1024,
            )

    # -- contents of the log

    def partitions(self) -> list[Key]:
        """Every partition of the topics, sorted.

        Raises
        ------
        StreamError
            A topic does not exist, even after :data:`NEW_TOPIC_S`.
        BrokerUnavailableError
            Brokers did not answer for as long: the client asks one that it chooses, which may just have ended.
        """
        keys: list[Key] = []
        deadline = time.monotonic() + NEW_TOPIC_S
        for topic in sorted(self.topics):
            with stating_the_reason(self.connection, list(self.topics), probe_first=False):
                found = self._partitions_of(topic, deadline)
            if not found:
                raise StreamError(f'topic "{topic}" does not exist: create it with `ecdctr topics --create`')
            keys += [(topic, p) for p in sorted(found)]
        return keys

    def _partitions_of(self, topic: str, deadline: float) -> set[int]:
        """Partitions of a topic, asked for again until the deadline while there are none."""
        while True:
            failed: KafkaError | None = None
            try:
                found: set[int] | None = self._consumer.partitions_for_topic(topic)
            except KafkaError as error:
                found, failed = None, error
            if found:
                return found
            if time.monotonic() >= deadline:
                if failed is not None:
                    raise failed
                return set()
            time.sleep(_RETRY_S)

    def beginning(self, keys: Sequence[Key], timeout_s: float | None = None) -> dict[Key, int]:
        """First offset that each partition still holds; ``timeout_s``: by default that of the log."""
        tps = [TopicPartition(*k) for k in keys]
        limit_s = self._offsets_s if timeout_s is None else timeout_s
        with naming_partitions(self.connection, list(self.topics)):
            found = partition_offsets(self._consumer, tps, "beginning", limit_s)
        return {(tp.topic, tp.partition): offset for tp, offset in found.items()}

    def end(self, keys: Sequence[Key]) -> dict[Key, int]:
        """End of what can be read of each partition: its first offset in an open transaction, else its true end.

        See :func:`ecdctr.events.kafka.offsets.stable_ends`.
        """
        tps = [TopicPartition(*k) for k in keys]
        with naming_partitions(self.connection, list(self.topics)):
            written = true_ends(self._consumer, tps, self._offsets_s)
            ends = stable_ends(self._consumer, written, self._offsets_s)
        return {(tp.topic, tp.partition): end for tp, end in ends.items()}

    def written(self, keys: Sequence[Key], timeout_s: float | None = None) -> dict[Key, int]:
        """True end of each partition, open transactions included; see :func:`ecdctr.events.kafka.offsets.true_ends`."""
        limit_s = self._offsets_s if timeout_s is None else timeout_s
        with naming_partitions(self.connection, list(self.topics)):
            ends = true_ends(self._consumer, [TopicPartition(*k) for k in keys], limit_s)
        return {(tp.topic, tp.partition): end for tp, end in ends.items()}

    def epoch_ends(self, epochs: Mapping[Key, int]) -> dict[Key, int]:
        """Where leader epochs end; see :func:`ecdctr.events.kafka.identity.epoch_ends`."""
        return epoch_ends(self._consumer, epochs, self.timeout_s)

    def state(self, identity: LogIdentity) -> LogState:
        """What the brokers report about all partitions of the topics, to be compared with positions by :func:`losses`.

        Parameters
        ----------
        identity
            Leader epochs whose ends are requested; take the positions with which the ends are compared before it.
        """
        keys = self.partitions()
        epochs = {key: epoch for key, epoch in dict(identity.epochs).items() if key in keys}
        return LogState(
            beginning=self.beginning(keys),
            ends=self.written(keys),
            topic_ids=topic_ids(self._consumer, self.topics),
            epoch_ends=self.epoch_ends(epochs),
            compacted=frozenset(compacted_topics(self._consumer, self.topics)),
        )

    def confirmed_state(
        self, identity: LogIdentity, needed: Mapping[Key, int], reached: Mapping[Key, int]
    ) -> LogState:
        """:meth:`state`; if something is lost according to it, the state of a second look, which decides.

        Parameters
        ----------
        identity, needed, reached
            See :func:`losses`.
        """
        found = self.state(identity)
        if losses(needed, reached, identity, found):
            self.pause(SECOND_LOOK_S)
            found = self.state(identity)
        return found

    def pause(self, seconds: float) -> None:
        """Wait; what ``on_wait`` raises ends the wait."""
        resume_at = time.monotonic() + seconds
        while time.monotonic() < resume_at:
            if self.on_wait is not None:
                self.on_wait()
            time.sleep(min(seconds, _FAILED_S))

    # -- reading

    def chunks(
        self,
        first: Mapping[Key, int],
        end: Mapping[Key, int],
        *,
        wants: Callable[[str, int], bool] | None = None,
    ) -> Iterator[Chunk]:
        """Decoded chunks of all partitions, each in offset order, until every partition is at its end.

        Parameters
        ----------
        first, end
            Offset range of each partition.
        wants
            ``wants(topic, partition)``: partitions for which it returns False are skipped in this round, which bounds the
            rows in memory.

        Raises
        ------
        OffsetsLostError, BrokerUnavailableError
            As :meth:`fetch`.
        """
        todo = {key: first[key] for key in end if first[key] < end[key]}
        began = checked = time.monotonic()
        failing: set[Key] = set()
        while todo:
            wanted = [key for key in todo if wants is None or wants(*key)]
            got = False
            failed: StreamError | None = None
            for key in wanted:
                reader = self._reader(key, todo[key])
                try:
                    # Wait up to 20 ms per partition until one has returned records; poll the rest without waiting.
                    records = reader.records(end[key], timeout_ms=0 if got else 20)
                except (OutOfRangeError, BrokerUnavailableError) as error:
                    failed = error
                    if key not in failing:
                        failing.add(key)
                        self._report_stall({key: (todo[key], end[key])}, 0.0, error)
                    time.sleep(_FAILED_S)
                    reader.retry(todo[key])
                    continue
                if records is None:
                    continue
                got = True
                failing.discard(key)
                chunk = self._decode(key, todo[key], records, end[key], self._time_rule)
                todo[key] = chunk.end
                if chunk.end >= end[key]:
                    del todo[key]
                yield chunk
            now = time.monotonic()
            if got or not wanted:
                began = checked = now
                continue
            if self.on_wait is not None:
                self.on_wait()
            if now - checked > CHECK_S:
                checked = now
                self._report_stall({key: (todo[key], end[key]) for key in wanted}, now - began, failed)

    def fetch(self, parts: Sequence[Part], decisions: TimeDecisions = NO_DECISIONS) -> Batch:
        """The rows of exactly these offset ranges, in the same order as in the step that was first formed from them.

        Successive calls should request a partition's parts in ascending offset order; then each record is read once. Afterwards
        :attr:`gaps` is the number of offsets of these ranges without a record. ``decisions``: those that the step's journal entry
        records; rows with implausible times are not judged anew.

        Raises
        ------
        OffsetsLostError
            The log no longer holds the ranges.
        BrokerUnavailableError
            The log holds them, but did not return them within ``stall_s``.
        """
        if not parts:
            raise ValueError("fetch needs at least one part")
        self.gaps = sum(part.end - part.first for part in parts)
        batches: list[Batch] = []
        for part in sorted(parts):
            batches += self._fetch_part(part, decisions)
        return Batch.concat(batches, sorted(parts))

    def raw(self, part: Part) -> list[Any]:
        """The records of one part as they are in the log; raises the errors of :meth:`fetch`."""
        reader = self._reader((part.topic, part.partition), part.first)
        records: list[Any] = []
        at = part.first
        while at < part.end:
            found = self._wait_for(reader, at, part.end)
            records += found
            at = found[-1].offset + 1 if found else part.end
        return records

    def _fetch_part(self, part: Part, decisions: TimeDecisions) -> list[Batch]:
        key = (part.topic, part.partition)
        reader = self._reader(key, part.first)
        out: list[Batch] = []
        at = part.first
        while at < part.end:
            if reader.rest is None:
                records = self._wait_for(reader, at, part.end, beyond=True)
                end = records[-1].offset + 1 if records else part.end
                reader.rest = self._decode(key, at, records, end)
                reader.rest_offsets = np.array([r.offset for r in records], np.int64)
                reader.rest_written = written_at(records, reader.rest.offset)
            chunk = reader.rest
            lo, hi = np.searchsorted(chunk.offset, (at, part.end), side="left").tolist()
            rows = chunk.batch.take(slice(lo, hi))
            kept = decisions.keep(key, rows.ts, chunk.offset[lo:hi], reader.rest_written[lo:hi])
            out.append(rows if kept.all() else rows.take(kept))
            self.gaps -= int(np.diff(np.searchsorted(reader.rest_offsets, (at, part.end), side="left"))[0])
            at = min(chunk.end, part.end)
            if chunk.end <= part.end:
                reader.rest = None
        reader.wanted = part.end
        return out

    def _wait_for(self, reader: PartitionReader, at: int, end: int, *, beyond: bool = False) -> list[Any]:
        """The next records of a range; a partition that is slow is waited for, as long as the log holds the range.

        1. Take what arrives.
        2. Every :data:`CHECK_S` without a record, and when the client first finds the offset out of range or fails: compare the
           range with the beginning and the end of the log. Only they prove that records are gone, if two looks agree.
        3. Otherwise log what is waited for, and continue for up to ``stall_s``.
        """
        key = (reader.tp.topic, reader.tp.partition)
        began = checked = time.monotonic()
        failures = 0
        while True:
            failed: StreamError | None = None
            try:
                records = reader.records(end, timeout_ms=_POLL_MS, beyond=beyond)
                if records is not None:
                    return records
            except (OutOfRangeError, BrokerUnavailableError) as error:
                failed = error
                failures += 1
                time.sleep(_FAILED_S)
                reader.retry(at)
            if self.on_wait is not None:
                self.on_wait()
            now = time.monotonic()
            if (failed is not None and failures == 1) or now - checked > CHECK_S:
                checked = now
                self._report_stall({key: (at, end)}, now - began, failed)

    def _report_stall(
        self, missing: Mapping[Key, tuple[int, int]], waited_s: float, failed: StreamError | None = None
    ) -> None:
        """Log which records are waited for; raise an error if the log does not hold them, or after ``stall_s``."""
        reason = "the log holds them" if failed is None else f"the log holds them, but {failed}"
        try:
            self._check_held(missing, failed)
        except BrokerUnavailableError as error:
            reason = str(error)
        ranges = ", ".join(f"{t}[{p}] from {at} to {end}" for (t, p), (at, end) in sorted(missing.items()))
        if waited_s > self.stall_s:
            raise BrokerUnavailableError(
                f"no record of {ranges} has arrived for {waited_s:.0f} s ({reason}): check the brokers, and start again"
            )
        _logger.warning("waiting for records of %s for %.0f s: %s", ranges, waited_s, reason)

    def _check_held(self, missing: Mapping[Key, tuple[int, int]], cause: StreamError | None = None) -> None:
        """Raise OffsetsLostError if two looks at beginnings and ends prove that the log does not hold a range."""
        lost = self._not_held(missing)
        if not lost:
            return
        self.pause(SECOND_LOOK_S)
        again = self._not_held({key: missing[key] for key in lost})
        for (topic, partition), (begins, ends) in sorted(again.items()):
            at, end = missing[(topic, partition)]
            raise OffsetsLostError(
                f'topic "{topic}" partition {partition} no longer holds offsets {at} to {end}, which are needed: '
                f"it holds {begins} to {ends}"
            ) from cause

    def _not_held(self, missing: Mapping[Key, tuple[int, int]]) -> dict[Key, tuple[int, int]]:
        """Beginning and end of each partition that does not hold its range, as the brokers report them now."""
        keys, limit_s = list(missing), min(self.timeout_s, CHECK_S / 2)
        beginning, ends = self.beginning(keys, limit_s), self.written(keys, limit_s)
        return {
            key: (beginning[key], ends[key])
            for key, (at, end) in missing.items()
            if beginning[key] > at or ends[key] < end
        }

    def _reader(self, key: Key, offset: int) -> PartitionReader:
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = PartitionReader(self._further_client(key), TopicPartition(*key))
        reader.go_to(offset)
        return reader

    def _further_client(self, key: Key) -> Any:
        """A client for one more partition; brokers that do not answer now, and did before, are waited for."""
        began = time.monotonic()
        while True:
            try:
                return self._client()
            except BrokerUnavailableError as error:
                waited = time.monotonic() - began
                if waited > self.stall_s:
                    raise
                _logger.warning("waiting for records of %s[%d] for %.0f s: %s", key[0], key[1], waited, error)
            if self.on_wait is not None:
                self.on_wait()
            time.sleep(_RETRY_S)

    def _decode(
        self, key: Key, first: int, records: list[Any], end: int, rule: TimeRule | None = None
    ) -> Chunk:
        if not records:  # nothing but gaps up to the end
            empty = self.decoder.empty()
            return Chunk(*key, first, end, np.empty(0, np.int64), empty)
        chunk, rejects = decode_records(self.decoder, *key, first, records, self.topics[key[0]])
        if rule is not None:
            chunk, rejects, _ = rule.apply(chunk, rejects, records)
        self.dead_rows += sum(reject.rows for reject in rejects)
        if self.on_reject is not None:
            for reject in rejects:
                self.on_reject(*key, reject)
        return chunk
