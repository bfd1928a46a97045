"""The bytes of an event file, decompressed, and whether they are what its name says."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard

from ecdctr.state.errors import DataError

__all__ = ["DAMAGED", "check_contents", "open_bytes"]

DAMAGED = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading from :func:`open_bytes` raises."""

_START = 1 << 16
_COMPRESSED = {".gz": (b"\x1f\x8b", "gzip"), ".zst": (b"\x28\xb5\x2f\xfd", "Zstandard")}
_TABLES = {b"PAR1": ("Parquet", ".parquet"), b"ARRO": ("Arrow", ".arrow")}
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame without contents, RFC 8878, section 3.1.2
_LONE_RETURN = re.compile(rb"\r\s*[^\s]")


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed by its suffix."""
    with path.open("rb") as raw:
        suffix = path.suffix.lower()
        if suffix == ".gz":
            with gzip.open(raw) as file:
                yield file  # type: ignore[misc]
        elif suffix == ".zst":
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as file:
                yield file
        else:
            yield raw


def check_contents(path: Path, kind: str | None) -> None:
    """Compare the first bytes of a file with its name, because a reader of another format reports what is not there.

    Parameters
    ----------
    kind
        "json", "csv", "parquet" or "arrow", as the suffix says.

    Raises
    ------
    DataError
        The file is of another format or compression, encoded in UTF-16, or ends its lines with carriage returns alone.
    """
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
        if kind == "arrow" and magic == b"\xff\xff\xff\xff":
            raise DataError(
                f"{path} is an Arrow IPC stream, and the file format is needed: convert it, in Python by "
                f"polars.read_ipc_stream(NAME).write_ipc(NEW_NAME)"
            )
        if kind in ("json", "csv") and magic:
            _check_magic(path, magic)
            with open_bytes(path) as file:
                _check_text(path, file.read(_START))
    except DAMAGED:
        return  # reading it names the error


def _check_magic(path: Path, magic: bytes) -> None:
    for suffix, (begins, name) in _COMPRESSED.items():
        compressed = magic.startswith(begins) or (suffix == ".zst" and bool(_SKIPPABLE.match(magic)))
        named = path.suffix.lower() == suffix
        if named and not compressed:
            raise DataError(
                f"{path} is not compressed with {name}, as its name says: remove {suffix} from the name"
            )
        if compressed and path.suffix.lower() not in _COMPRESSED:
            raise DataError(f"{path} is compressed with {name}: add {suffix} to its name")
    if magic in _TABLES:
        name, suffix = _TABLES[magic]
        raise DataError(f"{path} is in the format {name}: its name needs the suffix {suffix}")


def _check_text(path: Path, start: bytes) -> None:
    wide = start[:64]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or (
        len(wide) >= 16 and (not any(wide[1::2]) or not any(wide[::2])) and any(wide)
    ):
        raise DataError(f"{path} is encoded in UTF-16: convert it to UTF-8")
    if b"\n" not in start and _LONE_RETURN.search(start):
        raise DataError(rf"{path} ends its lines with carriage returns alone: convert it with tr '\r' '\n'")
