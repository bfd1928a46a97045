"""``make bench``: runs every benchmark of this folder in its short form and writes one table of their results.

    python benchmarks/run.py [--write] [--full] [NAME ...]

Each script measures all candidates in the same run and ends with one JSON object. The figures are ratios on a noisy
machine; the table names the machine, and no test depends on them. With names, only these scripts are run; ``--write``
then replaces their lines in the table and leaves the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Not from this folder: its modules have names that other packages use, too.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

from tests.support.apache_kafka import missing

TABLE = HERE.parent / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="benchmarks to run, without .py (default: all)")
    parser.add_argument("--full", action="store_true", help="the full form of each")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(HERE.parent)}")
    options = parser.parse_args()
    scripts = sorted(
        p for p in HERE.glob("*.py") if p.name not in ("run.py", "__init__.py") and not p.name.startswith("_")
    )
    unknown = set(options.names) - {p.stem for p in scripts}
    if unknown:
        parser.error(
            f"there is no benchmark {', '.join(sorted(unknown))}; the benchmarks are {', '.join(p.stem for p in scripts)}"
        )
    form = "full" if options.full else "short"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    rows = {}
    failed = 0
    began = time.monotonic()
    for script in scripts:
        if options.names and script.stem not in options.names:
            continue
        for variant in _variants(script):
            seconds, result = _run(script, *variant, short=not options.full)
            failed += result is None
            shown = "failed" if result is None else f"`{json.dumps(result)}`"
            name = " ".join([script.name, *variant])
            rows[name] = f"| `{name}` | {today}, {form} | {seconds:.0f} | {shown} |"
    print("\n" + "\n".join([_machine(), *rows.values()]))
    print(f"\n{len(rows)} benchmarks in {(time.monotonic() - began) / 60:.1f} minutes, {failed} failed")
    if options.write:
        _write(rows, {script.name for script in scripts})
    return 1 if failed else 0


def _write(rows: dict[str, str], known: set[str]) -> None:
    """Write these lines to the table; lines of other scripts that still exist are left unchanged."""
    there = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    old = {line.split("`")[1]: line for line in there if line.startswith("| `") and line.count("|") >= 5}
    retained = {name: line for name, line in old.items() if name.split()[0] in known and name not in rows}
    head = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`python benchmarks/run.py --write`); the `--help` of each script explains its figures.",
        "",
        f"{_machine()}.",
        "",
        "| benchmark | run | seconds | last line |",
        "|---|---|---|---|",
    ]
    lines = [line for _, line in sorted((retained | rows).items())]
    TABLE.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


def _variants(script: Path) -> list[list[str]]:
    """Options of the runs of a script: those with a broker also run on Apache Kafka, where it is installed."""
    if "--brokers" in _help(script) and missing() is None:
        return [[], ["--brokers", "apache"]]
    return [[]]


def _help(script: Path) -> str:
    return subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=False
    ).stdout


def _run(script: Path, *arguments: str, short: bool) -> tuple[float, dict[str, Any] | None]:
    """Run one script and show its output; returns its seconds and its last line."""
    print(f"\n== {' '.join([script.name, *arguments])}", flush=True)
    has_short = "--short" in _help(script)
    began = time.monotonic()
    last = ""
    with subprocess.Popen(
        [sys.executable, script, *arguments, *(["--short"] if short and has_short else [])],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
    seconds = time.monotonic() - began
    try:
        found = json.loads(last)
    except ValueError:
        found = None
    return seconds, found if process.returncode == 0 and isinstance(found, dict) else None


def _machine() -> str:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}"


if __name__ == "__main__":
    raise SystemExit(main())
