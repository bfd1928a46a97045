"""Bags that are written as text: ids with a separator, or the text of a JSON, Python or numpy list.

One rule for JSON events, columns of text, CSV and mapping files. It applies to bags only: for them, a text leaves no other choice.

1. Blanks around the text do not count. The usual words for a missing value (:data:`NULL_WORDS`) are null.
2. A text in brackets is a list: ``["a", "b"]``, ``['a', 'b']``, ``['a' 'b']``, ``[a, b]``, ``{a,b}``, ``('a', 'b')``. One that begins with
   ``[`` and cannot be read as a list is refused.
3. Otherwise the text consists of ids with a separator between them: the one that is given, else ``|``, else a comma; blanks around a
   comma do not count.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.values import whole

__all__ = [
    "BAG_SEPARATOR",
    "BAG_TEXT",
    "NULL_WORDS",
    "UNREADABLE",
    "ids_of_text",
    "list_of_text",
    "split_lists",
]

BAG_SEPARATOR = "|"
"""First choice of a separator."""

NULL_WORDS = (
    "", "\\N", "null", "NULL", "Null", "None", "NONE", "<NA>", "nan", "NaN", "NAN", "NaT", "(null)", "(NULL)", "<null>", "<NULL>",
)  # fmt: skip
"""Texts that mean a missing value, in bags and in CSV."""

BAG_TEXT = 'ids separated by "|" or ",", or a list as ["a", "b"]'
"""What the text of a bag must be, for messages."""

UNREADABLE: list[str] = ["unreadable"]
"""Returned by :func:`ids_of_text`; compared by identity."""

_WORDS = frozenset(NULL_WORDS)
_LIST = re.compile(r"""(\[.*\]|\{.*\}|\(\s*['"].*\))""", re.DOTALL)
_SPECIAL = r"""^\s|\s$|[\[{(|,]"""
_BARE = re.compile(r"[^\[\](){}'\"\s,]+(\s*,\s*[^\[\](){}'\"\s,]+)*")
_NUMPY = re.compile(r"'[^']*'(\s+'[^']*')+|[-\d.]+(\s+[-\d.]+)+")
_FLOAT = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?")
_NO_ID = frozenset((*NULL_WORDS, "True", "False", "true", "false"))


def split_lists(column: pl.Series, separator: str | None = None) -> tuple[pl.Series, NDArray[np.bool_]]:
    """The texts as lists of texts, null for null; and the rows whose text looks like a list but cannot be read."""
    bad = np.zeros(len(column), np.bool_)
    plain = ~(column.str.contains(_SPECIAL) | column.is_in(NULL_WORDS)) if separator is None else None
    if plain is not None and plain.fill_null(True).all():
        single = pl.select(pl.when(column.is_not_null()).then(pl.concat_list(column))).to_series()
        return single.alias(column.name).cast(pl.List(pl.String)), bad
    values = [None if text is None else ids_of_text(text, separator) for text in column]
    for row, ids in enumerate(values):
        if ids is UNREADABLE:
            values[row], bad[row] = None, True
    return pl.Series(column.name, values, dtype=pl.List(pl.String)), bad


def ids_of_text(text: str, separator: str | None = None) -> list[str] | None:
    """The ids of a text; None for a word that means a missing value; :data:`UNREADABLE` for a list that cannot be read.

    >>> ids_of_text("a|b,c"), ids_of_text("a, b"), ids_of_text("['t0', 't1']"), ids_of_text("a b"), ids_of_text("null")
    (['a', 'b,c'], ['a', 'b'], ['t0', 't1'], ['a b'], None)
    >>> ids_of_text("a b", separator=" "), ids_of_text("[1.5]") is UNREADABLE
    (['a', 'b'], True)
    """
    stripped = text.strip()
    if stripped in _WORDS:
        return None
    if _LIST.fullmatch(stripped):
        found = list_of_text(stripped)
        return UNREADABLE if found is None else found
    if stripped.startswith("["):
        return UNREADABLE
    if separator is not None:
        return stripped.split(separator)
    if BAG_SEPARATOR in stripped:
        return stripped.split(BAG_SEPARATOR)
    return [part.strip() for part in stripped.split(",")]


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
    items: list[Any]
    if _NUMPY.fullmatch(body):
        parts = re.findall(r"'[^']*'|[^'\s]+", body)
        items = [part.strip("'") if part.startswith("'") else _bare(part) for part in parts]
    elif _BARE.fullmatch(body):
        items = [_bare(part.strip()) for part in body.split(",")]
    else:
        try:
            items = list(ast.literal_eval(f"[{body}]"))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    out: list[str] = []
    for item in items:
        if isinstance(item, float):
            item = whole(item)
        if isinstance(item, bool) or not isinstance(item, str | int):
            return None
        try:
            ids = str(item)
            ids.encode()
        except (ValueError, UnicodeError):  # thousands of digits; a lone surrogate, which is no text in UTF-8
            return None
        out.append(ids)
    return out


def _bare(word: str) -> str | float | None:
    """A word of a list without quotes: an id, a number that may not be one, or None for a word that is none."""
    if word in _NO_ID:
        return None
    return float(word) if not word.lstrip("-").isdecimal() and _FLOAT.fullmatch(word) else word
