"""The short forms of ``make chaos``."""

from __future__ import annotations

import pytest

from tests.chaos.cluster import ClusterChaos
from tests.chaos.harness import Chaos
from tests.support.apache_kafka import missing
from tests.support.waiting import allowance

pytestmark = [pytest.mark.slow, pytest.mark.broker, pytest.mark.timeout(900)]


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


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_brokers_that_die_or_hang_and_aborted_transactions_lose_and_double_nothing_and_health_is_true(
    tmp_path,
):
    outcome = ClusterChaos(
        tmp_path, rows=24_000, worker_kills=1, broker_kills=1, hang_s=25.0, rows_per_s=400.0, seed=1
    ).run()
    assert outcome.missed(allowance(45)) == [], (outcome.to_json(), outcome.verdict, outcome.lies[:5])
    assert outcome.aborted >= 5 and outcome.transactions >= 5
    assert (outcome.worker_kills, outcome.broker_kills) == (1, 1) and outcome.broker_hung_s >= 25
