"""The click topics of Kafka as a log that is read by offset."""

from ecdctr.events.kafka.codecs import codec_error
from ecdctr.events.kafka.log import KafkaLog
from ecdctr.events.kafka.offsets import partition_offsets, true_ends

__all__ = ["KafkaLog", "codec_error", "partition_offsets", "true_ends"]
