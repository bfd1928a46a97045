"""Alerts to a topic: a producer that connects when there is something to say."""

from __future__ import annotations

import logging
import threading

from kafka import KafkaProducer
from kafka.errors import KafkaError

from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.topics import ensure_topic

__all__ = ["TopicChannel"]

log = logging.getLogger("ecdctr.alerts")

ANSWER_S = 20.0


class TopicChannel:
    """Sends alerts as JSON, keyed by what they are about, so that a compacted topic keeps the last word on each.

    A channel of :class:`ecdctr.monitor.alerts.delivery.AlertDelivery`: called from its thread alone.

    Parameters
    ----------
    connection, topic
        Where to; the topic is made if absent.
    replication
        Replicas of a topic that has to be made.
    """

    def __init__(self, connection: KafkaSettings, topic: str, replication: int) -> None:
        self._connection, self._topic, self._replication = connection, topic, replication
        self._producer: KafkaProducer | None = None
        self._lock = threading.Lock()

    def send(self, key: bytes, value: bytes) -> None:
        """Return when the brokers have it; raise when they do not take it."""
        with self._lock:
            try:
                if self._producer is None:
                    ensure_topic(self._connection, self._topic, self._replication)
                    self._producer = KafkaProducer(
                        **self._connection.kafka_python(),
                        acks="all",
                        enable_idempotence=True,
                        metrics_enabled=False,
                    )
                self._producer.send(self._topic, key=key, value=value).get(timeout=ANSWER_S)
            except KafkaError:
                self._close()  # the next try connects anew
                raise

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=1)
            except KafkaError as error:
                log.debug("the alerts' producer closed with %r", error)
