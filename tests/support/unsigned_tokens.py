"""Unsigned tokens for Kafka's unsecured validator, as a function that ``kafka.token_provider`` can name.

Variables of the environment determine what it returns, so that it works in a worker process too: ``TOKEN_SECONDS`` is
the lifetime, and each token that is made appends a line to the file ``TOKEN_LOG``.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["FUNCTION", "expired", "failing", "made", "token", "unsigned"]

FUNCTION = f"{__name__}:token"
SUBJECT = "trainer"


def unsigned(subject: str = SUBJECT, seconds: float = 3600.0) -> str:
    """A JSON Web Token without a signature, valid for these seconds from now."""
    now = time.time()
    claims = {"sub": subject, "iat": now - 5, "exp": now + seconds}
    return ".".join([_part({"alg": "none"}), _part(claims), ""])


def token() -> tuple[str, float]:
    """A token and its expiry in seconds since the epoch."""
    seconds = float(os.environ.get("TOKEN_SECONDS", "3600"))
    if "TOKEN_LOG" in os.environ:
        with Path(os.environ["TOKEN_LOG"]).open("a", encoding="utf-8") as log:
            log.write("made\n")
    return unsigned(seconds=seconds), time.time() + seconds


def expired() -> tuple[str, float]:
    """A token that a broker refuses, said to be valid."""
    return unsigned(seconds=-60), time.time() + 3600


def failing() -> str:
    """Fails as a signer without credentials does."""
    raise RuntimeError("no credentials were found")


def made(log: Path) -> int:
    """Number of tokens that were made."""
    return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
