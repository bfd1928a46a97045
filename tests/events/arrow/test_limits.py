"""What one packed message may make a reader do is bounded before anything reads it (cases S2, S3, S4)."""

from __future__ import annotations

import base64
import random
import re
import struct
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ecdctr.events.arrow import PackedError, pack, unpack
from ecdctr.events.arrow.limits import MAX_DEPTH
from ecdctr.events.batch import Batch
from ecdctr.events.decoder import ARROW_CONTENT_TYPE, EventDecoder, to_arrow_message, to_json_messages
from ecdctr.events.records import RecordReject, is_packed
from ecdctr.events.settings import FeatureSpec
from ecdctr.streams.dead_letters import letters_of

SPECS = [FeatureSpec(name="site"), FeatureSpec(name="tags", kind="bag", max_length=3)]
DECODER = EventDecoder(SPECS, max_string=512, list_field=None)
T0 = 1_767_225_600_000

# pyarrow 26: 10,000 rows of a dictionary of one text of 100,000 letters, with indices of one byte; the other columns are integers.
EXPANDS = """
c-rmSu}&007{Kvw;qJIxwxGC}D=kcHEiEi4EPV&ma0Lli2og#wYDyCu3JMw%AHc!~u&|&qK8T5l>o<41utx%w1u?%Lnf!NlW_K=kEltxj7gfY&6qBf96vG(jRjLLt
$eib%(ov4Bs@#wGmidrlC&x6(^Rs+v6dU=5&AhXGUo|Xi&vHD>F^HwogWbb<xgO_VxifC>|N7H3<-z5AdH(aJ+^g2gJ7>N340G(gdOhFEK54F>JG^E8Mvgpoe|vW)
UiS8%-?9JQ!TfF6f7;uB+1o$u?O!WrA4Gg<_iin|m+95_QfBS<vUv7U@7eO+`O*B%VL5CuuXAiH?sw-FP5HgrbBj8!mcLlNI3d;si?xfBs(tU|>ig|}<5}(;v@0*#
`&C?9kK2uJ^z7vN$?C>?qPOQ50000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
00000000000000000000xVM^gTt!S{sg4IRieZfNsxCLy2QkZh|6R2^CONNTkUJ(h`<Y|2jK^`Mj@xzn`uqFy_fMDSoNiYu>)pKDcXqP6-p#x9&!1M;yLq?%^>TH+
oA*E0=#J0%ujUm10000000000{0HLV$I-{~uXw7es;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80
s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s;a80s=ZbK000000000000000
00000007(z0RR910000000000000000002Mz0jo6zw)=V=l
"""


def events(n: int, **columns) -> pl.DataFrame:
    base = {
        "event_id": range(n), "ts": [T0] * n, "user_id": range(n), "item_id": [7] * n, "label": [0] * n,
        "site": ["a"] * n, "tags": [["t"]] * n,
    }  # fmt: skip
    return pl.DataFrame(base).with_columns(**columns)


def good() -> bytes:
    return to_arrow_message(events(3))


def rejects_among_good(values):
    """Rejects of messages between good ones, which must be read as if they were alone."""
    decoded = DECODER.from_packed([good(), *values, good()], 0)
    alone = DECODER.from_packed([good()], 0).batch
    for index in (0, len(values) + 1):
        mine = decoded.batch.take(decoded.index == index)
        np.testing.assert_array_equal(mine.user, alone.user)
        np.testing.assert_array_equal(mine.features, alone.features)
    return decoded.rejects


def deep(levels: int) -> pl.DataFrame:
    column = pl.Series("deep", [1] * 3)
    for _ in range(levels):
        column = pl.DataFrame([column.alias("a")]).to_struct("deep")
    return events(3).with_columns(column)


@pytest.mark.parametrize("levels", [MAX_DEPTH, 100])
def test_case_s2_a_schema_that_is_nested_too_deep_is_a_reject(levels):
    [reject] = rejects_among_good([to_arrow_message(deep(levels))])
    assert (reject.reason, reject.row, reject.rows) == ("arrow", -1, 3)
    assert reject.detail == f'column "deep" is nested more than {MAX_DEPTH} levels deep'
    assert not rejects_among_good([to_arrow_message(deep(MAX_DEPTH - 1))])


class Builder:
    """Writes flatbuffers whose tables refer to later ones; several may refer to the same one."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.wanted: list[tuple[int, object]] = []
        self.places: dict[object, int] = {}

    def table(self, name: object, **fields) -> None:
        """``fields``: ``f3=("B", 5)`` a number, ``f3=("ref", name)`` a reference."""
        numbers = {int(key[1:]): value for key, value in fields.items()}
        size = 4 + 8 * len(numbers)
        slots = [0] * (max(numbers) + 1)
        for place, number in enumerate(sorted(numbers)):
            slots[number] = 4 + 8 * place
        vtable = len(self.data)
        self.data += struct.pack(f"<HH{len(slots)}H", 4 + 2 * len(slots), size, *slots)
        self.places[name] = at = len(self.data)
        self.data += struct.pack("<i", at - vtable) + bytes(size - 4)
        for place, number in enumerate(sorted(numbers)):
            kind, value = numbers[number]
            where = at + 4 + 8 * place
            if kind == "ref":
                self.wanted.append((where, value))
            else:
                struct.pack_into("<" + kind, self.data, where, value)

    def vector(self, name: object, items: list[object]) -> None:
        self.places[name] = len(self.data)
        self.data += struct.pack("<I", len(items))
        for item in items:
            self.wanted.append((len(self.data), item))
            self.data += bytes(4)

    def text(self, name: object, content: bytes) -> None:
        self.places[name] = len(self.data)
        self.data += struct.pack("<I", len(content)) + content + b"\0"

    def done(self) -> bytes:
        for where, name in self.wanted:
            struct.pack_into("<I", self.data, where, self.places[name] - where)
        return bytes(self.data)


def schema(build) -> bytes:
    """A stream that consists of a schema message."""
    b = Builder()
    b.data += bytes(4)
    b.wanted.append((0, "message"))
    b.table("message", f0=("h", 4), f1=("B", 1), f2=("ref", "schema"))
    build(b)
    metadata = b.done()
    metadata += bytes(-len(metadata) % 8)
    return struct.pack("<Ii", 0xFFFFFFFF, len(metadata)) + metadata


def shared_children(b: Builder) -> None:
    b.table("schema", f1=("ref", ("children", 0)))
    for level in range(10):
        b.vector(("children", level), [("field", level)] * 500)
        b.table(("field", level), f2=("B", 13), f3=("ref", "type"), f5=("ref", ("children", level + 1)))
    b.vector(("children", 10), [])
    b.table("type", f0=("B", 0))


def shared_names(b: Builder) -> None:
    b.table("schema", f1=("ref", "fields"))
    b.vector("fields", ["field"] * 4000)
    b.table("field", f0=("ref", "name"), f2=("B", 1), f3=("ref", "type"))
    b.table("type", f0=("B", 0))
    b.text("name", b"x" * 100_000)


def many_fields(b: Builder) -> None:
    b.table("schema", f1=("ref", "fields"))
    b.vector("fields", ["field"] * 5000)
    b.table("field", f2=("B", 1), f3=("ref", "type"))
    b.table("type", f0=("B", 0))


@pytest.mark.parametrize(
    ("build", "detail"),
    [
        (shared_children, "has more than 4,096 columns, those within columns included"),
        (shared_names, "has more than 1,048,576 bytes of names and metadata"),
        (many_fields, "has more than 4,096 columns, those within columns included"),
    ],
)
def test_case_s2_fields_that_many_others_refer_to_are_counted_each_time(build, detail):
    """A flatbuffer of some kilobytes can describe 500**10 fields, or 400 MB of names."""
    value = schema(build)
    assert len(value) < 200_000
    assert [(r.reason, r.detail) for r in rejects_among_good([value])] == [("arrow", detail)]


def test_case_s3_rows_that_take_no_bytes_are_refused_by_their_number():
    nothing = to_arrow_message(pl.DataFrame({"ts": pl.repeat(None, 900_000, dtype=pl.Null, eager=True)}))
    assert len(nothing) < 500
    rejects = rejects_among_good([nothing] * 30)
    assert {(r.reason, r.row, r.rows) for r in rejects} == {("arrow", -1, 1)}
    assert len(rejects) == 30
    assert re.fullmatch(
        rf"claims [\d,]+ rows in {len(nothing)} bytes; a row has at least 8", rejects[0].detail
    )


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"user_id": None}, "there is no field user_id"),
        ({"tags": None}, "there is no field tags"),
        ({"ts": pl.lit(None, pl.Null)}, "ts is null"),
        ({"label": pl.lit(None, pl.Null)}, "label is null"),
        ({"user_id": pl.lit(None, pl.String)}, "user_id is null"),
        ({"site": pl.struct("label")}, "site is Struct({'label': Int64}), expected a string or an integer"),
    ],
)
def test_case_s3_a_missing_or_null_column_is_one_reject_a_message_that_counts_its_rows(change, detail):
    [(name, how)] = change.items()
    bad = events(5000).drop(name) if how is None else events(5000, **change)
    rejects = rejects_among_good([to_arrow_message(bad), to_arrow_message(bad)])
    assert [(r.index, r.row, r.rows, r.detail) for r in rejects] == [
        (1, -1, 5000, detail),
        (2, -1, 5000, detail),
    ]
    record = SimpleNamespace(offset=1, value=b"v", key=None, headers=())
    [letter] = letters_of(
        "ads", 0, [RecordReject(record, r.reason, r.detail, None, r.rows) for r in rejects[:1]]
    )
    assert (letter.events, letter.rows) == (5000, ())
    assert dict(letter.message().headers)["ecdctr-events"] == b"5000"


def test_case_s3_of_very_many_bad_rows_the_first_are_named_and_all_are_counted():
    bad = events(5000, label=pl.when(pl.int_range(5000) < 10).then(1).otherwise(pl.int_range(5000)))
    rejects = rejects_among_good([to_arrow_message(bad)])
    assert sum(r.rows for r in rejects) == 4990
    assert [r.row for r in rejects] == list(range(10, 211))
    assert rejects[0].detail == "label is 10, neither 0 nor 1"


def test_case_s4_a_dictionary_that_expands_to_a_gigabyte_is_refused_before_it_does():
    value = zlib.decompress(base64.b85decode("".join(EXPANDS.split())))
    decoder = EventDecoder([FeatureSpec(name="site")], max_string=512)
    tracemalloc.start()
    try:
        decoded = decoder.from_packed([value], 0)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()
    [reject] = decoded.rejects
    assert (reject.reason, reject.rows) == ("arrow", 10_000)
    assert reject.detail == (
        'the values of its dictionaries would take 1,000,000,000 bytes, at most 67,108,864 are read: column "site" has a value '
        "of 100,000 bytes"
    )
    # a column that no feature reads is not expanded
    unread = EventDecoder([FeatureSpec(name="user", field="user_id")]).from_packed([value], 0)
    assert len(unread.batch) == 10_000
    assert not unread.rejects


def test_case_s4_a_long_value_of_a_dictionary_costs_the_rows_that_use_it():
    texts = pl.Series(["a", "x" * 600, "b", "a"])
    bad = events(4, site=texts.cast(pl.Categorical))
    [reject] = rejects_among_good([to_arrow_message(bad)])
    assert (reject.reason, reject.row) == ("long", 1)
    by_json = DECODER.from_json([value for _, value in to_json_messages(events(4, site=texts))], 0)
    by_arrow = DECODER.from_packed([to_arrow_message(bad)], 0)
    np.testing.assert_array_equal(by_arrow.batch.features, by_json.batch.features)


@pytest.mark.parametrize("index", [3, 77, 2**31, 2**32 - 1])
def test_case_s4_an_index_beyond_the_dictionary_is_a_reject(index):
    value = bytearray(
        to_arrow_message(events(21, site=pl.Series(["aa", "bb", "cc"] * 7, dtype=pl.Categorical)))
    )
    place = bytes(value).rfind(struct.pack("<3I", 0, 1, 2))
    value[place : place + 4] = struct.pack("<I", index)
    [reject] = rejects_among_good([bytes(value)])
    assert (reject.reason, reject.rows) == ("arrow", 21)
    assert reject.detail == f'column "site" refers to value {index} of a dictionary of 3 values'


def test_columns_that_no_feature_reads_may_have_any_type():
    odd = events(3).with_columns(
        other=pl.struct("label"), more=pl.lit(None, pl.Null), date=pl.lit("2026-01-01").str.to_date()
    )
    assert not rejects_among_good([to_arrow_message(odd)])


def test_what_polars_writes_is_within_the_limits():
    frame = events(
        200,
        site=pl.Series([None if i % 3 == 0 else f"s{i % 7}" for i in range(200)], dtype=pl.Categorical),
        tags=pl.Series([[f"t{i}"] * (i % 4) for i in range(200)], dtype=pl.List(pl.Categorical)),
    ).with_columns(
        a=pl.lit(True), b=pl.lit(1.5), c=pl.lit(b"x"), d=pl.lit("y" * 40), e=pl.struct("label", "site"),
        f=pl.concat_list("label").list.to_array(1), g=pl.lit(None, pl.List(pl.Null)),
        h=pl.lit("1.25").cast(pl.Decimal(20, 2)), i=pl.lit("2026-01-01").str.to_datetime(), j=pl.concat_list("tags"),
        k=pl.lit("p").cast(pl.Enum(["q", "p"])),
    )  # fmt: skip
    read = unpack(pack(frame))
    for name in frame.columns:
        assert read[name].cast(frame[name].dtype).to_list() == frame[name].to_list(), name
    for part in (frame[:0], frame[:1], frame[3:4]):
        assert unpack(pack(part)).shape == part.shape
    assert len(DECODER.from_packed([pack(frame)], 0).batch) == 200


@pytest.mark.parametrize("kind", ["plain", "dictionary"])
def test_damaged_bytes_of_every_kind_of_column_are_rejects(kind):
    frame = events(
        4, b=pl.lit(True), s=pl.struct("label", "site"), a=pl.concat_list("label").list.to_array(1)
    )
    if kind == "dictionary":
        frame = frame.with_columns(pl.col("site").cast(pl.Categorical))
    whole = pack(frame)
    rng = random.Random(5)
    values = []
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        values.append(bytes(damaged))
    decoded = DECODER.from_packed(values, 0)
    assert isinstance(decoded.batch, Batch)
    counted = np.bincount(decoded.index, minlength=len(values))
    for reject in decoded.rejects:
        counted[reject.index] += reject.rows
    assert (counted > 0).all(), "every message gave rows or was rejected"


def test_case_k7_the_content_type_is_recognised_in_any_spelling():
    def record(*headers):
        return SimpleNamespace(headers=headers)

    other = ARROW_CONTENT_TYPE.replace(b"stream", b"file")
    for name in ("content-type", "Content-Type", "CONTENT-TYPE"):
        for value in (ARROW_CONTENT_TYPE, ARROW_CONTENT_TYPE.upper(), ARROW_CONTENT_TYPE + b" ; v=1; x=y"):
            assert is_packed(record(("trace", None), (name, value)))
        assert not is_packed(record((name, None), (name, other), (name, b"application/json")))
    assert not is_packed(record())
    assert not is_packed(SimpleNamespace(headers=None))


def test_case_k7_rows_of_a_refused_message_are_counted_and_a_missing_header_is_named():
    value = to_arrow_message(events(50))
    [cut] = DECODER.from_packed([value[:-40]], 0).rejects
    assert (cut.reason, cut.rows) == ("arrow", 50)
    [reject] = DECODER.from_json([value], 0).rejects
    assert reject.reason == "json"
    assert reject.detail == (
        "this is an Arrow stream: send it with the header content-type: application/vnd.apache.arrow.stream"
    )


def test_a_message_that_is_too_large_is_not_walked(monkeypatch):
    monkeypatch.setattr("ecdctr.events.arrow.limits.MAX_BYTES", 1000)
    with pytest.raises(PackedError, match=r"has 1,\d\d\d bytes; at most 1,000 are read"):
        unpack(pack(events(3)))


def test_rows_after_the_end_of_a_stream_are_a_reject_that_counts_them_and_zeros_are_padding():
    rejects = rejects_among_good([good() + good(), good() + b"garbage"])
    assert [(r.reason, r.rows) for r in rejects] == [("arrow", 6), ("arrow", 3)]
    assert all("one stream a message" in r.detail for r in rejects)
    assert len(unpack(good() + bytes(56))) == 3
