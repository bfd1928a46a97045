"""The click topics of Kafka as a log that is read by offset."""

from ecdctr.events.kafka.log import KafkaLog
from ecdctr.events.kafka.offsets import true_ends

__all__ = ["KafkaLog", "true_ends"]
