"""The comparison of all arms: simulator seeds, and EB-NeRD if ECDCTR_DATA is set.

    python benchmarks/evidence.py [--short] [--seeds 11-15] [--jobs 1] [--keep FOLDER]

Runs ``ecdctr evidence`` and prints its page. The last line is one JSON object: ``share_closed`` (of the GAUC gap between
ads-only and the oracle), lower ends of the 95 % intervals of GAUC differences, and PCOC; null if a study was not run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from rich.console import Console

from ecdctr.studies.evidence import run_evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seeds", default=None)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--model-seeds", type=int, default=3, help="models per mapping of EB-NeRD")
    parser.add_argument(
        "--keep", type=Path, default=None, help="folder of stored runs, which are not repeated"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "evidence.md"
        _, found = run_evidence(
            Console(stderr=True),
            page,
            short=args.short,
            seeds=args.seeds,
            jobs=args.jobs,
            keep=args.keep,
            model_seeds=args.model_seeds,
        )
        print(page.read_text(encoding="utf-8"))
    print(json.dumps({"benchmark": "evidence", **found}))


if __name__ == "__main__":
    main()
