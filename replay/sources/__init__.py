"""Sources of logged rows: event files, mapped tables, published data sets, Kafka and a simulator."""

from ecdctr.replay.sources.datasets import EbNerd
from ecdctr.replay.sources.event_files import EventFiles
from ecdctr.replay.sources.kafka import KafkaSource
from ecdctr.replay.sources.log import Log, SourceLog
from ecdctr.replay.sources.registry import Source, open_source, parse_options
from ecdctr.replay.sources.rejects import RejectedRows, Rejects
from ecdctr.replay.sources.row_filter import RowFilter
from ecdctr.replay.sources.simulator import Simulator
from ecdctr.replay.sources.steps import steps_of

__all__ = [
    "EbNerd",
    "EventFiles",
    "KafkaSource",
    "Log",
    "RejectedRows",
    "Rejects",
    "RowFilter",
    "Simulator",
    "Source",
    "SourceLog",
    "open_source",
    "parse_options",
    "steps_of",
]
