"""``BrokerWatch``: reports that no broker answers, or that the log ends before the positions of training."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping

from ecdctr.events.kafka import KafkaLog
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, OffsetsLostError, StreamError

__all__ = ["BrokerWatch"]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]

EVERY_S = 2.0
SILENT_S = 4.0
"""A longer time without an answer is reported, and reported again after twice the time, and so on."""
LONGEST_S = 60.0


class BrokerWatch:
    """Requests the end offsets of the click topics every :data:`EVERY_S` seconds.

    The consumer's own client waits for lost brokers without a limit or a message, and cannot distinguish a broker that came back with
    an empty log from one without new records.

    The requests are made in a daemon thread, because a broker that hangs blocks them.

    Parameters
    ----------
    make_log
        Connects to the click topics; raises at once if no broker listens or all refuse the connection.
    positions
        Returns the next offset of every partition.
    on_lost
        Called once, in the thread of this class, when two checks in a row found that the log ends before a position. One check is
        not enough: a broker that has just come back may not report all of its topics yet.
    """

    def __init__(
        self,
        make_log: Callable[[], KafkaLog],
        positions: Callable[[], Mapping[Key, int]],
        on_lost: Callable[[OffsetsLostError], None],
    ) -> None:
        self._make_log, self._positions, self._on_lost = make_log, positions, on_lost
        self._ended = threading.Event()
        self._answered_at = time.monotonic()
        self._report_after = SILENT_S
        self._waiting = False
        self._reported = False
        self._refusal: str | None = None

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="broker-watch", daemon=True).start()

    def stop(self) -> None:
        """Make no further requests; one that is running is not waited for."""
        self._ended.set()

    async def report(self) -> None:
        """Log that no broker has answered for some time; never returns."""
        while True:
            await asyncio.sleep(1.0)
            silent = time.monotonic() - self._answered_at
            if self._waiting and silent > self._report_after:
                self._report_after += min(self._report_after, LONGEST_S)
                self._reported = True
                if self._refusal is None:
                    log.warning(
                        "no broker has answered for %.0f s: waiting; training continues when one does", silent
                    )
                else:
                    log.warning(
                        "the brokers have refused requests for %.0f s: %s; training continues when they accept them",
                        silent,
                        self._refusal,
                    )

    def _run(self) -> None:
        short = False  # whether the previous check found that the log ends before a position
        while not self._ended.wait(EVERY_S):
            if not self._waiting:
                self._waiting, self._answered_at = True, time.monotonic()
            try:
                self._check()
            except BrokerUnavailableError:
                self._refusal = None
                short = False
                continue  # still waiting
            except BrokerRefusedError as error:  # a withdrawn right does not prove that records are gone
                self._refusal = str(error)
                short = False
                continue
            except OffsetsLostError as error:
                if short:
                    if not self._ended.is_set():
                        self._on_lost(error)
                    return
                short = True
                log.debug("first check, the next one in %.0f s decides: %s", EVERY_S, error)
                continue
            except Exception as error:  # a broker that is starting may answer with any error
                log.debug("the end offsets could not be read: %r", error)
                short = False
                continue
            if self._reported:
                log.info("a broker answers again, after %.0f s", time.monotonic() - self._answered_at)
            self._waiting, self._reported, self._report_after = False, False, SILENT_S
            self._refusal = None
            short = False

    def _check(self) -> None:
        known = {key: at for key, at in dict(self._positions()).items() if at}
        with self._make_log() as kafka:
            try:
                keys = kafka.partitions()
            except (BrokerUnavailableError, BrokerRefusedError):
                raise
            except StreamError:  # a topic is gone
                keys = []
            ends = kafka.end(keys) if keys else {}
        short = [key for key, at in sorted(known.items()) if at > ends.get(key, 0)]
        if short:
            where = ", ".join(
                f"{t}[{p}] ends at {ends.get((t, p), 0)}, learned up to {known[(t, p)]}" for t, p in short
            )
            raise OffsetsLostError(
                f"the log is no longer the one that was learned from, as two checks found: {where}. "
                "Start again: the worker then reports what --reset-offsets earliest, latest or checkpoint would lose or double"
            )
