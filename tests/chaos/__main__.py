"""``python -m tests.chaos --kills 25 --rows 500000``: the long form; exit code 0 when nothing broke."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.chaos.harness import Chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="rows in the log")
    parser.add_argument("--kills", type=int, default=25, help="kill -9 of the worker")
    parser.add_argument(
        "--rebalances", type=int, default=5, help="times a foreign member joins and leaves the group"
    )
    parser.add_argument("--decoders", type=int, default=0, help="processes that decode beside the worker")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ecdctr-chaos-") as folder:
        chaos = Chaos(
            Path(folder), rows=options.rows, kills=options.kills, rebalances=options.rebalances, takeover=True, seed=options.seed,
            decoders=options.decoders,
        )  # fmt: skip
        outcome = chaos.run()
    print(outcome)
    good = (
        outcome.lost == outcome.doubled == 0
        and outcome.verdict.startswith("identical")
        and outcome.exit_code == 0
    )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
