"""``PartitionReader``: one partition of the log, read forward from an offset."""

from __future__ import annotations

from typing import Any

from kafka.errors import KafkaError, OffsetOutOfRangeError

from ecdctr.events.align import Chunk
from ecdctr.events.kafka.codecs import codec_error
from ecdctr.state.errors import BrokerUnavailableError, OffsetsLostError

__all__ = ["PartitionReader"]


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
    """

    def __init__(self, consumer: Any, tp: Any) -> None:
        self._consumer = consumer
        self.tp = tp
        self.wanted = -1
        self.rest: Chunk | None = None
        consumer.assign([tp])

    def go_to(self, offset: int) -> None:
        """Continue at ``offset``; does nothing if that is the current position."""
        if offset == self.wanted:
            return
        self.rest = None
        self.wanted = offset
        self._consumer.seek(self.tp, offset)

    def records(self, end: int | None, timeout_ms: int, *, gap_end: int | None = None) -> list[Any] | None:
        """The next records before ``end``; None: none arrived in time. Empty: the log has only gaps up to ``end``.

        Parameters
        ----------
        end
            Exclusive; None: no limit.
        timeout_ms
            Longest wait for a record.
        gap_end
            Used instead of ``end`` to recognise that only gaps are left; records beyond it are returned, too.

        Raises
        ------
        OffsetsLostError
            The topic no longer has the offset.
        BrokerUnavailableError
            The read failed.
        """
        try:
            found = self._consumer.poll(timeout_ms=timeout_ms).get(self.tp)
            if found:
                self.wanted = found[-1].offset + 1
                return [r for r in found if end is None or r.offset < end]
            gap_end = end if gap_end is None else gap_end
            if gap_end is not None and self._consumer.position(self.tp) >= gap_end:
                self.wanted = gap_end
                return []
        except OffsetOutOfRangeError as error:
            raise OffsetsLostError(
                f'topic "{self.tp.topic}" partition {self.tp.partition} no longer has offset {self.wanted}: {error}'
            ) from error
        except KafkaError as error:
            where = f"{self.tp.topic}[{self.tp.partition}]"
            raise (
                codec_error(error, where) or BrokerUnavailableError(f"reading {where} failed: {error}")
            ) from error
        return None

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()
