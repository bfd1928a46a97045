"""Odd events mean the same in every form, and none is an exception.

``make test`` runs a fixed sample; ``make fuzz`` runs many more, other ones each time, and prints those that fail.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ecdctr.events.decoder import to_arrow_message
from ecdctr.events.isolation import DecodingProcess
from tests.fuzz.odd_values import FIELDS, T0, json_line, json_lines, odd_frame, plain_table, text_table
from tests.fuzz.readers import (
    DECODER,
    FRAME_WRITERS,
    alone,
    by_file,
    by_mapping,
    live_arrow,
    live_json,
    write_csv,
    write_lines,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Examples of each test; 0: the fixed sample. With ``FUZZ_QUICK=1`` an example that fails is printed as it was found, without a search for a
smaller one."""


def budget(examples: int):
    """A fixed sample of so many examples, or as many as ``FUZZ_EXAMPLES`` asks for."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        print_blob=bool(EXAMPLES),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[p for p in Phase if p not in (Phase.shrink, Phase.explain)]
        if os.environ.get("FUZZ_QUICK")
        else list(Phase),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@given(lines=json_lines())
@budget(25)
def test_json_lines_mean_the_same_live_in_files_and_by_a_mapping(folder, lines):
    lines = [json_line(event_id='"first"'), *lines]
    expected = live_json(lines)
    assert alone(lines) == expected
    assert by_file(write_lines(folder / "a.jsonl", lines)) == expected
    assert by_file(write_lines(folder / "b.jsonl.gz", lines, mark=b"\xef\xbb\xbf", end=b"\r\n")) == expected
    rows, rejects = by_mapping(write_lines(folder / "c.jsonl", lines))
    assert len(rows) + sum(rejects.values()) == len(lines)


@pytest.mark.slow
@given(frame=odd_frame())
@budget(40)
def test_columns_mean_the_same_live_in_files_and_by_a_mapping(folder, frame):
    results = {}
    for kind, write in FRAME_WRITERS.items():
        path = folder / f"e.{kind}"
        write(frame, path)
        results[kind] = by_file(path)
        # A mapping takes an absent column for missing values.
        if set(FIELDS) <= set(frame.columns):
            results[f"mapping, {kind}"] = by_mapping(path)
    expected = results["parquet"]
    assert sum(expected[1].values()) + len(expected[0]) == len(frame)
    # Text in a column of numbers is read in files only.
    texts = [
        name for name in ("ts", "label", "price") if name in frame.columns and frame[name].dtype == pl.String
    ]
    if not texts:
        results["live"] = live_arrow(frame)
        results["one by one"] = _one_by_one(frame)
    for name, found in results.items():
        assert found == expected, name


def _one_by_one(frame: pl.DataFrame):
    rows, counts = [], {}
    for i in range(len(frame)):
        found, rejected = live_arrow(frame[i : i + 1])
        rows += found
        for reason, n in rejected.items():
            counts[reason] = counts.get(reason, 0) + n
    return sorted(rows), dict(sorted(counts.items()))


@pytest.mark.slow
@given(table=plain_table())
@budget(30)
def test_plain_values_mean_the_same_in_json_in_columns_and_in_csv(folder, table):
    expected = live_json([json.dumps(row).encode() for row in table])
    frame = pl.DataFrame(table, infer_schema_length=None)
    results = {"arrow": live_arrow(frame), "csv": by_file(write_csv(folder / "p.csv", table))}
    results["mapping, csv"] = by_mapping(folder / "p.csv")
    frame.write_parquet(folder / "p.parquet")
    results["parquet"] = by_file(folder / "p.parquet")
    for name, found in results.items():
        assert found == expected, name


@pytest.mark.slow
@given(table=text_table())
@budget(30)
def test_text_means_the_same_in_csv_and_by_a_mapping_and_each_row_is_accepted_or_rejected(folder, table):
    path = write_csv(folder / "t.csv", table)
    rows, rejects = by_file(path)
    assert len(rows) + sum(rejects.values()) == len(table)
    assert by_mapping(path) == (rows, rejects)
    parts = [by_file(write_csv(folder / "o.csv", [row])) for row in table]
    assert sorted(row for found, _ in parts for row in found) == rows
    # Quotes around every cell, and another separator, change nothing.
    text = (
        "\n".join("\t".join(row.values()) for row in [dict(zip(table[0], table[0], strict=True)), *table])
        + "\n"
    )
    if not any(c in text.replace("\n", "").replace("\t", "") for c in '"\r') and text.count("\t") == 8 * (
        len(table) + 1
    ):
        (folder / "t.tsv").write_text(text, encoding="utf-8")
        assert by_file(folder / "t.tsv") == (rows, rejects)


@pytest.fixture(scope="module")
def process():
    made = DecodingProcess(DECODER)
    yield made
    made.close()


@pytest.mark.slow
@given(frame=odd_frame(), seed=st.integers(0, 2**32))
@budget(10)
def test_damaged_arrow_is_rejected_and_never_ends_its_reader(process, frame, seed):
    rng = random.Random(seed)
    whole = to_arrow_message(frame)
    values = [whole]
    for _ in range(20):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 2, 127, 128, 255, rng.randrange(256)])
        if rng.random() < 0.1:
            del damaged[rng.randrange(len(damaged)) :]
        values.append(bytes(damaged))
    decoded = process.decode(values, [True] * len(values), 0)
    assert "crash" not in {r.reason for r in decoded.rejects}
    seen = set(decoded.index.tolist()) | {r.index for r in decoded.rejects}
    assert seen == set(range(len(values)))
    assert T0 not in seen
