"""Files of rows: JSON lines, Parquet, Arrow and CSV read in chunks, and decoded by the rule for live messages."""

from ecdctr.replay.sources.files.ahead import AHEAD, NumberedRows, without_rows_ahead
from ecdctr.replay.sources.files.columns import (
    LABEL_WORDS,
    NUMBER_NULL_WORDS,
    Fault,
    FileColumns,
)
from ecdctr.replay.sources.files.decoding import decoded_file
from ecdctr.replay.sources.files.formats import (
    FORMATS,
    count_rows,
    field_names,
    format_of,
    frame_of_objects,
    is_empty,
    read_chunks,
    read_slice,
)
from ecdctr.replay.sources.files.nested import object_names

__all__ = [
    "AHEAD",
    "FORMATS",
    "LABEL_WORDS",
    "NUMBER_NULL_WORDS",
    "Fault",
    "FileColumns",
    "NumberedRows",
    "count_rows",
    "decoded_file",
    "field_names",
    "format_of",
    "frame_of_objects",
    "is_empty",
    "object_names",
    "read_chunks",
    "read_slice",
    "without_rows_ahead",
]
