"""Files of rows: JSON lines, Parquet and CSV read in chunks, and decoded by the rule for live messages."""

from ecdctr.replay.sources.files.ahead import AHEAD, NumberedRows, without_rows_ahead
from ecdctr.replay.sources.files.columns import LABEL_WORDS, Fault, FileColumns
from ecdctr.replay.sources.files.decoding import decoded_file
from ecdctr.replay.sources.files.formats import FORMATS, count_rows, format_of, is_empty, read_chunks

__all__ = [
    "AHEAD",
    "FORMATS",
    "LABEL_WORDS",
    "Fault",
    "FileColumns",
    "NumberedRows",
    "count_rows",
    "decoded_file",
    "format_of",
    "is_empty",
    "read_chunks",
    "without_rows_ahead",
]
