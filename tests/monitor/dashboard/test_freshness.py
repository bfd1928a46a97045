"""Ages in logarithmic classes, against numpy on the ages themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ecdctr.monitor.dashboard.freshness import SHOWN_S, Freshness, LogCounts


@settings(max_examples=60)
@given(st.lists(st.floats(0.001, 1e8), min_size=1, max_size=300), st.floats(0.001, 1))
def test_the_error_of_quantiles_is_at_most_half_a_class(values, q):
    counts = LogCounts()
    counts.add(values)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    assert counts.quantile(q) == pytest.approx(exact, rel=0.03)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.floats(-5, 1e9), st.sampled_from(SHOWN_S)), max_size=200))
def test_the_histogram_is_exact(values):
    freshness = Freshness(("ad",), span_s=60, now=lambda: 0.0)
    freshness.add("ad", np.array(values))
    registry = CollectorRegistry()
    registry.register(freshness)
    samples = [
        s for f in text_string_to_metric_families(generate_latest(registry).decode()) for s in f.samples
    ]
    buckets = {float(s.labels["le"]): s.value for s in samples if s.name.endswith("_bucket")}
    assert buckets == {b: sum(v <= b for v in values) for b in (*SHOWN_S, float("inf"))}
    assert next(s.value for s in samples if s.name.endswith("_count")) == len(values)


def test_quantiles_drop_old_ages():
    now = [0.0]
    freshness = Freshness(("natural", "ad"), span_s=60, now=lambda: now[0])
    freshness.add("ad", np.full(1000, 500.0))
    now[0] = 31
    freshness.add("ad", np.full(10, 2.0))
    assert freshness.quantiles("ad", (0.5,))[0] == pytest.approx(500, rel=0.03)
    now[0] = 62
    assert freshness.quantiles("ad", (0.5, 0.99)) == pytest.approx([2.0, 2.0], rel=0.03)
    assert np.isnan(freshness.quantiles("natural", (0.5,))[0])
    now[0] = 1000
    assert np.isnan(freshness.quantiles("ad", (0.5,))[0])
