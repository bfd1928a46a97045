"""``OffsetPublisher``: commits the positions of training to a consumer group, only so that monitoring tools can show the lag."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
)
from kafka.structs import OffsetAndMetadata

from ecdctr.events.settings import KafkaSettings

__all__ = ["OffsetPublisher"]

log = logging.getLogger("ecdctr.worker")
Key = tuple[str, int]

_TIMEOUT_MS = 5_000
_AGAIN_S = 5.0
_TRANSIENT_S = 30.0
"""A broker that does not answer is reported after this time: the watch reports it before."""


class OffsetPublisher:
    """Commits the newest positions in a thread of its own.

    Nothing depends on it: the worker never reads committed offsets, and is no member of the group. A reason why they cannot be
    committed is logged once, until another takes its place or a commit succeeds. The first connection is made for the first
    positions.

    Parameters
    ----------
    connection
        Brokers and security.
    group
        The group to which the offsets are committed.

    Attributes
    ----------
    problem
        Why the newest positions could not be committed, as a sentence; None: they were, or no attempt was made.
    """

    def __init__(self, connection: KafkaSettings, group: str) -> None:
        self._connection, self._group = connection, group
        self.problem: str | None = None
        self._changed = threading.Condition()
        self._newest: dict[Key, int] | None = None
        self._committed: dict[Key, int] | None = None
        self._ended = False
        self._consumer: Any = None
        self._thread = threading.Thread(target=self._run, name="offset-publisher", daemon=True)

    def put(self, positions: Mapping[Key, int]) -> None:
        """Commit these positions soon; callable from any thread."""
        with self._changed:
            self._newest = dict(positions)
            if self._thread.ident is None and not self._ended:
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Wait until the newest positions are committed, but no longer than this; returns whether they are."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._changed:
            return self._committed == self._newest

    # -- in the thread

    def _run(self) -> None:
        failures = 0
        while (positions := self._next()) is not None:
            problem, transient = self._commit(positions)
            failures = failures + 1 if transient else 0
            if not transient or failures * _AGAIN_S >= _TRANSIENT_S:
                self._report(problem)
            with self._changed:
                if problem is None:
                    self._committed = positions
                    continue
                if self._ended and self._newest is positions:
                    break
                # Not tried again before there are newer positions where trying again does not help.
                self._changed.wait_for(lambda: self._is_news(positions), _AGAIN_S if transient else None)
        self._disconnect()

    def _is_news(self, positions: Mapping[Key, int]) -> bool:
        return self._ended or self._newest is not positions

    def _next(self) -> dict[Key, int] | None:
        """The newest positions that are not committed; None: the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._newest is not self._committed)
            return None if self._newest is self._committed else self._newest

    def _commit(self, positions: Mapping[Key, int]) -> tuple[str | None, bool]:
        """Why the positions were not committed (None: they were), and whether the reason may pass by itself."""
        group = f'group "{self._group}"'
        offsets = {TopicPartition(*key): OffsetAndMetadata(at, "", -1) for key, at in positions.items()}
        try:
            if self._consumer is None:
                self._consumer = KafkaConsumer(
                    **self._connection.kafka_python(), group_id=self._group, enable_auto_commit=False
                )
            self._consumer.commit(offsets, timeout_ms=_TIMEOUT_MS)
        except (CommitFailedError, RebalanceInProgressError):
            return f"{group} has members of other programs{self._members()}", False
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError) as error:
            what = group if isinstance(error, GroupAuthorizationFailedError) else "the topics"
            return f"the right Read on {what} is missing", False
        except Exception as error:  # a broker that starts or stops may answer with any error
            self._disconnect()
            return f"{group}: {type(error).__name__}", True
        return None, False

    def _members(self) -> str:
        """Who they are, as the end of a sentence; empty where that is not shown."""
        with contextlib.suppress(Exception):
            admin = KafkaAdminClient(**self._connection.kafka_python(), bootstrap_timeout_ms=_TIMEOUT_MS)
            try:
                found = admin.describe_groups([self._group])[self._group]["members"]
            finally:
                admin.close()
            return ": " + ", ".join(
                sorted(f"{m['client_id']} at {m['client_host'].strip('/')}" for m in found)
            )
        return ""

    def _report(self, problem: str | None) -> None:
        before, self.problem = self.problem, problem
        if problem is None and before is not None:
            log.info('offsets are committed to group "%s" again', self._group)
        elif problem is not None and problem != before:
            log.warning(
                "%s: monitoring tools show no new positions in this group until that is mended; reading and training go on",
                problem,
            )

    def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(Exception):  # whatever it raises, the next attempt makes a new one
                consumer.close(autocommit=False, timeout_ms=1_000)
