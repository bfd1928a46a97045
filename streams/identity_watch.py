"""``IdentityWatch``: finds that a topic was made anew or a partition was cut while the worker runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ecdctr.events.kafka import KafkaLog
from ecdctr.models.training import Engine
from ecdctr.state.errors import OffsetsLostError
from ecdctr.state.positions import LogIdentity
from ecdctr.streams.retention import check_log

__all__ = ["IdentityWatch"]

log = logging.getLogger("ecdctr.worker")

EVERY_S = 10.0


class IdentityWatch:
    """Compares topic ids, leader epochs and ends with what was learned, every :data:`EVERY_S` seconds in a daemon thread.

    The records of a new leader are compared before they are learned, too. This watch also finds a cut in a partition to which nothing
    is written, and a topic that was deleted and created again, which the records do not show.

    Parameters
    ----------
    make_log
        Connects to the click topics. The connection is kept, and made anew after a check that failed.
    engine
        Its positions and identity are compared.
    on_lost
        Called once, in the thread of this class, when two checks in a row found a loss: a broker that has just started may report an
        old state. A topic that is not shown proves nothing.
    """

    def __init__(
        self,
        make_log: Callable[[], KafkaLog],
        engine: Engine,
        on_lost: Callable[[OffsetsLostError], None],
    ) -> None:
        self._make_log, self._engine, self._on_lost = make_log, engine, on_lost
        self._ended = threading.Event()
        self._kafka: KafkaLog | None = None

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="identity-watch", daemon=True).start()

    def stop(self) -> None:
        """Make no further checks; one that is running is not waited for."""
        self._ended.set()

    def _run(self) -> None:
        try:
            self._check_until_ended()
        finally:
            self._disconnect()

    def _check_until_ended(self) -> None:
        found_before = False
        while not self._ended.wait(EVERY_S):
            try:
                self._check()
                found_before = False
            except OffsetsLostError as error:
                if self._ended.is_set():
                    return
                if found_before:
                    self._on_lost(error)
                    return
                found_before = True
                log.debug("first check, the next one in %.0f s decides: %s", EVERY_S, error)
            except (
                Exception
            ) as error:  # no broker, a missing topic: reported by others; the next check may succeed
                log.debug("the identity of the log could not be checked: %r", error)
                self._disconnect()
                found_before = False

    def _check(self) -> None:
        # The engine updates the identity first. Copied in the other order, no position is later than its epoch.
        positions = dict(self._engine.positions)
        identity = LogIdentity(dict(self._engine.identity.topic_ids), dict(self._engine.identity.epochs))
        if self._kafka is None:
            self._kafka = self._make_log()
        check_log(positions, identity, self._kafka.state(identity))

    def _disconnect(self) -> None:
        kafka, self._kafka = self._kafka, None
        if kafka is not None:
            kafka.close()
