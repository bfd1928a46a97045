"""The version of a state folder: of its layout, and of the parts that record none themselves (journal, monitor)."""

from __future__ import annotations

from pathlib import Path

from ecdctr.state.errors import FormatError, StateError
from ecdctr.state.files import json_with_checksum, read_json, write_atomic

__all__ = ["FORMAT", "check_format", "write_format"]

FORMAT = 1
NAME = "format.json"


def check_format(folder: Path) -> None:
    """Refuse a state folder of another version. One without a record was written by a version before 1, which had the same layout.

    Raises
    ------
    FormatError
        Another version wrote it.
    StateError
        The record is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return
    try:
        found = read_json(path)["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"{path} is damaged ({error}): restore it from a copy, or remove it if no later version of ecdctr used this state folder"
        ) from error
    if found != FORMAT:
        raise FormatError(f"state folder {folder}", found, FORMAT)


def write_format(folder: Path) -> None:
    """Record the version in a folder that has no record; see :func:`check_format` for the errors."""
    check_format(folder)
    path = folder / NAME
    if not path.exists():
        write_atomic(path, json_with_checksum({"format": FORMAT}))
