"""``make bench``: every benchmark of this folder in its short form, and one table of what their last lines say.

Each script measures both sides in the same run and ends with one JSON object. These figures are ratios on a
noisy machine: the table names it, and nothing in the tests depends on them.
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
            f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(p.stem for p in scripts)}"
        )
    lines = [
        f"{_machine()}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        "| benchmark | seconds | last line |",
        "|---|---|---|",
    ]
    failed = 0
    for script in scripts:
        if options.names and script.stem not in options.names:
            continue
        seconds, result = _run(script, short=not options.full)
        failed += result is None
        lines.append(
            f"| `{script.name}` | {seconds:.0f} | {'failed' if result is None else f'`{json.dumps(result)}`'} |"
        )
    print("\n" + "\n".join(lines))
    if options.write:
        TABLE.write_text(
            "# Benchmarks\n\nWritten by `python benchmarks/run.py --write`.\n\n" + "\n".join(lines) + "\n",
            encoding="utf-8",
        )
    return 1 if failed else 0


def _run(script: Path, *, short: bool) -> tuple[float, dict[str, Any] | None]:
    """Run one script with its output shown; give its seconds and its last line."""
    print(f"\n== {script.name}", flush=True)
    knows_short = (
        "--short"
        in subprocess.run(
            [sys.executable, script, "--help"], capture_output=True, text=True, check=False
        ).stdout
    )
    began = time.monotonic()
    last = ""
    with subprocess.Popen(
        [sys.executable, script, *(["--short"] if short and knows_short else [])],
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
