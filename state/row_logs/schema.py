"""``schema.json`` of a row log: the type of its rows and the version of its format; and ``first-day.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecdctr.state.errors import FormatError, StateError
from ecdctr.state.files import json_with_checksum, read_json_of_any_version, write_atomic

__all__ = [
    "FORMAT",
    "FORMAT_WITHOUT_SUMS",
    "Schema",
    "describe",
    "read_first_day",
    "read_schema",
    "write_first_day",
    "write_schema",
]

FORMAT = 2
"""Version of a row log's format: each file of rows has one with their checksums beside it, and JSON files have checksums."""
FORMAT_WITHOUT_SUMS = 1

_SCHEMA, _FIRST_DAY = "schema.json", "first-day.json"


@dataclass(frozen=True)
class Schema:
    """Description of a row log: the type of its rows as :func:`numpy.lib.format.dtype_to_descr` gives it, and the format."""

    descr: list[Any]
    format: int


def describe(dtype: np.dtype[Any]) -> list[Any]:
    """The type of rows as JSON gives it back."""
    found: list[Any] = json.loads(json.dumps(np.lib.format.dtype_to_descr(dtype)))
    return found


def read_schema(folder: Path) -> Schema | None:
    """The schema of a row log; None: the folder has none.

    Raises
    ------
    StateError
        It is damaged, or another version wrote it.
    """
    path = folder / _SCHEMA
    if not path.exists():
        return None
    try:
        content = read_json_of_any_version(path)
        if content.keys() == {"dtype"}:  # of the first version
            return Schema(_columns(content["dtype"]), FORMAT_WITHOUT_SUMS)
        if content["format"] != FORMAT:
            raise FormatError(f"row log {folder}", content["format"], FORMAT)
        return Schema(_columns(content["dtype"]), FORMAT)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"{path} is damaged ({error}): restore it from a copy. If features and arms of the configuration are those with which "
            "the rows were written, it may be removed instead: it is written again"
        ) from error


def _columns(descr: Any) -> list[Any]:
    if not isinstance(descr, list) or not all(
        isinstance(column, list) and len(column) in (2, 3) for column in descr
    ):
        raise ValueError("it does not describe columns")
    return descr


def write_schema(folder: Path, dtype: np.dtype[Any]) -> None:
    """Write the schema of the present format."""
    write_atomic(folder / _SCHEMA, json_with_checksum({"format": FORMAT, "dtype": describe(dtype)}))


def read_first_day(folder: Path) -> int:
    """The day before which all days were removed; 0: none was.

    Raises
    ------
    ValueError
        The file is damaged.
    """
    path = folder / _FIRST_DAY
    if not path.exists():
        return 0
    day = read_json_of_any_version(path)["first_day"]
    if not isinstance(day, int) or day < 0:
        raise ValueError(f"{day!r} is not a day")
    return day


def write_first_day(folder: Path, day: int) -> None:
    """Record that all days before this one were removed."""
    write_atomic(folder / _FIRST_DAY, json_with_checksum({"first_day": day}))
