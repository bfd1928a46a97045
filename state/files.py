"""Atomic files (temporary file, fsync, rename), checksummed JSON, and CRC-32C checksums."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

import crc32c as _crc32c

from ecdctr.state.errors import StateError

__all__ = [
    "check_is_folder",
    "checksum",
    "checksum_bytes",
    "fsync_dir",
    "fsync_file",
    "json_with_checksum",
    "make_folder",
    "open_regular",
    "read_json",
    "read_json_of_any_version",
    "write_all",
    "write_atomic",
    "write_json",
]

_CHUNK = 1 << 22


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all bytes: usually one ``write(2)``, more if the system accepts only a part of them."""
    written = os.write(fd, data)
    if written == len(data):
        return
    rest = memoryview(data)[written:]
    while rest:
        rest = rest[os.write(fd, rest) :]


def make_folder(folder: Path, what: str) -> None:
    """Create a folder if it is absent.

    Parameters
    ----------
    folder
        A link to a folder is one, too.
    what
        What it is, for messages.

    Raises
    ------
    StateError
        It is a file, or cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        at = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), folder)
        if at.is_symlink() or not at.exists():
            raise StateError(
                f"{what} {folder} cannot be written: {at} is a link that leads nowhere; correct it, or name another folder"
            ) from None
        raise StateError(
            f"{what} {folder} cannot be written: {at} is a file, not a folder; move it away, or name another folder"
        ) from None
    except OSError as error:
        raise _not_writable(folder, what, error.strerror) from error
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        reason = "read-only file system" if os.statvfs(folder).f_flag & os.ST_RDONLY else "permission denied"
        raise _not_writable(folder, what, reason)


def check_is_folder(folder: Path, what: str) -> None:
    """StateError if there is something else under a folder's name: it would be taken for an empty folder.

    Parameters
    ----------
    folder
        Need not exist.
    what
        What it contains, for messages.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        kind = "a link that leads nowhere" if folder.is_symlink() else "a file"
        raise StateError(
            f"the folder of {what} {folder} is {kind}: move it away, or name another state folder"
        )


def _not_writable(folder: Path, what: str, reason: str | None) -> StateError:
    return StateError(
        f"{what} {folder} cannot be written ({reason}): correct its owner or its rights, or name another folder"
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader sees either the old bytes or the new ones, also after power loss.

    1. Write a temporary file in the same folder, fsync it.
    2. Rename it over ``path``.
    3. fsync the folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temporary, flags, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_json(path: Path, content: Any) -> int:
    """Write ``{"checksum": .., "content": ..}`` so that :func:`read_json` detects a flipped bit.

    Returns the number of bytes written. Neither atomic nor synced: for files in a temporary folder.
    """
    data = json_with_checksum(content)
    path.write_bytes(data)
    return len(data)


def json_with_checksum(content: Any) -> bytes:
    """The bytes of a file that :func:`read_json` reads."""
    body = json.dumps(content, separators=(",", ":"))
    return f'{{"checksum":"{checksum_bytes(body.encode())}","content":{body}}}\n'.encode()


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file of the state folder for reading, without waiting for a writer as ``open`` does where a fifo is in its place.

    Raises
    ------
    OSError
        The file cannot be read, or is a fifo, a socket, a device or a folder.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def read_json(path: Path) -> Any:
    """Content of a file that :func:`write_json` wrote.

    Raises
    ------
    ValueError
        The file is not such JSON, or a byte of it has changed.
    OSError
        The file cannot be read.
    """
    try:
        data = json.loads(_read(path))
        stored, content = data["checksum"], data["content"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not readable ({type(error).__name__}: {error})") from None
    found = checksum_bytes(json.dumps(content, separators=(",", ":")).encode())
    if found != stored:
        raise ValueError(f"{path.name} has checksum {found}, but records {stored}")
    return content


def read_json_of_any_version(path: Path) -> Any:
    """As :func:`read_json`, also for a file that an earlier version wrote without a checksum; such a file is read as it is."""
    data = json.loads(_read(path))
    return read_json(path) if isinstance(data, dict) and data.keys() == {"checksum", "content"} else data


def fsync_file(path: Path) -> None:
    """Make the content of file ``path`` durable."""
    _fsync(path, os.O_RDONLY)


def fsync_dir(path: Path) -> None:
    """Make the names in folder ``path`` durable: without it, power loss may undo a rename."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def checksum_bytes(data: bytes) -> str:
    """CRC-32C of ``data``.

    >>> checksum_bytes(b"123456789")
    'crc32c:e3069283'
    """
    return f"crc32c:{_crc32c.crc32c(data):08x}"


def checksum(path: Path) -> str:
    """CRC-32C of a file's bytes, read in chunks of 4 MiB; detects damage, not tampering."""
    value = 0
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            value = _crc32c.crc32c(chunk, value)
    return f"crc32c:{value:08x}"
