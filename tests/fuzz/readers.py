"""Every way in which events are read, each with the same result: the accepted rows, and the number of rejected ones by reason."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import Decoded, EventDecoder, to_arrow_message
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources import EventFiles, MappedTables, SourceLog

__all__ = [
    "DECODER",
    "Result",
    "alone",
    "by_file",
    "by_mapping",
    "live_arrow",
    "live_json",
    "outcome",
    "write_csv",
]

SPECS = [
    FeatureSpec(name="user", field="user_id"),
    FeatureSpec(name="category"),
    FeatureSpec(name="price", kind="numeric"),
    FeatureSpec(name="tags", kind="bag", max_length=2),
    FeatureSpec(name="hour", field="@hour", buckets=24),
]
DECODER = EventDecoder(SPECS, max_string=40)

MAPPING = """
[[tables]]
path = "{path}"
domain = "natural"
[tables.columns]
ts = "ts"
user_id = "user_id"
item_id = "item_id"
label = "label"
event_id = "event_id"
list_id = "list_id"
[[features]]
name = "user"
field = "user_id"
[[features]]
name = "category"
[[features]]
name = "price"
kind = "numeric"
[[features]]
name = "tags"
kind = "bag"
max_length = 2
[[features]]
name = "hour"
field = "@hour"
buckets = 24
"""

Result = tuple[list[tuple[Any, ...]], dict[str, int]]
"""The rows in the order of time, and the number of rejected events by reason."""


def outcome(batch: Batch, rejects: dict[str, int]) -> Result:
    """What is compared."""
    assert batch.list_id is not None
    rows = zip(
        batch.ts.tolist(), batch.user.tolist(), batch.item.tolist(), batch.label.tolist(), batch.list_id.tolist(),
        batch.features.tolist(), [row.tobytes() for row in batch.dense], strict=True,
    )  # fmt: skip
    return sorted(rows), {reason: n for reason, n in sorted(rejects.items()) if n}


def _of_decoded(decoded: Decoded) -> Result:
    counts: Counter[str] = Counter()
    for reject in decoded.rejects:
        assert reject.detail
        assert reject.detail.isprintable(), reject.detail
        assert len(reject.detail) <= 300
        counts[reject.reason] += reject.rows
    return outcome(decoded.batch, counts)


def live_json(values: Sequence[bytes]) -> Result:
    """Messages with one JSON object each."""
    return _of_decoded(DECODER.from_json(values, 0))


def alone(values: Sequence[bytes]) -> Result:
    """The same, each message decoded without the others."""
    rows: list[tuple[Any, ...]] = []
    counts: Counter[str] = Counter()
    for value in values:
        found, rejected = live_json([value])
        assert len(found) + sum(rejected.values()) == 1
        rows += found
        counts.update(rejected)
    return sorted(rows), dict(sorted(counts.items()))


def live_arrow(frame: pl.DataFrame) -> Result:
    """One packed message."""
    return _of_decoded(DECODER.from_packed([to_arrow_message(frame)], 0))


def _read(source: Any) -> Result:
    log = SourceLog(source, DECODER)
    batches = [*log.batches()]
    for cause in log.rejects.causes():
        assert cause["detail"].isprintable()
    return outcome(Batch.concat(batches) if batches else DECODER.empty(), dict(log.rejects))


def by_file(path: Path) -> Result:
    """An event file."""
    return _read(EventFiles(path, domain="natural"))


def by_mapping(path: Path) -> Result:
    """The same file by a mapping that names each column."""
    mapping = path.with_suffix(".toml")
    mapping.write_text(MAPPING.format(path=path.name))
    return _read(MappedTables(mapping))


def write_lines(path: Path, lines: Sequence[bytes], *, mark: bytes = b"", end: bytes = b"\n") -> Path:
    """JSON lines."""
    content = mark + end.join(lines) + end
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A CSV file; lists become ids with bars between them."""

    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, list):
            return "|".join(value)
        return value if isinstance(value, str) else json.dumps(value)

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(list(rows[0]))
        writer.writerows([cell(value) for value in row.values()] for row in rows)
    return path


FRAME_WRITERS: dict[str, Callable[[pl.DataFrame, Path], Any]] = {
    "parquet": lambda frame, path: frame.write_parquet(path),
    "arrow": lambda frame, path: frame.write_ipc(path),
}
