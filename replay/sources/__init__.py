"""Sources of logged rows: event files, mapped tables, public data sets, Kafka and a simulator."""

from ecdctr.replay.sources.ebnerd import EbNerd
from ecdctr.replay.sources.event_files import EventFiles
from ecdctr.replay.sources.kafka import KafkaSource
from ecdctr.replay.sources.log import ADS, Log, RowFilter, SourceLog, steps_of
from ecdctr.replay.sources.registry import Source, open_source, parse_options
from ecdctr.replay.sources.simulator import Simulator

__all__ = [
    "ADS",
    "EbNerd",
    "EventFiles",
    "KafkaSource",
    "Log",
    "RowFilter",
    "Simulator",
    "Source",
    "SourceLog",
    "open_source",
    "parse_options",
    "steps_of",
]
