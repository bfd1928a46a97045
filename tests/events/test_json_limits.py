import json
import random
import sys

import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.json_limits import MAX_DEPTH, beyond_limits
from ecdctr.events.settings import FeatureSpec

DECODER = EventDecoder([FeatureSpec(name="site")])
GOOD = {"event_id": 1, "ts": 1_767_225_600_000, "user_id": "u", "item_id": "i", "label": 1, "site": "a"}


def nested(levels: int) -> bytes:
    value: object = 1
    for number in range(levels - 1):
        value = [value] if number % 2 else {"a": value, "b": '["\\'}
    return json.dumps(GOOD | {"unread": value}).encode()


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def test_depth_is_that_of_the_values_whatever_stands_in_the_texts():
    rng = random.Random(4)

    def value(depth: int) -> object:
        kind = rng.random()
        if depth > 75 or kind < 0.05:
            return rng.choice(["[" * 99, '"' * 3, "\\", '\\"[', "{" * 50, 1, None, "]" * 9])
        inner = value(depth + 1)
        return [inner, "[["] if kind < 0.5 else {rng.choice(["a", '"[', "\\"]): inner, "b": '{"'}

    seen = set()
    for _ in range(300):
        made = value(0)
        found = beyond_limits(json.dumps(made).encode())
        assert (found is not None) == (depth_of(made) > MAX_DEPTH)
        seen.add(found)
    assert len(seen) == 2


@pytest.mark.parametrize("stack", [0, 500])
def test_a_deep_event_is_the_same_reject_however_deep_the_caller_is(stack):
    """The parser's own limit is what the caller leaves of Python's stack: 950 levels were read in one place and not in another."""

    def called(levels: int, value: bytes):
        return (
            called(levels - 1, value)
            if levels
            else (DECODER.from_json([value], 0), DECODER.from_lines([value], defaults={"domain": "ad"}))
        )

    assert sys.getrecursionlimit() >= 1000
    for levels, rejected in ((MAX_DEPTH, 0), (MAX_DEPTH + 1, 1), (450, 1), (950, 1), (100_000, 1)):
        value = (
            nested(levels)
            if levels < 900
            else nested(3).replace(b'"unread"', b'"x":' + b"[" * levels + b"]" * levels + b',"unread"')
        )
        for decoded in called(stack, value):
            assert len(decoded.rejects) == rejected
            for reject in decoded.rejects:
                assert (reject.reason, reject.detail) == (
                    "json",
                    "the event is nested more than 64 levels deep",
                )


def test_a_large_event_is_a_reject_with_its_size():
    value = json.dumps(GOOD | {"unread": "x" * (8 << 20)}).encode()
    [reject] = DECODER.from_json([value], 0).rejects
    assert (reject.reason, reject.detail) == (
        "json",
        f"the event has {len(value):,} bytes; at most 8,388,608 are read",
    )


def test_an_id_of_thousands_of_digits_is_named_as_what_it_is():
    value = json.dumps(GOOD).replace('"u"', "9" * 5000).encode()
    [reject] = DECODER.from_json([value], 0).rejects
    assert reject.reason == "type"
    assert "user_id" in reject.detail
