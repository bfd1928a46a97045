"""Small logs for the tests of files: events in event order, written in several forms."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

T0 = 1_767_225_600_000
"""2026-01-01, ms."""
HOUR = 3_600_000


def event_rows(n: int = 2000, days: int = 3, seed: int = 1) -> list[dict[str, Any]]:
    """Events of 40 users and 30 items; every fourth is an ad."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        user, item = rng.randrange(40), rng.randrange(30)
        p = 0.1 + 0.5 * ((user * 7 + item * 3) % 10) / 10
        made.append(
            {
                "event_id": f"e{i}",
                "ts": T0 + i * days * 24 * HOUR // n,
                "user_id": f"u{user}",
                "item_id": f"i{item}",
                "label": int(rng.random() < p),
                "domain": "ad" if i % 4 == 3 else "natural",
                "category": f"c{item % 5}",
                "price": round(1 + item * 1.5, 2),
                "tags": [f"t{item % 3}", f"t{item % 4}"],
            }
        )
    return made


def good_events(n: int) -> pl.DataFrame:
    """Events without the column ``domain``."""
    return pl.DataFrame(event_rows(n, days=1)).drop("domain")


def write_lines(path: Path, lines: Iterable[bytes]) -> Path:
    """Write lines of bytes; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_json(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines; returns the path."""
    return write_lines(path, [json.dumps(row).encode() for row in rows])


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV, lists joined by ``|``; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0])]
    lines += [",".join(str("|".join(v) if isinstance(v, list) else v) for v in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
