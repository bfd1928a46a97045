"""What `ecdctr drift` says about logs in which something has ended."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from ecdctr.commands.drift import drift_source
from ecdctr.settings import load_settings
from ecdctr.state.errors import RowsRejectedError
from tests.support.logged_events import event_rows, write_json

FEATURES = (
    'features=[{name="user",field="user_id",buckets=1000},{name="item",field="item_id",buckets=1000},'
    '{name="category",buckets=100},{name="price",kind="numeric",transform="log1p"}]'
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return write_json(tmp_path_factory.mktemp("reference") / "r.jsonl", event_rows(2000, days=4, seed=2))


def drift(folder, rows, reference):
    text = io.StringIO()
    console = Console(file=text, width=300)
    path = write_json(folder / "e.jsonl", rows)
    loaded = load_settings(None, (FEATURES, f"state.folder={json.dumps(str(folder / 'state'))}"), environ={})
    found = drift_source(console, console, loaded, str(path), str(reference), folder / "out")
    return found["result"]["things"], text.getvalue()


def test_case_d1_clicks_that_end_are_the_largest_change(tmp_path, reference):
    things, text = drift(
        tmp_path, [row | {"label": 0} for row in event_rows(2000, days=4, seed=3)], reference
    )
    first = things[0]
    assert first["what"] == "label"
    assert first["days_moved"] >= 3
    assert first["effect"] > 3
    assert "-> 0.00%" in first["description"]
    assert "CTR" in text
    assert "nothing has changed" not in text


def test_the_same_clicks_are_no_change(tmp_path, reference):
    things, text = drift(tmp_path, event_rows(2000, days=4, seed=3), reference)
    assert not [t for t in things if t["what"] == "label" and t["days_moved"]]
    assert "nothing has changed" in text


def test_case_d2_a_field_that_is_null_in_both_streams_is_one_finding(tmp_path, reference):
    things, text = drift(
        tmp_path, [row | {"category": None} for row in event_rows(2000, days=4, seed=4)], reference
    )
    [found] = [t for t in things if t["name"] == "category" and t["what"] == "feature"]
    assert found["domain"] == "both"
    assert found["effect"] > 1
    assert found["days_moved"] >= 3
    assert "in both streams at once, so probably a change of a producer" in found["description"]
    assert "-1.00" not in text
    page = (tmp_path / "out" / "drift.html").read_text()
    assert "both streams" in page


def test_case_d3_a_log_without_readable_rows_is_an_error(tmp_path, reference):
    with pytest.raises(RowsRejectedError, match=r'every row was left out; 2,000 because ts is "x", expected'):
        drift(tmp_path, [row | {"ts": "x"} for row in event_rows(2000, days=4, seed=5)], reference)
    bad = write_json(tmp_path / "bad.jsonl", [row | {"ts": "x"} for row in event_rows(200)])
    with pytest.raises(RowsRejectedError, match=r"reference .*every row was left out"):
        drift(tmp_path, event_rows(200), bad)
