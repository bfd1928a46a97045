import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.events.schema import DERIVED_FIELDS, FeatureSchema
from ecdctr.events.settings import FeatureSpec, default_features
from ecdctr.state.errors import ConfigError


def test_columns_are_in_the_given_order():
    schema = FeatureSchema(
        [
            FeatureSpec(name="a"),
            FeatureSpec(name="x", kind="numeric"),
            FeatureSpec(name="b", kind="bag", max_length=5),
            FeatureSpec(name="y", kind="numeric"),
            FeatureSpec(name="c", dim=3),
        ],
        dim=8,
    )
    assert [(g.name, g.first_col, g.width, g.dim) for g in schema.categorical] == [
        ("a", 0, 1, 8),
        ("b", 1, 5, 8),
        ("c", 6, 1, 3),
    ]
    assert [(n.name, n.col) for n in schema.numeric] == [("x", 0), ("y", 1)]
    assert (schema.n_features, schema.n_dense) == (7, 2)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.integers(1, 500_000_000))
def test_buckets_run_from_one_to_the_number_configured(ids, buckets):
    group = FeatureSchema([FeatureSpec(name="f", buckets=buckets)], dim=2).categorical[0]
    encoded = group.encode(np.array(ids, dtype=np.uint64))
    assert encoded.dtype == np.int32
    assert encoded.min() >= 1
    assert encoded.max() <= buckets


def test_two_features_of_one_field_collide_independently():
    a, b = FeatureSchema(
        [
            FeatureSpec(name="a", field="user_id", buckets=50),
            FeatureSpec(name="b", field="user_id", buckets=50),
        ],
        dim=2,
    ).categorical
    ids = np.arange(2000, dtype=np.uint64)
    same_a = a.encode(ids)[:, None] == a.encode(ids)[None, :]
    same_b = b.encode(ids)[:, None] == b.encode(ids)[None, :]
    off = ~np.eye(len(ids), dtype=bool)
    # independent: of the pairs that collide in a, about one in fifty collides in b too
    assert same_b[same_a & off].mean() == pytest.approx(1 / 50, rel=0.1)


@pytest.mark.parametrize("field", sorted(DERIVED_FIELDS))
def test_values_of_a_derived_field_never_collide(field):
    n = DERIVED_FIELDS[field]
    group = FeatureSchema([FeatureSpec(name="t", field=field, buckets=n)], dim=2).categorical[0]
    assert sorted(group.encode(np.arange(n, dtype=np.uint64)).tolist()) == list(range(1, n + 1))


def test_fingerprint_is_the_same_in_another_process():
    code = (
        "from ecdctr.events.schema import FeatureSchema; from ecdctr.events.settings import default_features; "
        "import sys; sys.stdout.write(FeatureSchema(default_features(), dim=16).fingerprint())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert FeatureSchema(default_features(), dim=16).fingerprint() == other


def test_fingerprint_depends_on_the_columns_only():
    base = {"name": "f", "buckets": 10}
    plain = FeatureSchema([FeatureSpec(**base)], dim=16).fingerprint()
    for change in (
        {"buckets": 11},
        {"field": "g"},
        {"dim": 4},
        {"kind": "bag"},
        {"tpm": True},
        {"name": "h"},
    ):
        assert FeatureSchema([FeatureSpec(**{**base, **change})], dim=16).fingerprint() != plain, change
    # a default that is written out is the same configuration
    assert FeatureSchema([FeatureSpec(**base, field="f", dim=16)], dim=16).fingerprint() == plain


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "empty"),
        ([FeatureSpec(name="a"), FeatureSpec(name="a")], '"a"'),
        ([FeatureSpec(name="a", field="label")], "outcome"),
        ([FeatureSpec(name="a", field="@minute")], "@minute"),
        ([FeatureSpec(name="a", field="@hour", kind="numeric")], "@hour"),
    ],
)
def test_a_bad_list_is_refused_by_name(specs, message):
    with pytest.raises(ConfigError, match=message):
        FeatureSchema(specs, dim=4)


def test_group_by_name():
    schema = FeatureSchema(default_features(), dim=4)
    assert schema.group("item").first_col == 1
    with pytest.raises(ConfigError, match="nope"):
        schema.group("nope")
