"""Compressed record batches: which package reads which codec, and an error that names both."""

from __future__ import annotations

import re

from ecdctr.state.errors import DataError

__all__ = ["codec_error"]

# The clients load these when they meet the codec; both clients have gzip from Python itself.
_AIOKAFKA = {"snappy": "cramjam", "lz4": "cramjam", "zstd": "cramjam"}
_KAFKA_PYTHON = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}
_NO_LIBRARY = re.compile(r"Libraries for (\w+) compression codec not found")


def codec_error(error: BaseException, where: str) -> DataError | None:
    """The error to raise where a client refused the codec of a record batch; None for any other error.

    Parameters
    ----------
    error
        An error of aiokafka or of kafka-python. Their classes ``UnsupportedCodecError`` are two different ones, and
        neither has an attribute that names the codec.
    where
        What was read, as the beginning of a sentence: ``"ad-clicks[3]"``.

    Examples
    --------
    >>> from kafka.errors import UnsupportedCodecError
    >>> print(codec_error(UnsupportedCodecError("Libraries for zstd compression codec not found"), "ads[0]"))
    ads[0] holds records compressed with zstd, and the package that reads them is not installed: pip install zstandard
    >>> print(codec_error(UnsupportedCodecError("Unrecognized compression type: 6"), "ads[0]"))
    ads[0] holds records compressed with a codec that cannot be read (Unrecognized compression type: 6): gzip, snappy, lz4 and zstd can be
    >>> codec_error(ValueError("another"), "ads[0]") is None
    True
    """
    if type(error).__name__ != "UnsupportedCodecError":
        return None
    found = _NO_LIBRARY.search(str(error))
    if found is None:
        reason = str(error).rpartition("UnsupportedCodecError: ")[2]
        return DataError(
            f"{where} holds records compressed with a codec that cannot be read ({reason}): gzip, snappy, lz4 "
            "and zstd can be"
        )
    codec = found[1]
    packages = _AIOKAFKA if type(error).__module__.startswith("aiokafka") else _KAFKA_PYTHON
    return DataError(
        f"{where} holds records compressed with {codec}, and the package that reads them is not installed: "
        f"pip install {packages.get(codec, codec)}"
    )
