"""Every error that this project raises on purpose.

::

    EcdctrError                  exit code 1
    ├── ConfigError              exit code 2   a key or a value of the configuration
    ├── DataError                exit code 3   a source, a file, an event that cannot be read
    │   └── PointInTimeError                   a row would meet a snapshot younger than itself
    ├── StateError               exit code 4   something kept on disk
    │   ├── StateLockedError                   another process owns the state folder
    │   ├── CheckpointDamagedError
    │   ├── SnapshotDamagedError
    │   ├── SnapshotExistsError                the month has another snapshot already
    │   └── JournalDamagedError
    └── StreamError              exit code 5   the broker, a topic, an offset
        ├── BrokerUnavailableError
        └── OffsetsLostError                   the log no longer holds what is needed

Each message names the thing, the value and the way out; the command line prints it as one line.
"""

from __future__ import annotations

__all__ = [
    "BrokerUnavailableError",
    "CheckpointDamagedError",
    "ConfigError",
    "DataError",
    "EcdctrError",
    "JournalDamagedError",
    "OffsetsLostError",
    "PointInTimeError",
    "SnapshotDamagedError",
    "SnapshotExistsError",
    "StateError",
    "StateLockedError",
    "StreamError",
]


class EcdctrError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class ConfigError(EcdctrError):
    """A configuration key or value is wrong."""

    exit_code = 2


class DataError(EcdctrError):
    """A source or an event cannot be read as asked."""

    exit_code = 3


class PointInTimeError(DataError):
    """A row would meet a TPM snapshot whose training rows are younger than the row."""


class StateError(EcdctrError):
    """Something kept on disk is missing, damaged or owned by someone else."""

    exit_code = 4


class StateLockedError(StateError):
    """Another process owns the state folder."""


class CheckpointDamagedError(StateError):
    """A checkpoint's files do not match its manifest."""


class SnapshotDamagedError(StateError):
    """A TPM snapshot's files do not match its manifest."""


class SnapshotExistsError(StateError):
    """The month has a snapshot with other content; a snapshot never changes."""


class JournalDamagedError(StateError):
    """A journal line before the last one is damaged."""


class StreamError(EcdctrError):
    """Something about the broker, a topic or an offset."""

    exit_code = 5


class BrokerUnavailableError(StreamError):
    """No broker answered in time."""


class OffsetsLostError(StreamError):
    """The log no longer holds offsets that training needs."""
