"""Event files: every form gives the same rows, and nothing is dropped in silence."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.time import duration_ms
from ecdctr.replay.sources.event_files import EventFiles, find_files
from ecdctr.replay.sources.simulator import Simulator
from ecdctr.state.errors import DataError


@pytest.fixture(scope="module")
def simulator():
    return Simulator(3, days=4, live_from=0, users=100, items=40, natural_per_day=300, ads_per_day=20)


@pytest.fixture(scope="module")
def events(simulator):
    return pl.concat(simulator.frames()).with_columns(
        pl.col("domain").replace_strict({0: "natural", 1: "ad"})
    )


def batch_of(simulator, source):
    decoder = EventDecoder(simulator.feature_specs(), oracle_field="oracle")
    decoded = decoder.from_frame(pl.concat(source.frames(), how="diagonal_relaxed"))
    assert decoded.rejects == []
    return decoded.batch


def assert_same(a, b):
    for name in ("ts", "domain", "user", "item", "features", "dense", "label", "oracle"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def write(frame, path):
    name = path.name
    if ".parquet" in name:
        frame.write_parquet(path, row_group_size=100)
    elif ".csv" in name or ".tsv" in name:
        text = frame.write_csv(separator="\t" if ".tsv" in name else ",").encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    elif name.endswith(".zst"):
        frame.lazy().sink_ndjson(path, compression="zstd")
    else:
        text = frame.write_ndjson().encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


FORMS = [
    "e.jsonl",
    "e.ndjson",
    "e.jsonl.gz",
    "e.jsonl.zst",
    "e.parquet",
    "e.pq.parquet",
    "e.csv",
    "e.tsv",
    "e.csv.gz",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("features", [True, False])
def test_every_form_gives_the_rows_of_the_simulator(simulator, events, tmp_path, form, features):
    path = write(events, tmp_path / form)
    source = EventFiles(path, features=simulator.feature_specs() if features else None)
    assert_same(batch_of(simulator, source), batch_of(simulator, simulator))
    assert source.count() == (events.height if ".parquet" in form else None)
    assert source.extra_fields == ("oracle",)
    assert source.stragglers == 0


def test_a_folder_of_two_topics_is_merged_by_time(simulator, events, tmp_path):
    for domain in ("natural", "ad"):
        (tmp_path / f"domain={domain}").mkdir()
        rows = events.filter(pl.col("domain") == domain).drop("domain")
        half = rows.height // 2
        write(rows[:half], tmp_path / f"domain={domain}" / "b.jsonl")
        write(rows[half:], tmp_path / f"domain={domain}" / "a.parquet")
    (tmp_path / "notes.txt").write_text("not an event file")
    source = EventFiles(tmp_path)
    rows = pl.concat(source.frames(), how="diagonal_relaxed")
    assert rows["event_id"].to_list() == events["event_id"].to_list()
    assert rows["domain"].to_list() == events["domain"].to_list()
    assert source.stragglers == 0


def test_a_glob_and_a_domain_for_files_that_do_not_say(events, tmp_path):
    write(events[:500].drop("domain"), tmp_path / "1.parquet")
    write(events[500:].drop("domain"), tmp_path / "2.parquet")
    write(events, tmp_path / "other.jsonl")
    source = EventFiles(str(tmp_path / "*.parquet"), domain="ad")
    rows = pl.concat(source.frames())
    assert rows["event_id"].to_list() == events["event_id"].to_list()
    assert rows["domain"].unique().to_list() == ["ad"]
    assert source.count() == events.height


def test_disorder_within_the_window_is_set_right(simulator, events, tmp_path):
    rng = np.random.default_rng(0)
    shaken = (
        events.with_columns(at=pl.col("ts") + rng.integers(0, 3_600_000, events.height)).sort("at").drop("at")
    )
    path = write(shaken, tmp_path / "e.jsonl")
    rows = pl.concat(EventFiles(path, window="1h").frames())
    assert rows["event_id"].to_list() == events["event_id"].to_list()


def test_stragglers_are_counted_and_kept(events, tmp_path, monkeypatch):
    monkeypatch.setattr("ecdctr.replay.sources.files.formats.CHUNK_ROWS", 100)
    monkeypatch.setattr("ecdctr.replay.sources.merge.EventOrder.__init__.__defaults__", (100,))
    late = pl.concat([events[1:], events[:1]])
    source = EventFiles(write(late, tmp_path / "e.parquet"), window="1m")
    rows = pl.concat(source.frames())
    assert source.stragglers == 1
    assert sorted(rows["event_id"]) == sorted(events["event_id"])


def test_lines_that_are_no_events_are_rejected_one_by_one(simulator, events, tmp_path):
    lines = events.write_ndjson().splitlines()
    bad = ["{broken", "[1, 2]", '"text"', '{"ts": "never"}', "\x00"]
    for k, line in enumerate(bad):
        lines.insert(100 * k + 50, line)
    wrong = lines[7].replace('"x":', '"x":"nine","was":')
    path = tmp_path / "e.jsonl"
    path.write_text("\n".join([*lines[:7], wrong, *lines[8:], "", "  "]))
    source = EventFiles(path, features=simulator.feature_specs())
    decoder = EventDecoder(simulator.feature_specs())
    decoded = decoder.from_frame(pl.concat(source.frames(), how="diagonal_relaxed"))
    assert len(decoded.batch) == events.height - 1
    assert len(decoded.rejects) == len(bad) + 1


def test_columns_of_other_types_are_converted(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text(
        "domain,ts,user_id,item_id,label,code,price,tags\n"
        "natural,2026-01-01T00:00:00Z,7,i1,0,007,1.5,a|b\n"
        "ad,1767225601000,8,i2,1,08,,c\n"
        "ad,later,9,i2,1,08,2,\n"
    )
    from ecdctr.events.settings import FeatureSpec

    specs = [
        FeatureSpec(name="code"),
        FeatureSpec(name="price", kind="numeric"),
        FeatureSpec(name="tags", kind="bag"),
    ]
    rows = pl.concat(EventFiles(path, features=specs).frames())
    assert rows["ts"].to_list() == [1_767_225_600_000, 1_767_225_601_000, None]
    assert rows["code"].to_list() == ["007", "08", "08"]
    assert rows["price"].to_list() == [1.5, None, 2.0]
    assert rows["tags"].to_list() == [["a", "b"], ["c"], None]
    assert rows["label"].to_list() == [0.0, 1.0, 1.0]
    assert rows["event_id"].n_unique() == 3
    decoded = EventDecoder(specs).from_frame(rows)
    assert decoded.batch.dense[:, 0].tolist() == [1.5, 0.0]
    assert [(r.index, r.reason) for r in decoded.rejects] == [(2, "missing")]
    # Without the features, what looks like a number is one, and a code with leading zeros is not.
    guessed = pl.concat(EventFiles(path).frames())
    assert guessed["code"].to_list() == ["007", "08", "08"]
    assert guessed["price"].to_list() == [1.5, None, 2.0]


def test_parquet_with_typed_times_and_labels(tmp_path):
    frame = pl.DataFrame(
        {
            "domain": ["ad", "ad"],
            "ts": pl.Series([1_767_225_600_000, 1_767_225_601_000])
            .cast(pl.Datetime("ms"))
            .cast(pl.Datetime("ns")),
            "user_id": [1.0, None],
            "item_id": pl.Series(["a", "b"], dtype=pl.Categorical),
            "label": [True, False],
            "member": [True, None],
        }
    )
    rows = pl.concat(EventFiles(write(frame, tmp_path / "e.parquet")).frames())
    assert rows["ts"].to_list() == [1_767_225_600_000, 1_767_225_601_000]
    assert rows["user_id"].to_list() == [1, None]
    assert rows["label"].to_list() == [1, 0]
    assert rows["member"].to_list() == [1, None]


def test_errors_name_the_file_and_the_way_out(events, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        EventFiles(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no event files there"):
        EventFiles(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes\.txt: the suffix is none of \.jsonl"):
        EventFiles(tmp_path / "notes.txt")
    path = write(events.drop("domain"), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet does not distinguish natural rows from ads.*domain=ad"):
        list(EventFiles(path).frames())
    path = write(events.drop("label", "ts"), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has no column ts, label; it has domain, event_id"):
        list(EventFiles(path).frames())
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"c\.parquet cannot be read as parquet"):
        list(EventFiles(tmp_path / "c.parquet").frames())
    with pytest.raises(DataError, match="domain='both' is neither"):
        EventFiles(path, domain="both")
    with pytest.raises(DataError, match="'soon' is not a length of time"):
        duration_ms("soon")


def test_an_empty_file_gives_no_rows(events, tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert list(EventFiles(tmp_path / "a.jsonl").frames()) == []
    path = write(events[:0], tmp_path / "b.parquet")
    assert sum(f.height for f in EventFiles(path).frames()) == 0


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the tests may run as a user who may read everything
    with pytest.raises(DataError, match="closed: the folder cannot be read"):
        find_files(str(tmp_path))
    (tmp_path / "a.csv").write_text("a\n1\n")
    found = find_files(str(tmp_path))
    assert [f.name for f in found.files] == ["a.csv"]
    assert "closed: the folder cannot be read" in found.remarks[0]
