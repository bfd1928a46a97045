"""Generators of odd events: JSON text, columns of any type, tables of text.

Each value is likely to be one of the known difficulties (limits of number types, times in every unit, surrogates, words for null), and
otherwise anything.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

import polars as pl
from hypothesis import strategies as st

__all__ = ["FIELDS", "T0", "json_line", "json_lines", "odd_frame", "plain_table", "text_table"]

T0 = 1_767_225_600_000
FIELDS = ("event_id", "ts", "user_id", "item_id", "label", "category", "price", "tags", "list_id")

GOOD = {
    "event_id": '"e"', "ts": str(T0), "user_id": '"u1"', "item_id": "7", "label": "1", "category": '"c"', "price": "2.5",
    "tags": '["a"]', "list_id": '"l"',
}  # fmt: skip

# -- JSON text

_EDGES = [0, 1, 2, 2**24, 2**31, 2**32, 2**53, 2**63, 2**64, 10**19, 2**127, 10**39, 10**300]
_integers = st.one_of(
    st.sampled_from(_EDGES).flatmap(lambda edge: st.integers(edge - 2, edge + 2)),
    st.sampled_from(_EDGES).flatmap(lambda edge: st.integers(-edge - 2, -edge + 2)),
    st.integers(-(2**70), 2**70),
)
_numbers = st.one_of(
    _integers.map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    _integers.map(lambda v: f"{v}.0"),
    st.sampled_from(
        [
            "0", "1", "1.0", "0.0", "-0.0", "-0", "1e0", "1E3", "12.5", "1e400", "-1e400", "1e-400", "5e-324", "3.4028235e38", "3.5e38",
            "1.7976931348623157e308", "NaN", "nan", "Infinity", "-Infinity", "01", "+1", "1.", ".5", "0x10", "1_000", "9" * 400,
            "9" * 5000, "-" + "9" * 4400, "0." + "0" * 400 + "1", "1e308", "1e5000",
        ]
    ),
)  # fmt: skip
_UNITS = [
    T0 // 1000,
    T0,
    T0 * 1000,
    T0 * 1_000_000,
    T0 / 1000,
    946_684_800_000,
    946_684_799_999,
    4_102_444_800_000,
    4_102_444_800_001,
]
_ISO = [
    "2026-01-01T00:00:00Z", "2026-01-01", "2026-01-01T05:00:00.25+01:00", "2026-01-01 10:00", "2026-01-01T00:00:00.123456789Z",
    "2026-W01-1", "20260101", "20260101T000000Z", "2026-01-01T24:00:00", "2026-02-30", "2026-13-01", "9999-12-31T23:59:59.999",
    "0001-01-01T00:00:00+14:00", "2026-01-01T00:00:60Z", "01/02/2026 03:00:00 PM", "Thu Jan 01 2026", " 2026-01-01", "2026-01-01T00:00:00z",
    "2026-01-01T00:00:00+23:59", "1767225600000", "", "٢٠٢٦-01-01",
]  # fmt: skip
_times = st.one_of(
    st.integers(T0, T0 + 10**9).map(str),
    st.integers(T0, T0 + 10**9).map(lambda v: f"{v}.0"),
    st.sampled_from(_UNITS).map(str),
    st.sampled_from(_ISO).map(json.dumps),
)
WORDS = [
    "null",
    "NULL",
    "None",
    "NaN",
    "nan",
    "\\N",
    "NA",
    "N/A",
    "-",
    "",
    " ",
    "true",
    "False",
    "yes",
    "undefined",
    "0",
    "1.0",
    "1e3",
]
_LISTS = [
    "a,b",
    "a|b",
    "['t0', 't1']",
    '["a"]',
    "[a, b]",
    "{a}",
    "[[1]]",
    "['a'",
    "[]",
    "[1.5]",
    "a, b",
    "('a',)",
    "[" * 100,
    "{'a': 1}",
]
_texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            *WORDS,
            *_LISTS,
            "x" * 40,
            "x" * 41,
            "é" * 20,
            "é" * 21,
            "\0",
            "\t",
            "\ufeff",
            "\u2028",
            "𝄞",
            "12",
            "12.0",
            "007",
        ]
    ),
)
_json_texts = st.one_of(
    _texts.map(json.dumps),
    _texts.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        [
            '"\\ud800"',
            '"\\udc00x"',
            '"\\ud83d\\ude00"',
            '"\ud800"',
            '"\\x"',
            '"unclosed',
            "'a'",
            '"\n"',
            '"\\u00"',
        ]
    ),
)
_scalars = st.one_of(
    _numbers,
    _json_texts,
    st.sampled_from(
        ["true", "false", "null", "{}", "[]", "[null]", '{"a":1}', "tru", "", "True", "undefined"]
    ),
)
_deep = st.integers(1, 900).map(lambda n: "[" * n + "]" * n)
_nested = st.one_of(
    st.recursive(
        _scalars,
        lambda inner: st.lists(inner, max_size=3).map(lambda v: "[" + ",".join(v) + "]"),
        max_leaves=6,
    ),
    st.sampled_from(["[[1]]", '{"a":{"b":[1]}}', '[{"a":1}]', "[1,[2]]"]),
    _deep,
)
_bags = st.one_of(
    st.lists(_scalars, max_size=6).map(lambda v: "[" + ",".join(v) + "]"), _scalars, _json_texts
)
_KIND = {"ts": _times, "tags": _bags}


def json_line(**changes: Any) -> bytes:
    """One event as JSON text; a value is raw text, None leaves the field out, a tuple writes it several times."""
    fields = [(name, text) for name, text in {**GOOD, **changes}.items() if text is not None]
    pairs = [(name, one) for name, text in fields for one in (text if isinstance(text, tuple) else (text,))]
    return ("{" + ",".join(f'"{name}":{text}' for name, text in pairs) + "}").encode("utf-8", "surrogatepass")


@st.composite
def json_lines(draw: st.DrawFn) -> list[bytes]:
    """Lines of JSON that are odd in one or two fields, or damaged; none is blank or contains the end of a line."""
    out = []
    for number in range(draw(st.integers(1, 6))):
        changes: dict[str, Any] = {"event_id": f'"e{number}"'}
        for name in draw(st.lists(st.sampled_from([*FIELDS, "unread", "domain"]), max_size=2, unique=True)):
            values = _KIND.get(name, _scalars) | _scalars | _nested
            choices = [values, values, st.tuples(values, values)]
            changes[name] = draw(st.one_of(*choices, *([] if name == "event_id" else [st.none()])))
        if "domain" in changes:  # live the topic decides, so that only a file that is told so may ignore it
            changes["unread2"] = changes.pop("domain")
        made = json_line(**changes)
        if draw(st.integers(0, 9)) == 0:
            damaged = [
                made[:-1], made + b"x", made + made, b"\xff" + made, b"\xef\xbb\xbf" + made, b"[1]", b'"x"', b"{}", b"null", b"1", made + b"\r",
                b" " + made + b" ", made.replace(b'"c"', b'"\xff"'), made.replace(b":", b"="), made[: draw(st.integers(1, len(made)))],
                made.decode("utf-8", "replace").encode("utf-16-le", "replace"), b"\0" * 8, made.replace(b'"', b"'"),
            ]  # fmt: skip
            made = draw(st.sampled_from(damaged))
        made = made.replace(b"\n", b" ")
        out.append(made if made.strip() else b"{}")
    return out


# -- columns

_DAY = datetime.date(2026, 1, 1)
_MOMENT = datetime.datetime(2026, 1, 1, 5, 0, 0, 123_456)
_floats = st.one_of(
    st.floats(),
    st.sampled_from([0.0, 1.0, -0.0, math.nan, math.inf, -math.inf, 2.0**53, 2.0**53 + 2, 12.5, 3.5e38]),
)
_valid_text = _texts.filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text))


def _whole(low: int, high: int) -> st.SearchStrategy[int]:
    return st.one_of(
        st.integers(low, high), st.sampled_from([v for v in (0, 1, low, high, T0) if low <= v <= high])
    )


_MOMENTS = st.one_of(
    st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)), st.just(_MOMENT)
)
_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *(
        (dtype, _whole(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
        for bits, dtype in ((8, pl.Int8), (16, pl.Int16), (32, pl.Int32), (64, pl.Int64))
    ),
    *(
        (dtype, _whole(0, 2**bits - 1))
        for bits, dtype in ((8, pl.UInt8), (16, pl.UInt16), (32, pl.UInt32), (64, pl.UInt64))
    ),
    (pl.Float64, _floats),
    (pl.Float32, _floats.map(lambda v: v if abs(v) < 3e38 or not math.isfinite(v) else 1.0)),
    (pl.String, _valid_text),
    (pl.Categorical, _valid_text),
    (pl.Enum(["a", "b", "null", "1"]), st.sampled_from(["a", "b", "null", "1"])),
    (pl.Binary, st.binary(max_size=20) | st.just(b"\xff" * 16) | _valid_text.map(str.encode)),
    (pl.Boolean, st.booleans()),
    (pl.Decimal(38, 0), st.integers(-(10**37), 10**37).map(decimal.Decimal)),
    (pl.Decimal(20, 2), st.integers(-(10**9), 10**9).map(lambda v: decimal.Decimal(v).scaleb(-2))),
    (pl.Date, st.dates(datetime.date(1900, 1, 1), datetime.date(2200, 1, 1)) | st.just(_DAY)),
    *((pl.Datetime(unit), _MOMENTS) for unit in ("ms", "us", "ns")),
    (pl.Datetime("us", "Europe/Berlin"), _MOMENTS.map(lambda t: t.replace(tzinfo=datetime.UTC))),
    (pl.Time, st.times()),
    (pl.Duration("us"), st.timedeltas(datetime.timedelta(-9), datetime.timedelta(9))),
    (pl.Null, st.none()),
    (pl.Struct({"a": pl.Int64}), st.fixed_dictionaries({"a": st.integers(0, 9)})),
]
_SIMPLE = [(dtype, values) for dtype, values in _TYPES if dtype not in (pl.Time, pl.Duration("us"))]


@st.composite
def _column(draw: st.DrawFn, name: str, rows: int) -> pl.Series:
    dtype, values = draw(st.sampled_from(_TYPES))
    form = draw(st.sampled_from(["plain", "list", "list", "array", "nested"])) if name == "tags" else draw(
        st.sampled_from(["plain"] * 6 + ["list"])
    )  # fmt: skip
    nullable = st.one_of(values, values, values, st.none())
    if form != "plain":
        dtype, values = draw(st.sampled_from(_SIMPLE))
        inner = st.one_of(values, values, values, st.none())
        if form == "array":
            nullable, dtype = st.none() | st.lists(inner, min_size=2, max_size=2), pl.Array(dtype, 2)
        else:
            nullable, dtype = st.none() | st.lists(inner, max_size=4), pl.List(dtype)
        if form == "nested":
            nullable, dtype = st.lists(nullable, max_size=2), pl.List(dtype)
    content = draw(st.lists(nullable, min_size=rows, max_size=rows))
    return pl.Series(name, content, dtype=dtype, strict=False)


@st.composite
def odd_frame(draw: st.DrawFn) -> pl.DataFrame:
    """Events as columns, of which one to three have any type; a column may be absent."""
    rows = draw(st.integers(1, 8))
    frame = pl.DataFrame(
        {
            "event_id": [f"e{i}" for i in range(rows)], "ts": [T0 + i for i in range(rows)], "user_id": [f"u{i}" for i in range(rows)],
            "item_id": list(range(rows)), "label": [i % 2 for i in range(rows)], "category": ["c"] * rows, "price": [1.5] * rows,
            "tags": [["a", "b"]] * rows, "list_id": ["l"] * rows,
        }
    )  # fmt: skip
    for name in draw(st.lists(st.sampled_from([*FIELDS, "unread"]), min_size=1, max_size=3, unique=True)):
        if draw(st.integers(0, 11)) == 0 and name in ("category", "price", "tags", "list_id"):
            frame = frame.drop(name)
        else:
            frame = frame.with_columns(draw(_column(name, rows)))
    return frame


# -- values that have one meaning in every form

_plain_text = st.one_of(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=10),
    st.sampled_from(["é" * 20, "x" * 41, "a b", "𝄞", "007", "1.0"]),
).filter(
    lambda text: (
        text.lower() not in {word.lower() for word in WORDS} | {"nat", "none", "nil", "missing", "na"}
    )
)
_PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "ts": st.integers(T0, T0 + 10**9)
    | st.sampled_from(_UNITS[:4])
    | st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01"]),
    "user_id": _plain_text | st.integers(-(2**63), 2**63 - 1),
    "item_id": _plain_text | st.integers(0, 2**63 - 1),
    "label": st.sampled_from([0, 1, 0, 1, 2, 0.0, 1.0, 0.5, True, False]),
    "category": _plain_text | st.integers(-9, 9) | st.none(),
    "price": st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
    | st.none()
    | st.sampled_from([1e39, 1e-320]),
    "tags": st.lists(_plain_text, min_size=1, max_size=5) | st.none(),
    "list_id": _plain_text | st.none(),
}


@st.composite
def plain_table(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events with values that have the same meaning in JSON, in CSV and in columns of one type."""
    rows = draw(st.integers(1, 6))
    table: list[dict[str, Any]] = [{"event_id": f"e{i}"} for i in range(rows)]
    for name, values in _PLAIN.items():
        first = draw(values.filter(lambda v: v is not None))
        kinds = (int, float) if type(first) in (int, float) and name in ("price", "label") else (type(first),)
        for row in table:
            value = draw(values)
            row[name] = value if value is None or type(value) in kinds else first
    return table


# -- text

_cells = st.one_of(
    _texts.filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF or c in "\r\n\0" for c in text)),
    _numbers.filter(lambda text: len(text) < 400),
    st.sampled_from(
        [
            "true",
            "FALSE",
            "Yes",
            "n",
            "t",
            " 1 ",
            "1,5",
            "1 000",
            "$5",
            "5%",
            "#N/A",
            "(null)",
            "--",
            "?",
            "2026-01-01",
            str(T0),
        ]
    ),
    st.sampled_from(_ISO),
)


@st.composite
def text_table(draw: st.DrawFn) -> list[dict[str, str]]:
    """Rows of text, as a CSV file has them."""
    good = {
        "event_id": "e", "ts": str(T0), "user_id": "u", "item_id": "7", "label": "1", "category": "c", "price": "2.5", "tags": "a|b",
        "list_id": "l",
    }  # fmt: skip
    out = []
    for _ in range(draw(st.integers(1, 6))):
        names = draw(st.lists(st.sampled_from(FIELDS), max_size=3, unique=True))
        out.append(good | {name: draw(_cells) for name in names})
    return out
