"""Until when certificates are valid."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["not_after", "soonest_end"]

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def soonest_end(path: Path) -> datetime | None:
    """The end of validity of the first certificate in a PEM file, which is the client's own; None: none can be read."""
    try:
        found = _PEM.search(path.read_text(encoding="ascii", errors="replace"))
        return None if found is None else not_after(ssl.PEM_cert_to_DER_cert(found[0]))
    except (OSError, ValueError):
        return None


def not_after(der: bytes) -> datetime:
    """The end of validity of an X.509 certificate.

    Python's ``ssl`` decodes only certificates of the other side, and only verified ones; so the few fields before the
    validity are walked here (RFC 5280, section 4.1).

    Parameters
    ----------
    der
        The certificate in DER form.

    Raises
    ------
    ValueError
        The bytes are not a certificate.
    """
    try:
        certificate, _ = _content(der, 0, _SEQUENCE)
        body, _ = _content(certificate, 0, _SEQUENCE)
        at = _skip(body, 0) if body[0] == _VERSION else 0
        for _field in ("serial number", "signature algorithm", "issuer"):
            at = _skip(body, at)
        validity, _ = _content(body, at, _SEQUENCE)
        end = _skip(validity, 0)
        kind = validity[end]
        text = _content(validity, end, kind)[0].decode("ascii")
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("not a certificate in DER form") from error
    if kind == _UTC_TIME:  # two digits of the year: 50 is 1950
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("the validity has no end")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at ``at`` starts and ends."""
    length = data[at + 1]
    start = at + 2
    if length & 0x80:
        digits = length & 0x7F
        length = int.from_bytes(data[start : start + digits], "big")
        start += digits
    if start + length > len(data):
        raise ValueError("an element is longer than the certificate")
    return start, start + length


def _content(data: bytes, at: int, tag: int) -> tuple[bytes, int]:
    if data[at] != tag:
        raise ValueError("not a certificate in DER form")
    start, end = _header(data, at)
    return data[start:end], end


def _skip(data: bytes, at: int) -> int:
    return _header(data, at)[1]
