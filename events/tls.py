"""TLS contexts of Kafka connections, and secrets that stand in files."""

from __future__ import annotations

import ssl
from pathlib import Path

from ecdctr.state.errors import ConfigError

__all__ = ["first_line", "tls_context"]


def first_line(key: str, path: Path) -> str:
    """The first line of a file that holds a secret.

    Raises
    ------
    ConfigError
        The file cannot be read, or its first line is empty; the message names ``key`` and the file, not its content.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{key} {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{key} {path}: the file is not text in UTF-8") from None
    if not lines or not lines[0]:
        raise ConfigError(f"{key} {path}: the first line is empty")
    return lines[0]


class _PasswordNeededError(Exception):
    """The key is encrypted, and no password is configured."""


def tls_context(
    ca_file: Path | None, cert_file: Path | None, key_file: Path | None, key_password_file: Path | None
) -> ssl.SSLContext:
    """A client's TLS context with these PEM files.

    An encrypted key is opened with the first line of ``key_password_file``. OpenSSL's own way, a prompt on the terminal, is
    never used.

    Raises
    ------
    ConfigError
        A file cannot be used; the message says which and why.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"kafka.ca_file = {ca_file} cannot be used: {_reason(error)}") from error
    if cert_file is None:
        return context
    key = (
        f"kafka.key_file = {key_file}"
        if key_file is not None
        else f"the key in kafka.cert_file = {cert_file}"
    )
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        if key_password_file is None:
            raise _PasswordNeededError
        return first_line("kafka.key_password_file", key_password_file)

    try:
        context.load_cert_chain(cert_file, key_file, password)
    except _PasswordNeededError:
        raise ConfigError(
            f"{key} is encrypted: set kafka.key_password_file to a file whose first line is its password"
        ) from None
    except (OSError, ssl.SSLError, ValueError) as error:
        if asked and getattr(error, "reason", None) != "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{key} cannot be opened with the password in kafka.key_password_file = {key_password_file}: correct the password"
            ) from None
        files = [f"kafka.cert_file = {cert_file}"]
        files += [] if key_file is None else [f"kafka.key_file = {key_file}"]
        raise ConfigError(f"{' and '.join(files)} cannot be used: {_reason(error)}") from error
    return context


def _reason(error: Exception) -> str:
    """OpenSSL's reason in words, without its file and line."""
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.replace("_", " ").lower()
        return {
            "no certificate or crl found": "it holds no certificate in PEM form",
            "key values mismatch": "the key is not that of the certificate",
            "no start line": "it is not in PEM form",
        }.get(reason, reason)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
