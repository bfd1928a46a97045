"""The JSON document of ``/api/snapshot`` and the page, encoded once for all clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

__all__ = ["SnapshotJson"]

Document = Callable[[], Mapping[str, Any]]


class SnapshotJson:
    """Encodes the document section by section, at most once every ``max_age_s`` for all clients.

    Parameters
    ----------
    document
        Returns the sections by name; called from the threads of the server.
    max_age_s
        Seconds for which an encoded document is reused.
    now
        Monotonic seconds.

    Examples
    --------
    >>> SnapshotJson(lambda: {"alerts": [], "pcoc": float("nan")}).sections()
    {'alerts': b'[]', 'pcoc': b'null'}
    """

    def __init__(
        self, document: Document, max_age_s: float = 1.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._document, self._max_age_s, self._now = document, max_age_s, now
        self._lock = threading.Lock()
        self._sections: dict[str, bytes] = {}
        self._made = -float("inf")
        # NaN and infinities become null, since JSON cannot represent them.
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)

    def sections(self) -> dict[str, bytes]:
        """JSON by section. Exceptions of ``document`` are passed on."""
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
    raise NotImplementedError(f"the snapshot must contain plain values, not {type(value).__name__}")
