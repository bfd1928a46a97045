"""Nested values by dotted names: ``user.id`` is the key ``id`` of the object ``user``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import polars as pl

__all__ = ["column_names", "object_names", "selected", "value_at"]

DEPTH = 6
"""Deeper values are not named."""


def value_at(record: Mapping[str, Any], name: str) -> Any:
    """The value of a JSON object at a name; a key that contains the dots itself comes first.

    Through a list of objects, it is the list of their values. None if there is no such value.

    >>> value_at({"user": {"id": 7}}, "user.id"), value_at({"items": [{"id": "a"}, {"id": "b"}]}, "items.id")
    (7, ['a', 'b'])
    """
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    for part in name.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list):
            value = [entry.get(part) if isinstance(entry, dict) else None for entry in value]
        else:
            return None
    return value


def object_names(record: Mapping[str, Any], before: str = "", depth: int = 1) -> Iterator[str]:
    """Names of the values of a JSON object that are not objects themselves.

    >>> list(object_names({"a": 1, "user": {"id": 7}, "items": [{"id": "x"}], "tags": ["t"]}))
    ['a', 'user.id', 'items.id', 'tags']
    """
    for key, value in record.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and first and depth < DEPTH:
            yield from object_names(first, f"{before}{key}.", depth + 1)
        else:
            yield before + key


def column_names(schema: Mapping[str, Any], before: str = "", depth: int = 1) -> list[str]:
    """Names of the columns of a table, with dots those inside of structs and of lists of structs."""
    out: list[str] = []
    for name, dtype in schema.items():
        inner = dtype.inner if isinstance(dtype, pl.List) else dtype
        if isinstance(inner, pl.Struct) and depth < DEPTH:
            fields = {field.name: field.dtype for field in inner.fields}
            out += column_names(fields, f"{before}{name}.", depth + 1)
        else:
            out.append(before + name)
    return out


def selected(schema: Mapping[str, Any], names: Collection[str]) -> list[pl.Expr]:
    """Expressions of the columns of a table with these names, in the order of the table; names that it lacks are left out."""
    found = [pl.col(name) for name in schema if name in names]
    for name in sorted(n for n in names if n not in schema and "." in n):
        expression = _inside(schema, name)
        if expression is not None:
            found.append(expression.alias(name))
    return found


def _inside(schema: Mapping[str, Any], name: str) -> pl.Expr | None:
    column, *keys = name.split(".")
    dtype = schema.get(column)
    expression = pl.col(column)
    for key in keys:
        inner = dtype.inner if isinstance(dtype, pl.List) else dtype
        field = (
            next((f for f in inner.fields if f.name == key), None) if isinstance(inner, pl.Struct) else None
        )
        if field is None:
            return None
        if isinstance(dtype, pl.List):
            expression = expression.list.eval(pl.element().struct.field(key))
            dtype = pl.List(field.dtype)
        else:
            expression = expression.struct.field(key)
            dtype = field.dtype
    return expression
