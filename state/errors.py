"""All errors that this project raises for expected failures.

::

    EcdctrError                  exit code 1
    ├── ConfigError              exit code 2   a key or a value of the configuration
    ├── DataError                exit code 3   a source, a file, an event that cannot be read
    │   ├── RowsRejectedError    exit code 6   no row, or at most half of the rows of a log, can be used
    │   └── PointInTimeError                   a row would read a snapshot that is later than itself
    ├── StateError               exit code 4   state on disk
    │   ├── StateLockedError                   another process owns the state folder
    │   ├── FormatError                        another version wrote it, in a format that this one does not read
    │   ├── CheckpointDamagedError             files that do not match the checkpoint's manifest
    │   ├── SnapshotDamagedError               files that do not match the snapshot's manifest
    │   ├── SnapshotExistsError                the month already has a snapshot with other content
    │   └── JournalDamagedError                a damaged line before the last one, or missing steps
    └── StreamError              exit code 5   the broker, a topic, an offset
        ├── BrokerUnavailableError             no broker can be reached now; waiting may help
        │   └── DamagedRecordsError            the leader returns records that are damaged; another replica may be whole
        ├── BrokerRefusedError                 a broker answers and refuses; waiting does not help
        ├── TokenError                         no token for SASL OAUTHBEARER could be obtained
        └── OffsetsLostError                   the log no longer holds offsets that are needed
            └── RowsLostError                  the log holds the offsets of a step, but no longer all of its rows

Each message contains the object, the value and what to do; the command line prints it as one line and exits with the code
above, which subclasses inherit unless they name their own.
"""

from __future__ import annotations

__all__ = [
    "BrokerRefusedError",
    "BrokerUnavailableError",
    "CheckpointDamagedError",
    "ConfigError",
    "DamagedRecordsError",
    "DataError",
    "EcdctrError",
    "FormatError",
    "JournalDamagedError",
    "OffsetsLostError",
    "PointInTimeError",
    "RowsLostError",
    "RowsRejectedError",
    "SnapshotDamagedError",
    "SnapshotExistsError",
    "StateError",
    "StateLockedError",
    "StreamError",
    "TokenError",
]


class EcdctrError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class ConfigError(EcdctrError):
    """A configuration key or value is wrong."""

    exit_code = 2


class DataError(EcdctrError):
    """A source or an event cannot be read as requested."""

    exit_code = 3


class PointInTimeError(DataError):
    """A row would read a TPM snapshot that was trained on rows that are not earlier than itself."""


class RowsRejectedError(DataError):
    """No row, or at most half of the rows of a log, can be used."""

    exit_code = 6


class StateError(EcdctrError):
    """State on disk is missing, damaged or owned by another process."""

    exit_code = 4


class StateLockedError(StateError):
    """Another process owns the state folder."""


class FormatError(StateError):
    """Another version wrote this part of the state, in a format that this version does not read; nothing is damaged."""

    def __init__(self, what: str, found: object, known: int) -> None:
        super().__init__(
            f"{what} has format {found!r}, this version of ecdctr reads format {known}: it is not damaged, another version wrote it; "
            "continue with that version"
        )


class CheckpointDamagedError(StateError):
    """A checkpoint's files do not match its manifest."""


class SnapshotDamagedError(StateError):
    """A TPM snapshot's files do not match its manifest."""


class SnapshotExistsError(StateError):
    """The month already has a snapshot with other content; snapshots are immutable."""


class JournalDamagedError(StateError):
    """A journal line before the last one is damaged, or steps are missing."""


class StreamError(EcdctrError):
    """The broker, a topic or an offset is unavailable or unusable."""

    exit_code = 5


class BrokerUnavailableError(StreamError):
    """No broker answered in time."""


class DamagedRecordsError(BrokerUnavailableError):
    """The leader of a partition returns a batch of records whose checksum is wrong or that cannot be parsed."""


class BrokerRefusedError(StreamError):
    """A broker refuses the configured connection: its certificates, its user or a right."""


class OffsetsLostError(StreamError):
    """The log no longer holds offsets that training needs."""


class RowsLostError(OffsetsLostError):
    """A journaled step cannot be repeated, because the log no longer holds all of its rows: compaction removed records."""


class TokenError(StreamError):
    """No token for SASL OAUTHBEARER could be obtained.

    Attributes
    ----------
    refused
        The issuer answered and refused: waiting does not help.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
