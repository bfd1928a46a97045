"""The figures as Parquet and CSV files."""

from __future__ import annotations

import csv

import polars as pl

from ecdctr.replay.report import write_tables

NAMES = ['=HYPERLINK("http://x")', "+1", "-2+3", "@SUM(A1)", "\tx", "plain", "a=b", "[/x]"]


def test_case_s18_a_name_that_a_spreadsheet_would_run_is_written_as_text(tmp_path):
    rows = [
        {"slice": "category", "value": name, "domain": "ad", "arm": "actr", "n": 3, "difference": -0.25}
        for name in NAMES
    ]
    write_tables(tmp_path, {"days": {}, "slices": rows}, csv=True)
    with (tmp_path / "slices.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["value"] for row in found] == [f"'{name}" for name in NAMES[:5]] + NAMES[5:]
    assert {row["difference"] for row in found} == {"-0.25"}, "numbers stay numbers"
    assert pl.read_parquet(tmp_path / "slices.parquet")["value"].to_list() == NAMES
