"""Configuration keys that were renamed or removed: the old name is accepted for one version, with a notice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ecdctr.state.errors import ConfigError

__all__ = ["RenamedKeys"]

log = logging.getLogger("ecdctr.settings")

_noticed: set[str] = set()


class RenamedKeys:
    """Replaces old keys by new ones while the layers of one configuration are read.

    One instance reads one configuration, since it remembers which key was given where: an old key and its new one together are an
    error, also when they stand in different layers, because it is not clear which of the two values is meant.

    Parameters
    ----------
    renamed
        ``{old: new}``, dotted keys. A key that names a section moves the whole section.
    removed
        ``{key: why}``, dotted keys without an effect; the notice contains the reason.

    Examples
    --------
    >>> keys = RenamedKeys({"drift.cells": "drift.bins"})
    >>> keys.in_layer({"drift": {"cells": 32}, "port": 1}, "ecdctr.toml")
    {'drift': {'bins': 32}, 'port': 1}
    """

    def __init__(self, renamed: Mapping[str, str], removed: Mapping[str, str] | None = None) -> None:
        self._renamed, self._removed = renamed, removed or {}
        self._old_from: dict[str, str] = {}
        self._new_from: dict[str, str] = {}

    def in_layer(self, layer: dict[str, Any], where: str, *, variables: bool = False) -> dict[str, Any]:
        """The layer (nested tables) with new keys only.

        Parameters
        ----------
        layer
            Changed in place.
        where
            File or other source, for messages.
        variables
            The layer was read from the result of :meth:`in_variables`, so a new key in it may have been given by its old name.

        Raises
        ------
        ConfigError
            An old key and its new one are both given.
        """
        for old, new in self._renamed.items():
            node = _find(layer, old)
            if _find(layer, new) is not None and (node is not None or not variables):
                self._given(old, new, new_in=where)
            if node is not None:
                self._given(old, new, old_in=where)
                _put(layer, new, node.pop(old.rpartition(".")[2]))
                _drop_empty(layer, old)
        for key in self._removed:
            node = _find(layer, key)
            if node is not None:
                self._has_no_effect(key, where)
                del node[key.rpartition(".")[2]]
                _drop_empty(layer, key)
        return layer

    def in_variables(self, environ: Mapping[str, str], prefix: str) -> dict[str, str]:
        """Environment variables under the names of the new keys; others are unchanged.

        Parameters
        ----------
        environ
            Variables by name.
        prefix
            What the name of a configuration variable begins with; ``__`` separates the parts of a key.

        Raises
        ------
        ConfigError
            An old variable and its new one are both given.
        """
        out = dict(environ)
        for old, new in self._renamed.items():
            old_name, new_name = (prefix + k.upper().replace(".", "__") for k in (old, new))
            for name in sorted(out):
                if _begins(name, new_name):
                    self._given(old, new, new_in=f"environment variable {name}")
            for name in sorted(out):
                if _begins(name, old_name):
                    self._given(old, new, old_in=f"environment variable {name}")
                    out[new_name + name[len(old_name) :]] = out.pop(name)
        for key in self._removed:
            for name in sorted(out):
                if _begins(name, prefix + key.upper().replace(".", "__")):
                    self._has_no_effect(key, f"environment variable {name}")
                    del out[name]
        return out

    def _has_no_effect(self, key: str, where: str) -> None:
        if key not in _noticed:
            _noticed.add(key)
            log.warning(
                "%s: %s has no effect any more: %s; remove it, the next version does not know it",
                where,
                key,
                self._removed[key],
            )

    def _given(self, old: str, new: str, *, old_in: str = "", new_in: str = "") -> None:
        if old_in:
            self._old_from.setdefault(old, old_in)
        if new_in:
            self._new_from.setdefault(old, new_in)
        if old in self._old_from and old in self._new_from:
            raise ConfigError(
                f"{old} ({self._old_from[old]}) is the old name of {new} ({self._new_from[old]}), and both are given; "
                f"remove {old}"
            )
        if old_in and old not in _noticed:
            _noticed.add(old)
            log.warning("%s: %s is now called %s; the old name works in this version only", old_in, old, new)


def _begins(name: str, variable: str) -> bool:
    return name.upper() == variable or name.upper().startswith(variable + "__")


def _find(layer: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The table that holds the last part of a dotted key; None: the key is not given."""
    *path, last = key.split(".")
    node: Any = layer
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, dict) and last in node else None


def _put(layer: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        layer = layer.setdefault(name, {})
    layer[last] = value


def _drop_empty(layer: dict[str, Any], key: str) -> None:
    """Remove the tables around a key that hold nothing else: they may not exist under the new names."""
    *path, _ = key.split(".")
    for depth in range(len(path), 0, -1):
        node = _find(layer, ".".join(path[:depth]))
        if node is None or node[path[depth - 1]] != {}:
            return
        del node[path[depth - 1]]
