from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.events.records import RecordReject
from ecdctr.streams.dead_letters.letter import DeadLetter, Form, identity_of, letters_of

LEAST = 800
"""More bytes than the least form of a letter of a topic with the longest name."""


def record(offset, value=b"v", headers=()):
    return SimpleNamespace(offset=offset, value=value, key=b"k", headers=headers)


def test_rows_of_a_packed_message_share_a_letter_for_each_reason():
    packed = record(7, b"packed", [("content-type", b"arrow")])
    rejects = [
        RecordReject(record(5), "json", "broken", None),
        RecordReject(packed, "label", "label is 2", 3),
        RecordReject(packed, "ts", "ts is 0", 4),
        RecordReject(packed, "label", "label is 5", 9),
    ]
    plain, label, ts = letters_of("ads", 1, rejects)
    assert (plain.offset, plain.rows, plain.events) == (5, (), 1)
    assert (label.offset, label.reason, label.rows, label.events) == (7, "label", (3, 9), 2)
    assert (ts.reason, ts.rows) == ("ts", (4,))
    message = label.message()
    assert (message.key, message.value) == (b"k", b"packed")
    headers = dict(message.headers)
    assert headers["content-type"] == b"arrow"
    assert (headers["ecdctr-rows"], headers["ecdctr-offset"], headers["ecdctr-partition"]) == (
        b"3,9",
        b"7",
        b"1",
    )
    assert "ecdctr-changed" not in headers


def test_thousands_of_rows_do_not_make_thousands_of_bytes_of_header():
    rejects = [RecordReject(record(1), "missing", "no label", row) for row in range(100_000)]
    (letter,) = letters_of("ads", 0, rejects)
    assert letter.events == 100_000
    assert len(dict(letter.message().headers)["ecdctr-rows"]) < 2000


def test_what_a_message_cannot_hold_is_replaced_and_stated():
    letter = DeadLetter(
        "ads", 0, 3, "json", "d", None, None,
        (("", b"x"), ("n\udcff", b"y"), ("trace", None), ("ecdctr-offset", b"9"), ("trace", b"z")),
    )  # fmt: skip
    message = letter.message()
    assert (message.value, message.key) == (b"", None)
    assert message.headers[:4] == [("", b"x"), (r"n\udcff", b"y"), ("trace", b""), ("trace", b"z")]
    own = dict(message.headers[4:])
    assert own["ecdctr-offset"] == b"3", "a header of an earlier letter is not taken for this one's"
    assert own["ecdctr-changed"].decode().split("; ") == [
        "null in the original: value",
        "null in the original: header trace",
        "headers left out: 1",
    ]


def test_smaller_forms_keep_the_key_and_the_origin_and_state_what_is_missing():
    value, key, note = b"x" * 900_000, b"user-1", b"h" * 100_000
    letter = DeadLetter("ads", 2, 5, "json", "d" * 50_000, value, key, (("note", note), ("after", b"a")))
    sizes = []
    for form in Form:
        message = letter.message(form)
        sizes.append(message.size)
        own = dict(message.headers)
        assert (own["ecdctr-topic"], own["ecdctr-partition"], own["ecdctr-offset"]) == (b"ads", b"2", b"5")
        assert own["ecdctr-reason"] == b"json"
        assert value.startswith(message.value)
        assert identity_of(SimpleNamespace(headers=message.headers)) == letter.identity()
        if form is not Form.LEAST:
            assert message.key == key
        if form is not Form.WHOLE:
            assert own["ecdctr-dropped-bytes"] == str(len(value) - len(message.value)).encode()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 40_000 and sizes[2] < 2_000 and sizes[3] < LEAST
    short = dict(letter.message(Form.SHORT).headers)
    assert short["ecdctr-changed"] == b"value cut from 900000 to 16384 bytes; headers left out: 2"


def test_a_letter_without_a_key_can_get_one():
    letter = DeadLetter("ads", 2, 5, "json", "d", b"v")
    assert letter.with_key().message().key == b"ads/2/5"
    assert letter.with_key().identity() == letter.identity()


_names = st.binary(max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape"))
_letters = st.builds(
    DeadLetter,
    topic=st.text("abc.-_", min_size=1, max_size=249),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    reason=st.sampled_from(["json", "missing", "loss"]),
    detail=st.text(st.characters(codec=None), max_size=300),
    value=st.none() | st.binary(max_size=300),
    key=st.none() | st.binary(max_size=300),
    headers=st.lists(st.tuples(_names, st.none() | st.binary(max_size=50)), max_size=9).map(tuple),
    rows=st.lists(st.integers(0, 10**6), max_size=20).map(tuple),
)


@given(_letters, st.sampled_from(Form))
def test_whatever_a_record_holds_its_letter_is_a_message_that_the_producer_takes(letter, form):
    message = letter.message(form)
    assert isinstance(message.value, bytes)
    assert message.key is None or isinstance(message.key, bytes)
    for name, content in message.headers:
        assert isinstance(content, bytes)
        assert name == name.encode("utf-8").decode("utf-8")
    assert identity_of(SimpleNamespace(headers=message.headers)) == letter.identity()
    if form is Form.LEAST:
        assert message.size < LEAST


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("offset", b"1" * 5_000),
        ("offset", b""),
        ("offset", b"-1"),
        ("offset", b"\xff\xfe"),
        ("offset", "٣".encode()),
        ("partition", b"first"),
        ("crc32", None),
    ],
)
def test_records_of_other_programs_have_no_identity(name, content):
    headers = dict(DeadLetter("ads", 0, 1, "json", "d", b"v").message().headers)
    headers[f"ecdctr-{name}"] = content
    assert identity_of(SimpleNamespace(headers=list(headers.items()))) is None
    assert identity_of(SimpleNamespace(headers=None)) is None
    assert identity_of(SimpleNamespace(headers=[("\udcff", b"x")])) is None
