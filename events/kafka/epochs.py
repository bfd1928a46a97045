"""``LeaderEpochs``: in which leader epoch each record that a consumer fetched was written."""

from __future__ import annotations

import itertools
import struct
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiokafka.protocol.fetch import FetchRequest

from ecdctr.events.plausible_time import TimeRule
from ecdctr.state.positions import LogIdentity, Part

__all__ = ["LeaderEpochs", "observe_fetches"]

Key = tuple[str, int]

_HEADER = struct.Struct(">qiibIhi")
"""Base offset, length of the rest, leader epoch, magic, checksum, attributes, last offset - base offset (KIP-98)."""
_LENGTH_STARTS_AFTER = 12
_MAGIC = 2
"""Older record formats have no leader epoch."""
_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Span:
    """Batches of one leader epoch: offsets ``first <= o < end``, unless a later span begins before ``end``.

    ``checked``: the end of the span before has been compared with the broker.
    """

    first: int
    end: int
    epoch: int
    checked: bool = False


class LeaderEpochs:
    """The leader epochs of fetched records, as spans of offsets, and the ids of the topics.

    aiokafka does not return the leader epoch of a record, so the headers of the raw batches are read: those of control
    batches and aborted transactions, too, which a consumer passes without a word.

    All methods may be called in any thread.

    Parameters
    ----------
    topic_ids
        ``{topic: id}``.
    positions, identity
        Next offset of each partition, and what is known of the log up to there.
    times
        Has judged the times of the fetched records. If None, none is refused.

    Examples
    --------
    >>> from ecdctr.state.positions import Positions
    >>> epochs = LeaderEpochs({}, Positions({("ads", 0): 5}), LogIdentity(epochs={("ads", 0): 3}))
    >>> epochs.observe("ads", 0, _HEADER.pack(5, 49, 3, 2, 0, 0, 1) + bytes(34))
    >>> epochs.observe("ads", 0, _HEADER.pack(7, 49, 4, 2, 0, 0, 2) + bytes(34))
    >>> epochs.epoch(Part("ads", 0, 0, 7)), epochs.epoch(Part("ads", 0, 7, 8)), epochs.epoch(Part("ads", 0, 8, 11))
    (3, 4, None)
    >>> epochs.unchecked("ads", 0, 9)
    [(3, 7)]
    """

    def __init__(
        self,
        topic_ids: Mapping[str, str],
        positions: Mapping[Key, int],
        identity: LogIdentity,
        times: TimeRule | None = None,
    ) -> None:
        self.topic_ids = dict(topic_ids)
        self._times = times
        self._lock = threading.Lock()
        self._spans: dict[Key, tuple[_Span, ...]] = {
            key: (_Span(0, positions[key], epoch),)
            for key, epoch in identity.epochs.items()
            if positions.get(key)
        }

    def observe(self, topic: str, partition: int, data: bytes) -> None:
        """Read the headers of record batches; the last one may be cut."""
        key = (topic, partition)
        with self._lock:
            spans = self._spans.get(key, ())
            for first, end, epoch in _batches(data):
                spans = _with(spans, first, end, epoch)
            if spans:
                self._spans[key] = spans[-_KEPT:]

    def epoch(self, part: Part) -> int | None:
        """Leader epoch of the last offset of a part; None if no batch with this offset was observed."""
        at = _find(self._spans.get((part.topic, part.partition), ()), part.end - 1)
        return None if at is None else at.epoch

    def decisions(self, parts: Iterable[Part]) -> dict[str, Any]:
        """What was decided about the times of the records of a step, for the journal."""
        return {} if self._times is None else self._times.decisions(parts)

    def unchecked(self, topic: str, partition: int, last: int) -> list[tuple[int, int]]:
        """The leader epochs that ended before the batch with the offset ``last``, and have not been compared with the broker.

        The consumer has read each of them up to an offset. If the broker's log of this epoch ends before that offset, an unclean
        leader election has removed records that were read, and the following ones are others.

        Returns
        -------
        list of (int, int)
            Leader epoch, and the offset up to which it was read.
        """
        spans = self._spans.get((topic, partition), ())
        return [
            (before.epoch, before.end)
            for before, span in itertools.pairwise(spans)
            if span.first <= last and not span.checked
        ]

    def set_checked(self, topic: str, partition: int, last: int) -> None:
        """Record that the epochs which :meth:`unchecked` returned have been compared."""
        key = (topic, partition)
        with self._lock:
            spans = self._spans.get(key, ())
            self._spans[key] = tuple(replace(s, checked=True) if s.first <= last else s for s in spans)


def observe_fetches(client: Any, epochs: LeaderEpochs) -> None:
    """Let ``epochs`` observe every fetch response of an aiokafka client, before the consumer sees it.

    Parameters
    ----------
    client
        ``AIOKafkaConsumer._client``. Its method ``send`` is wrapped, once for each ``epochs``.
    epochs
        Called in the client's thread.
    """
    if getattr(client, "ecdctr_epochs", None) is epochs:
        return
    send = client.send

    async def send_and_observe(node_id: Any, request: Any, **options: Any) -> Any:
        response = await send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            for topic, partitions in response.topics:
                for partition, *_, data in partitions:
                    if data:
                        epochs.observe(topic, partition, data)
        return response

    client.send = send_and_observe
    client.ecdctr_epochs = epochs


def _batches(data: bytes) -> Iterator[tuple[int, int, int]]:
    """First offset, end offset and leader epoch of each complete batch."""
    at = 0
    while at + _HEADER.size <= len(data):
        first, length, epoch, magic, _, _, last = _HEADER.unpack_from(data, at)
        at += _LENGTH_STARTS_AFTER + length
        if magic != _MAGIC or at > len(data):
            return
        if epoch >= 0:
            yield first, first + last + 1, epoch


def _with(spans: tuple[_Span, ...], first: int, end: int, epoch: int) -> tuple[_Span, ...]:
    """The spans with one more batch."""
    if not spans:
        return (_Span(first, end, epoch),)
    last = spans[-1]
    if first >= last.first:
        if epoch == last.epoch:
            return spans if end <= last.end else (*spans[:-1], replace(last, end=end))
        if first >= last.end:
            return (*spans, _Span(first, end, epoch))
    before = _find(spans, first)
    if before is not None and before.epoch == epoch:
        return spans  # fetched once more
    # The log has another record at this offset than before, so it was cut. The earlier span keeps its end: up to there it was read.
    return (*(s for s in spans if s.first < first), _Span(first, end, epoch))


def _find(spans: tuple[_Span, ...], offset: int) -> _Span | None:
    at = bisect_right(spans, offset, key=lambda span: span.first) - 1
    return spans[at] if at >= 0 and offset < spans[at].end else None
