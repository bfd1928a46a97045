"""The short form of ``make chaos``."""

from __future__ import annotations

import pytest

from tests.chaos.harness import Chaos
from tests.support.waiting import allowance


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(900)
def test_kills_rebalances_and_a_take_over_lose_and_double_nothing(tmp_path):
    outcome = Chaos(tmp_path, rows=60_000, kills=4, rebalances=1, takeover=True, seed=1).run()
    assert outcome.lost == 0
    assert outcome.doubled == 0
    assert outcome.verdict.startswith("identical"), outcome.verdict
    assert outcome.kills == 4
    assert outcome.months >= 3, "months close in the stream, and are as they were after every kill"
    assert outcome.rebalances == 1
    assert outcome.exit_code == 0
    assert outcome.end_s is not None and outcome.end_s < allowance(10)
    assert outcome.takeover_s is not None and outcome.takeover_s < allowance(10)
