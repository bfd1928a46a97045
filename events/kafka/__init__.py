"""The click topics of Kafka as a log that is read by offset."""

from ecdctr.events.kafka.client_errors import damaged_records, in_one_sentence, short_text
from ecdctr.events.kafka.clients import close_at_once, correct_clients
from ecdctr.events.kafka.codecs import codec_error
from ecdctr.events.kafka.ends import EndsReader, LogEnds, LogProblem, LogProblemKind
from ecdctr.events.kafka.epochs import LeaderEpochs, observe_fetches
from ecdctr.events.kafka.held import LogState, Loss, LossKind, losses
from ecdctr.events.kafka.log import SECOND_LOOK_S, KafkaLog
from ecdctr.events.kafka.members import GroupMember
from ecdctr.events.kafka.offsets import partition_offsets, stable_ends, true_ends
from ecdctr.events.kafka.probe import probe_brokers, probe_each, stating_the_reason
from ecdctr.events.kafka.problems import BrokerProblem, Cause
from ecdctr.events.kafka.topic_state import naming_partitions, topic_problem

__all__ = [
    "SECOND_LOOK_S",
    "BrokerProblem",
    "Cause",
    "EndsReader",
    "GroupMember",
    "KafkaLog",
    "LeaderEpochs",
    "LogEnds",
    "LogProblem",
    "LogProblemKind",
    "LogState",
    "Loss",
    "LossKind",
    "close_at_once",
    "codec_error",
    "correct_clients",
    "damaged_records",
    "in_one_sentence",
    "losses",
    "naming_partitions",
    "observe_fetches",
    "partition_offsets",
    "probe_brokers",
    "probe_each",
    "short_text",
    "stable_ends",
    "stating_the_reason",
    "topic_problem",
    "true_ends",
]

correct_clients()
