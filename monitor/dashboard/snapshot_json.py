"""The document behind ``/api/snapshot`` and the page: sections, made once for all who ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

__all__ = ["Feed"]

Document = Callable[[], Mapping[str, Any]]


class Feed:
    """Encodes the document, at most once every ``max_age_s``, however many look at it.

    Parameters
    ----------
    document
        Gives the sections by name; called from the threads of the server.
    max_age_s
        An encoded document is used again for so long.
    now
        Monotonic seconds.

    Examples
    --------
    >>> Feed(lambda: {"alerts": [], "pcoc": float("nan")}).sections()
    {'alerts': b'[]', 'pcoc': b'null'}
    """

    def __init__(
        self, document: Document, max_age_s: float = 1.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._document, self._max_age_s, self._now = document, max_age_s, now
        self._lock = threading.Lock()
        self._sections: dict[str, bytes] = {}
        self._made = -float("inf")
        # NaN and infinities become null: JSON has no words for them.
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)

    def sections(self) -> dict[str, bytes]:
        """JSON by section. A document that fails leaves the exception to the caller."""
        with self._lock:
            if self._now() - self._made >= self._max_age_s:
                self._sections = {k: self._encoder.encode(v) for k, v in self._document().items()}
                self._made = self._now()
            return self._sections

    def whole(self) -> bytes:
        """The document as one JSON object."""
        parts = (msgspec.json.encode(k) + b":" + v for k, v in self.sections().items())
        return b"{" + b",".join(parts) + b"}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"a monitor's snapshot holds plain values, not {type(value).__name__}")
