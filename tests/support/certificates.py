"""Certificates for the TLS listeners of tests, made with the ``openssl`` program when they are needed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Authority", "Certificate", "encrypt_key"]

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, as PEM files.

    Attributes
    ----------
    store
        Key and certificate in one file: Kafka's PEM keystore.
    """

    cert: Path
    key: Path
    store: Path


class Authority:
    """A certificate authority that lives as long as its folder.

    Parameters
    ----------
    folder
        Where its files are written.
    name
        Common name of the authority and prefix of its files.
    """

    def __init__(self, folder: Path, name: str = "test-authority") -> None:
        self._folder, self._name = folder, name
        folder.mkdir(parents=True, exist_ok=True)
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        _openssl(
            "req", "-x509", *_KEY, "-keyout", self._key, "-out", self.cert, "-days", "30",
            "-subj", f"/CN={name}",
        )  # fmt: skip

    def issue(
        self, name: str, subject_names: str = "DNS:localhost,IP:127.0.0.1", days: int = 30
    ) -> Certificate:
        """Issue a certificate that is valid for ``days`` from now; -1: it has expired already.

        Parameters
        ----------
        name
            Common name, and name of the files.
        subject_names
            The host names and addresses that it is valid for, in openssl's notation.
        """
        stem = self._folder / f"{self._name}-{name}"
        cert, key, store = (stem.with_suffix(s) for s in (".pem", ".key", ".store.pem"))
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={subject_names}\n", encoding="utf-8")
        _openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-extfile", extensions, "-out", cert,
        )  # fmt: skip
        store.write_text(key.read_text() + cert.read_text(), encoding="utf-8")
        return Certificate(cert, key, store)


def encrypt_key(key: Path, password: str, to: Path) -> Path:
    """Write a copy of a key that only the password opens."""
    _openssl("pkcs8", "-topk8", "-in", key, "-out", to, "-passout", f"pass:{password}")
    return to


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} ended with code {done.returncode}: {done.stderr.strip()}")
