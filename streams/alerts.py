"""``TopicChannel``: delivers alerts to a topic, with a producer that connects at the first alert."""

from __future__ import annotations

import threading

from kafka import KafkaProducer
from kafka.errors import KafkaError

from ecdctr.events.kafka import close_at_once
from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.topics import ensure_topic

__all__ = ["TopicChannel"]

ANSWER_S = 20.0


class TopicChannel:
    """Sends alerts as JSON. The key identifies rule and subject, so that a compacted topic retains the last state of each.

    A channel of :class:`ecdctr.monitor.alerts.delivery.AlertDelivery`; called only from its thread.

    Parameters
    ----------
    connection, topic
        Brokers and topic; the topic is created if it does not exist.
    replication
        Replicas of a topic that is created here.
    """

    def __init__(self, connection: KafkaSettings, topic: str, replication: int) -> None:
        self._connection, self._topic, self._replication = connection, topic, replication
        self._producer: KafkaProducer | None = None
        self._lock = threading.Lock()

    def send(self, key: bytes, value: bytes) -> None:
        """Return when the brokers have acknowledged the alert; raise if they refuse it."""
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
                self._close()  # the next attempt connects again
                raise

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            close_at_once(producer)
