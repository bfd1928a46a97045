"""Sources of logged rows: event files, mapped tables, published data sets, Kafka and a simulator."""

from ecdctr.replay.sources.datasets import EbNerd
from ecdctr.replay.sources.event_files import EventFiles, find_files
from ecdctr.replay.sources.expansion import CountsMap, ListsMap
from ecdctr.replay.sources.files import (
    LABEL_WORDS,
    NUMBER_NULL_WORDS,
    count_rows,
    field_names,
    format_of,
    frame_of_objects,
    is_empty,
    object_names,
    read_chunks,
    read_slice,
)
from ecdctr.replay.sources.kafka import KafkaSource
from ecdctr.replay.sources.log import Log, SourceLog
from ecdctr.replay.sources.mapped_tables import MappedTables
from ecdctr.replay.sources.mapping import TimeMap, label_expression
from ecdctr.replay.sources.registry import Source, open_source, parse_options
from ecdctr.replay.sources.rejects import RejectedRows, Rejects
from ecdctr.replay.sources.row_filter import RowFilter
from ecdctr.replay.sources.simulator import Simulator
from ecdctr.replay.sources.steps import steps_of

__all__ = [
    "LABEL_WORDS",
    "NUMBER_NULL_WORDS",
    "CountsMap",
    "EbNerd",
    "EventFiles",
    "KafkaSource",
    "ListsMap",
    "Log",
    "MappedTables",
    "RejectedRows",
    "Rejects",
    "RowFilter",
    "Simulator",
    "Source",
    "SourceLog",
    "TimeMap",
    "count_rows",
    "field_names",
    "find_files",
    "format_of",
    "frame_of_objects",
    "is_empty",
    "label_expression",
    "object_names",
    "open_source",
    "parse_options",
    "read_chunks",
    "read_slice",
    "steps_of",
]
