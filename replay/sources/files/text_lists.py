"""Lists that are written as text in CSV: ids with a separator, or the text of a JSON, Python or numpy list."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["BAG_SEPARATOR", "list_of_text", "split_lists"]

BAG_SEPARATOR = "|"
"""Separates the ids of a bag in formats without lists (CSV)."""

_LIST = r"""^\s*(\[.*\]|\{.*\}|\(\s*['"].*\))\s*$"""
_BARE = re.compile(r"[^\[\](){}'\"\s,]+(\s*,\s*[^\[\](){}'\"\s,]+)*")
_NUMPY = re.compile(r"'[^']*'(\s+'[^']*')+|[-\d.]+(\s+[-\d.]+)+")


def split_lists(column: pl.Series) -> tuple[pl.Series, NDArray[np.bool_]]:
    """The texts as lists of texts, null for null; and the rows whose text looks like a list but cannot be read."""
    lists = column.str.split(BAG_SEPARATOR)
    bad = np.zeros(len(column), np.bool_)
    written = column.str.contains(_LIST).fill_null(False).to_numpy()
    if not written.any():
        return lists, bad
    values = lists.to_list()
    for row in np.flatnonzero(written).tolist():
        values[row] = list_of_text(column[row])
        bad[row] = values[row] is None
    return pl.Series(column.name, values, dtype=pl.List(pl.String)), bad


def list_of_text(text: str) -> list[str] | None:
    """The ids of the text of a list; None if it cannot be read.

    >>> list_of_text("['t0', 't1']"), list_of_text('["a"]'), list_of_text("['a' 'b']"), list_of_text("[a, b]")
    (['t0', 't1'], ['a'], ['a', 'b'], ['a', 'b'])
    >>> list_of_text("{a,b}"), list_of_text("[7, 8.0]"), list_of_text("[]"), list_of_text("[[1]]")
    (['a', 'b'], ['7', '8'], [], None)
    """
    text = text.strip()
    body = text[1:-1].strip()
    if not body:
        return []
    if _NUMPY.fullmatch(body):
        items: list[Any] = [part.strip("'") for part in re.findall(r"'[^']*'|[^'\s]+", body)]
    elif _BARE.fullmatch(body) and not re.fullmatch(r"[-\d.,\s]+", body):
        items = [part.strip() for part in body.split(",")]
    else:
        try:
            items = list(ast.literal_eval(f"[{body}]"))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            if not _BARE.fullmatch(body):
                return None
            items = [part.strip() for part in body.split(",")]
    out = []
    for item in items:
        if isinstance(item, float) and item.is_integer():
            item = int(item)
        if isinstance(item, bool) or not isinstance(item, str | int):
            return None
        out.append(str(item))
    return out
