"""``python -m tests.mutants [MODULE ...]``: how many small faults in a module its own tests notice; 1 if too few."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutants.mutations import Mutant, mutants_of, sample
from tests.mutants.targets import TARGETS
from tests.mutants.trial import Target, run_tests, warm_up


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "modules", nargs="*", help="such as state.positions; default: all of tests/mutants/targets.py"
    )
    parser.add_argument(
        "--sample", type=int, default=40, help="mutants of a module at most; 0: all (default: 40)"
    )
    parser.add_argument(
        "--least", type=float, default=0.85, help="share of killed mutants below which the exit code is 1"
    )
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    options = parser.parse_args()
    unknown = set(options.modules) - {target.module for target in TARGETS}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not in tests/mutants/targets.py")
    rows = []
    for target in TARGETS:
        if options.modules and target.module not in options.modules:
            continue
        source = target.path.read_text(encoding="utf-8")
        everything = list(mutants_of(source))
        chosen = sample(everything, options.sample)
        if options.list:
            print(
                *(f"{target.module}, {mutant.difference(source)}" for mutant in chosen),
                sep="\n\n",
                end="\n\n",
            )
        else:
            rows.append((target.module, len(everything), len(chosen), survivors(target, source, chosen)))
    return 0 if options.list else report(rows, options.least)


def survivors(target: Target, source: str, mutants: list[Mutant]) -> int:
    """Number of mutants with which all tests of a target pass; prints each."""
    alive = 0
    with tempfile.TemporaryDirectory(prefix="ecdctr-mutants-") as temporary:
        folder = Path(temporary)
        seconds = warm_up(target, folder)
        intact = run_tests(target, source, folder, seconds, 600.0, 600.0)
        if not intact.passed:
            output = (folder / "output.txt").read_text(encoding="utf-8")
            sys.exit(f"{target.module}: its tests fail without a mutant\n{output}")
        limits = 2 * intact.processor_s + 2, 5 * intact.wall_s + 30
        for mutant in mutants:
            if run_tests(target, mutant.applied(source), folder, seconds, *limits).passed:
                print(f"\nsurvived: {target.module}, {mutant.difference(source)}", flush=True)
                alive += 1
    return alive


def report(rows: list[tuple[str, int, int, int]], least: float) -> int:
    """Print the table; 1 if a module is below ``least``."""
    print(f"\n{'module':30} {'mutants':>8} {'tested':>7} {'killed':>7} {'survived':>9} {'share':>6}")
    low = 0
    for module, everything, tested, alive in rows:
        share = 1 - alive / tested if tested else 1.0
        low += share < least
        print(f"{module:30} {everything:8} {tested:7} {tested - alive:7} {alive:9} {share:6.0%}")
    if low:
        print(
            f"{low} of {len(rows)} modules are below {least:.0%}: more small faults than that would go unnoticed"
        )
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
