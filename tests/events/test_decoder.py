import datetime
import json
import math
import random
from dataclasses import fields

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.events.batch import AD, NATURAL, Batch
from ecdctr.events.decoder import REASONS, EventDecoder, to_arrow_message, to_json_messages
from ecdctr.events.settings import FeatureSpec
from ecdctr.state.errors import ConfigError, DataError

SPECS = [
    FeatureSpec(name="user", field="user_id", buckets=1000),
    FeatureSpec(name="hour", field="@hour", buckets=24),
    FeatureSpec(name="weekday", field="@weekday", buckets=7),
    FeatureSpec(name="site", buckets=50),
    FeatureSpec(name="tags", kind="bag", buckets=100, max_length=3),
    FeatureSpec(name="price", kind="numeric", transform="log1p"),
    FeatureSpec(name="score", kind="numeric"),
]
DECODER = EventDecoder(SPECS, max_string=40, oracle_field="oracle")
GOOD = {
    "event_id": "e1",
    "ts": 1_700_000_000_000,
    "user_id": "u1",
    "item_id": 7,
    "label": 1,
    "site": "s",
    "tags": ["a", "b"],
    "price": 2.5,
    "score": -1,
}


def message(**changes):
    """A good event with changes; a value of ``...`` removes the field."""
    event = {**GOOD, **changes}
    return json.dumps({k: v for k, v in event.items() if v is not ...}).encode()


def same(a: Batch, b: Batch) -> None:
    for f in fields(Batch):
        if f.name == "parts":
            continue
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert (x is None) == (y is None), f.name
        if x is not None:
            assert x.dtype == y.dtype, f.name
            assert x.shape == y.shape, f.name
            assert x.tobytes() == y.tobytes(), f.name


text = st.text(st.characters(codec="utf-8"), max_size=10)
big = st.integers(-(2**63), 2**63 - 1)
number = st.none() | st.floats(-1e30, 1e30) | st.integers(-(2**53), 2**53).map(float)


def column(values, n):
    return st.lists(values, min_size=n, max_size=n)


@st.composite
def frames(draw):
    """Well-formed events; ids are strings in some columns and integers in others, as Arrow has it."""
    n = draw(st.integers(0, 20))
    ids = st.one_of(st.just(text), st.just(big))
    return pl.DataFrame(
        {
            "domain": pl.Series(draw(column(st.sampled_from(["natural", "ad"]), n)), dtype=pl.String),
            "event_id": draw(column(draw(ids), n)),
            "ts": pl.Series(draw(column(st.integers(946_684_800_000, 4_102_444_800_000), n)), dtype=pl.Int64),
            "user_id": draw(column(draw(ids), n)),
            "item_id": draw(column(draw(ids), n)),
            "label": pl.Series(draw(column(st.integers(0, 1), n)), dtype=pl.Int8),
            "list_id": draw(column(st.none() | draw(ids), n)),
            "site": draw(column(st.none() | draw(ids), n)),
            "tags": pl.Series(
                draw(column(st.none() | st.lists(text, max_size=5), n)), dtype=pl.List(pl.String)
            ),
            "price": pl.Series(draw(column(number, n)), dtype=pl.Float64),
            "score": pl.Series(draw(column(st.none() | st.integers(-(2**40), 2**40), n)), dtype=pl.Int64),
            "oracle": pl.Series(draw(column(st.none() | st.floats(0, 1), n)), dtype=pl.Float64),
            "unknown": pl.Series(draw(column(text, n)), dtype=pl.String),
        },
        strict=False,
    )


@pytest.mark.slow
@given(frames(), st.integers(1, 7))
@settings(max_examples=60)
def test_all_input_forms_give_the_same_bits(frame, rows_a_message):
    whole = DECODER.from_frame(frame)
    assert whole.rejects == []
    assert len(whole.batch) == len(frame)
    for domain, name in ((NATURAL, "natural"), (AD, "ad")):
        part = frame.filter(pl.col("domain") == name)
        expected = whole.batch.take(whole.batch.domain == domain)
        messages = to_json_messages(part)
        assert [key.decode() for key, _ in messages] == [str(u) for u in part["user_id"]]
        by_json = DECODER.from_json([value for _, value in messages], domain)
        same(by_json.batch, expected)
        same(DECODER.from_arrow(to_arrow_message(part), domain).batch, expected)
        cuts = range(0, len(part), rows_a_message)
        packed = DECODER.from_packed([to_arrow_message(part[i : i + rows_a_message]) for i in cuts], domain)
        same(packed.batch, expected)
        assert packed.index.tolist() == [row // rows_a_message for row in range(len(part))]
        # one at a time or together: a message does not depend on its neighbours
        if len(part):
            single = [DECODER.from_json([value], domain).batch for _, value in messages]
            same(Batch.concat(single), expected)


def test_values_equal_those_of_the_event():
    ts = 1_700_000_000_000
    batch = DECODER.from_json([message(site=None, tags=None), message(tags=["a", "b", "c", "d"])], AD).batch
    when = datetime.datetime.fromtimestamp(ts / 1000, datetime.UTC)
    hour, weekday = (DECODER.schema.group(name) for name in ("hour", "weekday"))
    assert batch.features[:, hour.first_col].tolist() == [1 + when.hour] * 2
    assert batch.features[:, weekday.first_col].tolist() == [1 + when.weekday()] * 2
    tags = batch.features[:, DECODER.schema.group("tags").columns]
    assert tags[0].tolist() == [0, 0, 0]
    assert (tags[1] > 0).all()  # the first three of four
    site = batch.features[:, DECODER.schema.group("site").first_col]
    assert site[0] == 0
    assert site[1] > 0
    np.testing.assert_allclose(batch.dense, [[math.log1p(2.5), -1.0]] * 2, rtol=1e-7)
    assert batch.domain.tolist() == [AD, AD]
    assert batch.list_id.tolist() == [0, 0]
    assert np.isnan(batch.oracle).all()


def test_a_bag_and_a_category_of_the_same_feature_hash_alike_in_any_position():
    one = DECODER.from_json([message(tags=["x"])], 0).batch
    other = DECODER.from_json([message(tags=["y", "x"])], 0).batch
    columns = DECODER.schema.group("tags").columns
    assert one.features[0, columns][0] == other.features[0, columns][1]


def test_integer_ids_are_their_decimal_digits():
    batch = DECODER.from_json([message(user_id=12, item_id=-3), message(user_id="12", item_id="-3")], 0).batch
    assert batch.user[0] == batch.user[1]
    assert batch.item[0] == batch.item[1]
    assert batch.user[0] != batch.item[0]


@pytest.mark.parametrize("digits", [19, 20, 38, 39, 40, 400, 4300, 5000])
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("other", ["u1", 5, None])
def test_an_integer_of_any_size_is_an_id_or_a_reject_and_its_neighbours_are_decoded(digits, sign, other):
    decoder = EventDecoder(SPECS, max_string=100)
    number = sign + "9" * digits
    keys = ("user_id", "item_id", "event_id", "site", "tags")
    large = [
        json.dumps(GOOD | {key: ["@"] if key == "tags" else "@"}).replace('"@"', number).encode()
        for key in keys
    ]
    texts = [line.replace(number.encode(), f'"{number}"'.encode()) for line in large]
    beside = message(site=other)
    for read in (decoder.from_json, decoder.from_lines):
        if read == decoder.from_lines:
            add = b', "domain": "natural"}'
            large, texts, beside = (
                [v[:-1] + add for v in large],
                [v[:-1] + add for v in texts],
                beside[:-1] + add,
            )
            decoded, wanted = read([beside, *large, beside]), read([beside, *texts, beside])
        else:
            decoded, wanted = read([beside, *large, beside], 0), read([beside, *texts, beside], 0)
        assert decoded.index.tolist() == wanted.index.tolist()
        same(decoded.batch, wanted.batch)
        accepted = digits + len(sign) <= 100
        assert len(decoded.rejects) == (0 if accepted else len(keys))
        assert {r.reason for r in decoded.rejects} <= {"long", "type"}


def test_the_hash_is_xxh64():
    # the test vectors of the reference implementation
    batch = DECODER.from_json([message(user_id="", item_id="a")], 0).batch
    assert (int(batch.user[0]), int(batch.item[0])) == (0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B)


BROKEN = {
    "json": [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        message()[:-5],
        message() + b"x",
        message() + message(),
        message(site="a").replace(b'"a"', b'"\xff"'),
        message().replace(b"2.5", b"NaN"),
        message(ts="wrong too")[:-1],
        b"[" * 5000,
    ],
    "missing": [message(**{name: ...}) for name in GOOD] + [message(user_id=None), message(ts=None)],
    "type": [
        b"[]",
        b"3",
        message(ts="1700000000000"),
        message(ts=1.7e12 + 0.5),
        message(user_id=True),
        message(item_id=[1]),
        message(site=1.5),
        message(tags="[a, [b]]"),
        message(tags=[None]),
        message(tags=[1.5]),
        message(price="2"),
        message(label="1"),
        message(tags=[True]),
        message(user_id=1e17),
        message(item_id=1.5),
        message(ts="yesterday"),
        message(list_id={}),
    ],
    "ts": [message(ts=0), message(ts=1_700_000_000), message(ts=10**15), message(ts=10**30)],
    "label": [message(label=2), message(label=-1), message(label=0.5), message(label=10**30)],
    "nan": [message(score=1e300), message().replace(b"2.5", b"1e999")],
    "long": [message(user_id="x" * 41), message(site="é" * 21), message(tags=["a", "x" * 41])],
}


@pytest.mark.parametrize("reason", BROKEN)
def test_each_broken_message_has_its_reason(reason):
    decoded = DECODER.from_json(BROKEN[reason], 0)
    assert len(decoded.batch) == 0
    assert [(r.index, r.reason) for r in decoded.rejects] == [(i, reason) for i in range(len(BROKEN[reason]))]


def test_broken_messages_leave_the_others_alone():
    rng = random.Random(7)
    values, expected, good = [], [], []
    for i in range(1000):
        if rng.random() < 0.5:
            reason = rng.choice(sorted(BROKEN))
            values.append(rng.choice(BROKEN[reason]))
            expected.append((i, reason))
        else:
            values.append(message(user_id=i))
            good.append(i)
    decoded = DECODER.from_json(values, 0)
    assert [(r.index, r.reason) for r in decoded.rejects] == expected
    assert decoded.index.tolist() == good
    same(decoded.batch, DECODER.from_json([values[i] for i in good], 0).batch)
    assert {r.reason for r in decoded.rejects} <= set(REASONS)


def test_faults_in_columns_have_the_reasons_of_faults_in_json():
    def frame(**changes):
        columns = {"domain": ["ad"] * 3, **{k: [v] * 3 for k, v in GOOD.items()}, **changes}
        return pl.DataFrame({k: v for k, v in columns.items() if v is not ...}, strict=False)

    cases = [
        ({"ts": [1_700_000_000_000, 5, None]}, {1: "ts", 2: "missing"}),
        ({"label": [1, 0, 2]}, {2: "label"}),
        ({"label": [1.0, 0.0, float("nan")]}, {2: "label"}),
        ({"label": ["1", "0", None]}, {0: "type", 1: "type", 2: "missing"}),
        ({"price": [float("nan"), float("inf"), None]}, {0: "nan", 1: "nan"}),
        ({"score": ["1", None, "2"]}, {0: "type", 2: "type"}),
        ({"site": [1.5, 2.5, None]}, {0: "type", 1: "type"}),
        ({"user_id": ["x" * 41, None, "u"]}, {0: "long", 1: "missing"}),
        ({"tags": [["a", None], None, []]}, {0: "type"}),
        ({"tags": ["a,b", "[[1]]", None]}, {1: "type"}),
        ({"item_id": ...}, dict.fromkeys(range(3), "missing")),
        ({"domain": ["ad", "adverts", None]}, {1: "type", 2: "type"}),
    ]
    for changes, expected in cases:
        decoded = DECODER.from_frame(frame(**changes))
        assert {r.index: r.reason for r in decoded.rejects} == expected, changes
        assert decoded.index.tolist() == [i for i in range(3) if i not in expected]
        if "domain" not in changes:
            by_arrow = DECODER.from_arrow(to_arrow_message(frame(**changes)), AD)
            assert [(r.index, r.reason) for r in by_arrow.rejects] == [
                (r.index, r.reason) for r in decoded.rejects
            ]


def test_packed_messages_of_several_shapes_keep_their_order():
    def packed(ids, **extra):
        return to_arrow_message(pl.DataFrame([{**GOOD, "user_id": i, **extra} for i in ids]))

    bad_row = to_arrow_message(pl.DataFrame([{**GOOD, "label": y} for y in (1, 5, 0, 7)]))
    categorical = pl.DataFrame([GOOD]).with_columns(pl.col("site").cast(pl.Categorical))
    values = [
        packed([1, 2]),
        packed(["3"], new_field=1.5),
        b"garbage",
        packed([4]),
        bad_row,
        to_arrow_message(categorical),
        None,
    ]
    decoded = DECODER.from_packed(values, 0)
    assert decoded.index.tolist() == [0, 0, 1, 3, 4, 4, 5]
    expected = DECODER.from_json([message(user_id=i) for i in (1, 2, "3", 4)], 0).batch
    np.testing.assert_array_equal(decoded.batch.user[:4], expected.user)
    assert [(r.index, r.row, r.reason) for r in decoded.rejects] == [
        (2, -1, "arrow"),
        (4, 1, "label"),
        (4, 3, "label"),
        (6, -1, "arrow"),
    ]
    site = DECODER.schema.group("site").first_col
    assert len(set(decoded.batch.features[:, site].tolist())) == 1


def test_damaged_arrow_is_a_reject_and_never_ends_the_process():
    good = to_arrow_message(pl.DataFrame([GOOD] * 4))
    rng = random.Random(3)
    values = []
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        values.append(bytes(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.2 else damaged))
    decoded = DECODER.from_packed([good, *values, good], 0)
    first = decoded.index == 0
    last = decoded.index == len(values) + 1
    same(decoded.batch.take(first), DECODER.from_arrow(good, 0).batch)
    same(decoded.batch.take(last), DECODER.from_arrow(good, 0).batch)
    # each message alone gives what it gives among others
    for i in range(0, len(values), 40):
        alone = DECODER.from_arrow(values[i], 0)
        same(alone.batch, decoded.batch.take(decoded.index == i + 1))


def test_rows_a_message_may_claim_are_bounded(monkeypatch):
    monkeypatch.setattr("ecdctr.events.arrow.limits.MAX_PACKED_ROWS", 3)
    decoded = DECODER.from_packed([to_arrow_message(pl.DataFrame([GOOD] * 4))], 0)
    assert [r.reason for r in decoded.rejects] == ["arrow"]
    assert "3" in decoded.rejects[0].detail


def test_nan_cannot_be_written_as_json():
    with pytest.raises(DataError, match="price"):
        to_json_messages(pl.DataFrame({"user_id": ["u"], "price": [float("nan")]}))


def test_a_frame_without_domain_is_refused():
    with pytest.raises(DataError, match="domain"):
        DECODER.from_frame(pl.DataFrame([GOOD]))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([FeatureSpec(name="a", field="list_id")], "never a feature"),
        ([FeatureSpec(name="a", field="ts", kind="numeric")], "never a feature"),
        ([FeatureSpec(name="a", field="x"), FeatureSpec(name="b", field="x", kind="numeric")], "choose one"),
        ([FeatureSpec(name="a", field="user_id", kind="numeric")], "choose one"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(specs, message):
    with pytest.raises(ConfigError, match=message):
        EventDecoder(specs)


def test_without_optional_columns():
    batch = EventDecoder(SPECS, list_field=None).from_json([message(list_id="x")], 0).batch
    assert batch.list_id is None
    assert batch.oracle is None
