"""``PartitionReader``: one partition of the log, read forward from an offset."""

from __future__ import annotations

from typing import Any

import numpy as np
from kafka.errors import (
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
)
from numpy.typing import NDArray

from ecdctr.events.align import Chunk
from ecdctr.events.kafka.client_errors import damaged_records, missing_right, short_text, user_of
from ecdctr.events.kafka.codecs import codec_error
from ecdctr.state.errors import BrokerUnavailableError, OffsetsLostError

__all__ = ["OutOfRangeError", "PartitionReader"]

_POSITION_MS = 1_000
"""Longest time for a comparison of leader epochs that the client makes first."""


class OutOfRangeError(OffsetsLostError):
    """The leader does not have the offset. A leader that was elected a moment ago may say so of one that it has."""


class PartitionReader:
    """Reads one partition forward.

    Parameters
    ----------
    consumer
        A kafka-python consumer used for this partition only; it is closed with the reader.
    tp
        The partition.

    Attributes
    ----------
    wanted
        Next offset to read.
    rest
        Decoded rows that were not all returned yet.
    rest_offsets
        Offsets of the records from which ``rest`` was decoded.
    rest_written
        Time (ms) of the record of each row of ``rest``.
    """

    def __init__(self, consumer: Any, tp: Any) -> None:
        self._consumer = consumer
        self.tp = tp
        self.wanted = -1
        self.rest: Chunk | None = None
        self.rest_offsets: NDArray[np.int64] = np.empty(0, np.int64)
        self.rest_written: NDArray[np.int64] = np.empty(0, np.int64)
        consumer.assign([tp])

    def go_to(self, offset: int) -> None:
        """Continue at ``offset``; does nothing if that is the current position."""
        if offset == self.wanted:
            return
        self.rest = None
        self.wanted = offset
        self._consumer.seek(self.tp, offset)

    def records(self, end: int, timeout_ms: int, *, beyond: bool = False) -> list[Any] | None:
        """The next records before ``end``; None: none arrived in time. Empty: the log has only gaps up to ``end``.

        Parameters
        ----------
        end
            Exclusive.
        timeout_ms
            Longest wait for a record.
        beyond
            Return also the records from ``end`` on that arrived together with earlier ones.

        Raises
        ------
        OutOfRangeError
            The topic does not have the offset.
        OffsetsLostError
            The topic no longer has the record that was read before.
        BrokerRefusedError
            The topic may not be read.
        BrokerUnavailableError
            The read failed; :class:`~ecdctr.state.errors.DamagedRecordsError`: the records are damaged.
        """
        try:
            found = self._consumer.poll(timeout_ms=timeout_ms).get(self.tp)
            if found:
                self.wanted = found[-1].offset + 1
                return list(found) if beyond else [r for r in found if r.offset < end]
            if self._position() >= end:
                self.wanted = end
                return []
        except OffsetOutOfRangeError as error:
            raise OutOfRangeError(
                f'topic "{self.tp.topic}" partition {self.tp.partition} no longer has offset {self.wanted}: {error}'
            ) from error
        except LogTruncationError as error:
            raise OffsetsLostError(
                f'topic "{self.tp.topic}" partition {self.tp.partition} was cut before offset {self.wanted} while it was read '
                f"(unclean leader election): {error}"
            ) from error
        except KafkaError as error:
            where = f"{self.tp.topic}[{self.tp.partition}]"
            raise (
                missing_right(error, user_of(self._consumer), topics=[self.tp.topic])
                or codec_error(error, where)
                or damaged_records(error, self.tp.topic, self.tp.partition, self.wanted)
                or BrokerUnavailableError(f"reading {where} failed: {short_text(error)}")
            ) from error
        return None

    def retry(self, offset: int) -> None:
        """Fetch from ``offset`` again, after an error."""
        self.wanted = -1
        self.go_to(offset)

    def _position(self) -> int:
        """Next offset that the client fetches: beyond records that it returned, transaction markers and gaps."""
        return int(self._consumer.position(self.tp, timeout_ms=_POSITION_MS))

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()
