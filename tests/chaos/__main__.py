"""``python -m tests.chaos --brokers apache``: the long form; exit code 0 when nothing broke, and its last line is JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tests.chaos.cluster import ClusterChaos, stderr
from tests.chaos.harness import Chaos

LONGEST_WITHOUT_STEP_S = 45.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--brokers", choices=("embedded", "apache"), default="embedded",
        help="embedded: workers are killed, members join the group, a standby takes over; apache: three nodes of Apache Kafka, "
        "of which some are killed and one hangs, while workers are killed and transactions are aborted",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, help="rows in the log (embedded: 500,000; apache: 300,000)")
    parser.add_argument("--kills", type=int, help="kill -9 of the worker (embedded: 25; apache: 12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep logs and state here (default: a temporary folder)")
    embedded = parser.add_argument_group("embedded")
    embedded.add_argument(
        "--rebalances", type=int, default=5, help="times a foreign member joins and leaves the group"
    )
    embedded.add_argument("--decoders", type=int, default=0, help="processes that decode beside the worker")
    apache = parser.add_argument_group("apache")
    apache.add_argument("--broker-kills", type=int, default=3, help="kill -9 of a broker")
    apache.add_argument("--hang", type=float, default=120.0, help="seconds for which a broker is suspended")
    apache.add_argument("--rate", type=float, default=900.0, help="rows sent per second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ecdctr-chaos-") as temporary:
        folder = options.folder or Path(temporary)
        return _apache(folder, options) if options.brokers == "apache" else _embedded(folder, options)


def _embedded(folder: Path, options: argparse.Namespace) -> int:
    chaos = Chaos(
        folder, rows=options.rows or 500_000, kills=options.kills or 25, rebalances=options.rebalances, takeover=True,
        seed=options.seed, decoders=options.decoders,
    )  # fmt: skip
    outcome = chaos.run()
    print(outcome)
    good = (
        outcome.lost == outcome.doubled == 0
        and outcome.verdict.startswith("identical")
        and outcome.exit_code == 0
    )
    return 0 if good else 1


def _apache(folder: Path, options: argparse.Namespace) -> int:
    chaos = ClusterChaos(
        folder, rows=options.rows or 300_000, worker_kills=options.kills or 12, broker_kills=options.broker_kills,
        hang_s=options.hang, rows_per_s=options.rate, seed=options.seed, say=stderr,
    )  # fmt: skip
    outcome = chaos.run()
    for lie in outcome.lies:
        stderr(f"lie: {lie}")
    stderr(f"final parameters against an uninterrupted run of the same journal: {outcome.verdict}")
    missed = outcome.missed(LONGEST_WITHOUT_STEP_S)
    if missed:
        stderr(f"not kept: {', '.join(missed)}")
    print(json.dumps(outcome.to_json()))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
