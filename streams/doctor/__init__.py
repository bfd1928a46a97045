"""What a worker will need from its configuration, the brokers and the disk, checked without changing anything there."""

from ecdctr.streams.doctor.checks import Check, Report, Status
from ecdctr.streams.doctor.examination import Examination, Subjects
from ecdctr.streams.doctor.fields import FieldFinding, Refusal, Sampled
from ecdctr.streams.doctor.topic_sample import TopicRows, topic_rows

__all__ = [
    "Check",
    "Examination",
    "FieldFinding",
    "Refusal",
    "Report",
    "Sampled",
    "Status",
    "Subjects",
    "TopicRows",
    "topic_rows",
]
