"""Files of rows: JSON lines, Parquet and CSV read in chunks, and decoded by the rule for live messages."""

from ecdctr.replay.sources.files.columns import FileColumns
from ecdctr.replay.sources.files.decoding import decoded_file
from ecdctr.replay.sources.files.formats import FORMATS, count_rows, format_of, is_empty, read_chunks

__all__ = ["FORMATS", "FileColumns", "count_rows", "decoded_file", "format_of", "is_empty", "read_chunks"]
