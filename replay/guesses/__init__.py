"""Guesses about an unknown log: which columns are its time, label, users, items and features, each with its evidence."""

from ecdctr.replay.guesses.findings import Finding, Found
from ecdctr.replay.guesses.proposal import ROLES, Proposal, propose
from ecdctr.replay.guesses.samples import Sample, frame_of_rows, sample_files, stream_of_name
from ecdctr.replay.guesses.toml_text import feature_lines, mapping_text, settings_lines

__all__ = [
    "ROLES",
    "Finding",
    "Found",
    "Proposal",
    "Sample",
    "feature_lines",
    "frame_of_rows",
    "mapping_text",
    "propose",
    "sample_files",
    "settings_lines",
    "stream_of_name",
]
