"""Measurements that alert rules compare with their limits."""

import pytest

from ecdctr.events.time import DAY_MS
from ecdctr.monitor.alerts import Inputs, measure
from ecdctr.monitor.drift import MAKERS, Detectors
from ecdctr.monitor.quality import Forgetting
from ecdctr.monitor.settings import ProbeSettings, RuleSpec


def test_the_share_of_detectors_refers_to_all_detectors_that_exist(monkeypatch):
    monkeypatch.setitem(MAKERS, "another", MAKERS["adwin"])
    detectors = Detectors()
    found = {"domain": "ad", "arm": "actr", "signal": "ctr", "changes": 1, "last": DAY_MS, "level": 4.0}
    detectors.restore([{**found, "detector": name} for name in MAKERS if name != "another"])
    inputs = Inputs(DAY_MS, {}, None, detectors, dict, Forgetting(ProbeSettings()), None, [])
    (measured,) = measure(RuleSpec(name="changes", metric="drift.detectors", above=0.5), inputs)
    assert measured.value == pytest.approx((len(MAKERS) - 1) / len(MAKERS))
    assert measured.what.startswith(f"{len(MAKERS) - 1} of {len(MAKERS)} detectors")
