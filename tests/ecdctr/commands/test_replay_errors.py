"""What a replay says when its rows or its folder cannot be used."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from ecdctr.commands.replay import ReplayOptions, replay_source
from ecdctr.settings import load_settings
from ecdctr.state.errors import EcdctrError, RowsRejectedError
from tests.support.logged_events import event_rows, write_json

ROWS = event_rows(600)
SMALL = (
    "schedule.first_release_after=6h",
    "schedule.release_every=12h",
    "model.dim=4",
    "model.hidden=[8]",
    "model.natural_batch=64",
    "model.ad_batch=32",
    "model.threads=1",
    "model.transfer=reload",
    'features=[{name="user",field="user_id",buckets=100},{name="price",kind="numeric"}]',
)


def run(folder, path, **options):
    text = io.StringIO()
    console = Console(file=text, width=300)
    loaded = load_settings(None, (*SMALL, f"state.folder={json.dumps(str(folder / 'state'))}"), environ={})
    try:
        outcome = replay_source(console, console, loaded, str(path), folder / "out", ReplayOptions(**options))
    except EcdctrError as error:
        return error, text.getvalue(), None
    return None, text.getvalue(), outcome


@pytest.mark.slow
def test_rows_that_are_left_out_are_named_in_the_last_lines_the_page_and_the_json(tmp_path):
    rows = [row | {"price": "cheap"} if i == 5 else row for i, row in enumerate(ROWS)]
    error, text, outcome = run(tmp_path, write_json(tmp_path / "e.jsonl", rows))
    assert error is None
    sentence = f'1 row, type: price is "cheap", expected a number ({tmp_path}/e.jsonl, line 6)'
    assert f"left out: {sentence}" in text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["meta"]["left_out"] == [
        {
            "reason": "type",
            "rows": 1,
            "detail": 'price is "cheap", expected a number',
            "where": f"{tmp_path}/e.jsonl, line 6",
        }
    ]
    assert "price is &quot;cheap&quot;" in outcome.report.read_text()


def test_case_f4_a_replay_without_rows_or_without_most_of_them_is_an_error(tmp_path):
    path = write_json(tmp_path / "e.jsonl", [row | {"ts": row["ts"] // 1000} for row in ROWS])
    error, text, _ = run(tmp_path, path)
    assert isinstance(error, RowsRejectedError)
    assert error.exit_code == 6
    assert "every row was left out; 600 because ts is 1767225600, not within" in str(error)
    assert 'unit = "s"' in str(error)
    assert "begun to learn" not in text
    error, _, _ = run(tmp_path, write_json(tmp_path / "e.jsonl", ROWS), since="2030-01-01")
    assert isinstance(error, RowsRejectedError)
    assert "none of 600 rows was selected" in str(error)


@pytest.mark.slow
def test_case_f11_f12_dates_alone_and_no_click_are_said(tmp_path):
    day = 24 * 3_600_000
    rows = [row | {"ts": row["ts"] // day * day, "label": 0} for row in ROWS]
    error, text, outcome = run(tmp_path, write_json(tmp_path / "e.jsonl", rows))
    assert error is None
    assert "note: every event time is a full day" in text
    assert "no click: GAUC, AUC and NE are undefined" in text
    assert "nan" not in text
    assert "No ad was clicked" in outcome.report.read_text()


def test_case_f13_an_output_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "out").write_text("a file")
    error, _, _ = run(tmp_path, write_json(tmp_path / "e.jsonl", ROWS))
    assert error is not None
    assert f"--out {tmp_path}/out cannot be written" in str(error)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_empty_file_is_an_error(tmp_path, suffix):
    (tmp_path / f"e.{suffix}").write_text("")
    error, _, _ = run(tmp_path, tmp_path / f"e.{suffix}")
    assert isinstance(error, RowsRejectedError)
    assert "contains no rows" in str(error)
