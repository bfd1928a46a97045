"""``key=value`` overrides of the command line. Secrets are refused there, and no message contains a text that may hold one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ecdctr.state.errors import ConfigError

__all__ = ["key_of", "read_overrides"]

_KEY = re.compile(r"\w+(\.\w+)*")


def key_of(text: str) -> str:
    """The key with which an override begins, for messages: what follows it may be a secret.

    >>> key_of("kafka.password: swordfish"), key_of("model.lr=0.001")
    ('kafka.password', 'model.lr')
    """
    found = _KEY.match(text.strip())
    return found[0] if found else ""


def read_overrides(
    overrides: Sequence[str], where: str, secrets: Collection[str], prefix: str
) -> dict[str, Any]:
    """Overrides as nested tables.

    Parameters
    ----------
    overrides
        Each ``section.key=value``; the value is read as TOML, or as a text where that fails.
    where
        The option, for messages.
    secrets
        Keys that are refused: every user of the machine can read a command line.
    prefix
        What the environment variables of keys begin with.

    Raises
    ------
    ConfigError
        An override has another form, or sets a secret.
    """
    out: dict[str, Any] = {}
    for text in overrides:
        key, sep, value = text.partition("=")
        if not sep or not _KEY.fullmatch(key.strip()):
            raise ConfigError(
                f'{where} {key_of(text)}...: must have the form section.key=value, as in "model.lr=0.001"'
            )
        try:
            parsed = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            parsed = value
        node = out
        *path, last = key.strip().split(".")
        for name in path:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"{where} {key.strip()}: {name} is a key with a value, not a section; "
                    "`ecdctr config show` lists all keys"
                )
        node[last] = parsed
    for key in _keys(out, ""):
        if key.lower() in secrets:
            variable = prefix + key.upper().replace(".", "__")
            raise ConfigError(
                f"{where} {key}: every user of this machine can read a command line. Set the environment variable {variable}, "
                f"or {key}_file to a file whose first line is the secret"
            )
    return out


def _keys(tables: Mapping[str, Any], at: str) -> Iterator[str]:
    for name, value in tables.items():
        yield f"{at}{name}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{at}{name}.")
