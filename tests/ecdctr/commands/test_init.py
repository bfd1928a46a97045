"""``ecdctr init`` on logs of other systems: what it writes is replayed without an edit, and every row is accounted for."""

from __future__ import annotations

import io
import json
import os
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from ecdctr.commands.init import Written, init_files, parse_roles
from ecdctr.commands.init_topics import init_topics
from ecdctr.commands.replay import ReplayOptions, replay_source
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.settings import KafkaSettings
from ecdctr.replay.sources import MappedTables, SourceLog
from ecdctr.settings import load_settings
from ecdctr.state.errors import ConfigError, DataError, RowsRejectedError, StreamError
from ecdctr.streams.doctor import TopicRows
from ecdctr.streams.producer import produce
from ecdctr.streams.settings import TopicSettings
from ecdctr.streams.topics import ensure_topics
from tests.support.brokers import unique_name
from tests.support.foreign_logs import LOGS, impressions
from tests.support.logged_events import event_rows, write_csv, write_json

FAST = ("model.dim=4", "model.hidden=[8]", "model.threads=1", "model.transfer=reload", "model.cross_layers=1")
CLICKS = sum(row["clicked"] for row in impressions())


def first_look(folder: Path, paths: list[Path], *use: str) -> tuple[Written, str]:
    text = io.StringIO()
    written = init_files(
        Console(file=text, width=200),
        [str(p) for p in paths],
        folder / "out",
        rows=20_000,
        roles=parse_roles(use),
        force=False,
    )
    return written, text.getvalue()


def replayed(folder: Path, written: Written) -> dict:
    """Facts of the replay of what was written, from its report."""
    console = Console(file=io.StringIO())
    state = f"state.folder={json.dumps(str(folder / 'state'))}"
    loaded = load_settings(written.config, (*FAST, state), environ={})
    replay_source(
        console, console, loaded, f"map:{written.mapping}", folder / "first", ReplayOptions(quiet=True)
    )
    return json.loads((folder / "first" / "report.json").read_text())


def columns(written: Written, table: int = 0) -> dict:
    return tomllib.loads(written.mapping.read_text(encoding="utf-8"))["tables"][table]


def features(written: Written) -> dict[str, str]:
    found = tomllib.loads(written.mapping.read_text(encoding="utf-8"))["features"]
    return {f["name"]: f.get("kind", "categorical") for f in found}


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch):
    """Drawing takes longer than such a small replay, and has tests of its own."""
    monkeypatch.setattr("ecdctr.replay.report.domain_section._plots", lambda *_: iter(()))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Folder and files of each log."""
    out = {}
    for name, write in LOGS.items():
        folder = tmp_path_factory.mktemp(name)
        out[name] = (folder, write(folder))
    return out


EXPECTED = {
    "spanish": {
        "ts": {"column": "fecha", "format": "%d/%m/%Y %H:%M:%S"}, "user_id": "id_usuario", "item_id": "id_producto", "label": "clic",
        "domain": {"column": "patrocinado", "ad": ["true"], "natural": ["false"]},
        "features": {"categoria": "categorical", "precio": "numeric"}, "leaks": {"tiempo_permanencia"},
    },
    "german": {
        "ts": {"column": "Zeitpunkt", "format": "%d.%m.%Y %H:%M"}, "user_id": "Nutzerkennung", "item_id": "Artikelnummer", "label": "Geklickt",
        "domain": {"column": "Bereich", "ad": ["Werbung"], "natural": ["Redaktionell"]}, "order": "any",
        "features": {"Kategorie": "categorical", "Alter": "numeric"}, "leaks": {"Gekauft"},
    },
    "pinyin": {
        "ts": {"column": "shijian", "unit": "s"}, "user_id": "yonghu_id", "item_id": "shangpin_id", "label": "dianji",
        "domain": {"column": "leixing", "ad": ["guanggao"], "natural": ["ziran"]},
        "features": {"jiage": "numeric", "biaoqian": "bag", "youhuiquan": "categorical"}, "leaks": set(),
    },
    "nested": {
        "ts": "meta.time", "user_id": "user.id", "item_id": "content.id", "label": 'event.action in ["click"]',
        "domain": {"column": "content.sponsored", "ad": [True], "natural": [False]}, "event_id": "meta.requestId",
        "features": {"user_profile_age": "numeric", "content_category": "categorical"}, "leaks": {"event.dwellTime"},
    },
    "uuids": {
        "ts": {"column": "event_time", "unit": "us"}, "user_id": "customer_uuid", "item_id": "product_id", "label": "was_clicked",
        "domain": {"column": "is_ad", "ad": [True], "natural": [False]}, "features": {"price": "numeric"}, "leaks": {"click_ts"},
    },
    "like_avazu": {
        "ts": {"column": "hour", "format": "%y%m%d%H"}, "user_id": "device_ip", "item_id": "C14", "label": "click", "domain": "ad", "event_id": "id",
        "features": {"site_id": "categorical", "banner_pos": "categorical", "C17": "categorical", "device_id": "categorical"}, "leaks": set(),
    },
    "like_criteo": {
        "ts": {"column": "timestamp", "unit": "s", "origin": "2026-01-01"}, "user_id": "uid", "item_id": "campaign", "label": "click", "domain": "ad",
        "features": {"cost": "numeric", "cat1": "categorical"}, "leaks": {"conversion", "conversion_timestamp", "click_pos"},
    },
    "actions": {
        "ts": "time", "user_id": "user", "item_id": "item", "impression_id": "impression_id",
        "event": {"column": "action", "impression": ["view"], "click": ["click"]}, "domain": {"column": "slot", "ad": ["sponsored"], "natural": ["organic"]},
        "features": {"price": "numeric"}, "leaks": set(), "tried": "368 impressions and clicks can be read, 0 are left out",
    },
    "clicks_apart": {
        "ts": {"column": "ts", "unit": "ms"}, "user_id": "uid", "item_id": "ad_id", "request_id": "request_id", "event": "impression", "domain": "ad",
        "features": {"price": "numeric"}, "leaks": set(), "tried": "368 impressions and clicks can be read, 0 are left out",
    },
    "sales": {
        "ts": {"column": "Datum", "clock": "Uhrzeit", "format": "%d.%m.%Y %H:%M:%S"}, "user_id": "Kunde", "item_id": "Artikel", "label": "Klick",
        "domain": {"column": "Anzeige", "ad": ["1"], "natural": ["0"]}, "features": {"Preis": "numeric"}, "leaks": set(),
    },
}  # fmt: skip
"""Columns that a person would name."""


@pytest.mark.parametrize("name", EXPECTED)
def test_columns_are_recognised(logs, tmp_path, name):
    written, text = first_look(tmp_path, logs[name][1])
    table, expected = columns(written), EXPECTED[name]
    for key in ("ts", "user_id", "item_id", "label", "event_id", "impression_id", "request_id"):
        if key in expected:
            assert table["columns"][key] == expected[key]
    assert table["domain"] == expected["domain"]
    assert table.get("event") == expected.get("event")
    assert table["order"] == expected.get("order", "sorted")
    found = features(written)
    assert expected["features"].items() <= found.items()
    assert {"user", "item", "hour"} <= set(found)
    assert {f.column for f in written.proposal.found.of("leak")} == expected["leaks"]
    assert (
        expected.get("tried", f"300 impressions with {CLICKS} clicks can be learned, 0 are left out") in text
    )


@pytest.mark.parametrize("name", sorted(set(LOGS) - {"unlabelled"}))
def test_what_is_written_is_replayed_without_an_edit_and_every_row_is_counted(logs, tmp_path, name):
    written, _ = first_look(tmp_path, logs[name][1])
    report = replayed(tmp_path, written)
    meta = report["meta"]
    expected = {"lists": 347, "counts": 300}.get(name, 300)
    assert (meta["rows"], meta["left_out"], meta["not_learned"]) == (expected, [], 0)
    assert not any("reveals" in check["name"] and check["ok"] is False for check in meta["checks"])


def test_a_log_without_a_label_is_a_sentence_and_exit_code_6(logs, tmp_path):
    with pytest.raises(
        RowsRejectedError,
        match=r"no column says which rows were clicked .*ts \(300 whole numbers\), user_id \(25",
    ) as error:
        first_look(tmp_path, logs["unlabelled"][1])
    assert error.value.exit_code == 6
    assert "--use label=COLUMN" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("ts", "no column is the time of the events"),
        ("user_id", "no column tells users apart"),
        ("item_id", "no column tells items apart"),
    ],
)
def test_what_else_a_log_needs_is_named(tmp_path, missing, message):
    names = {"ts": "at", "user_id": "user", "item_id": "item", "label": "clicked"}
    made = [
        {k: int(r[v].timestamp()) if k == "ts" else r[v] for k, v in names.items() if k != missing}
        for r in impressions()
    ]
    with pytest.raises(RowsRejectedError, match=message):
        first_look(tmp_path, [write_csv(tmp_path / "e.csv", made)])


def test_a_named_column_is_used_and_a_condition_is_a_label(tmp_path):
    made = [
        {"t": int(r["at"].timestamp()), "a": r["user"], "b": r["item"], "seconds": r["dwell"]}
        for r in impressions()
    ]
    path = write_csv(tmp_path / "e.csv", made)
    written, _ = first_look(tmp_path, [path], "label=seconds > 0", "user=a", "item=b")
    assert columns(written)["columns"] | {"ts": None} == {
        "ts": None,
        "user_id": "a",
        "item_id": "b",
        "label": "seconds > 0",
    }
    with pytest.raises(
        RowsRejectedError, match="has no column 'who', which you named as user; its columns are t"
    ):
        first_look(tmp_path / "again", [path], "user=who", "label=seconds > 0")
    with pytest.raises(ConfigError, match="ROLE=COLUMN"):
        parse_roles(["colour=blue"])


def test_files_are_not_overwritten_without_being_told_to(logs, tmp_path):
    written, _ = first_look(tmp_path, logs["spanish"][1])
    written.mapping.write_text("mine")
    with pytest.raises(ConfigError, match=r"ecdctr\.toml and .*log\.toml would be overwritten: .*--force"):
        first_look(tmp_path, logs["german"][1])
    assert written.mapping.read_text() == "mine"


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="this is a file"):
        init_files(Console(), [str(tmp_path)], tmp_path / "x", rows=100, roles={}, force=False)


def test_a_file_without_a_header_is_named(tmp_path):
    path = tmp_path / "criteo.tsv"
    path.write_text("".join(f"{i % 2}\t{i}\t{i * 3}\t68fd1e64\t80e26c9b\n" for i in range(50)))
    with pytest.raises(DataError, match="has no header: its first line is 0, 0, 0"):
        first_look(tmp_path, [path])


def test_names_do_not_matter_where_the_values_decide(tmp_path):
    """Columns named by letters: only the values tell time, label, user and item, and that e is known after a click."""
    made = [
        {"a": r["item"] * 13 + 400, "b": r["clicked"], "c": f"{r['user'] * 77:x}k", "d": int(r["at"].timestamp() * 1000), "e": r["dwell"], "f": r["category"], "g": r["price"]}
        for r in impressions()
    ]  # fmt: skip
    written, text = first_look(tmp_path, [write_json(tmp_path / "e.jsonl", made)])
    assert columns(written)["columns"] == {
        "ts": {"column": "d", "unit": "ms"},
        "user_id": "c",
        "item_id": "a",
        "label": "b",
    }
    assert [f.column for f in written.proposal.found.of("leak")] == ["e"]
    assert {
        f.what: f.confidence for f in written.proposal.found.all if f.what in ("user", "item", "label")
    } == {"user": "guess", "item": "guess", "label": "guess"}
    assert "is it the item or the ad that was shown?" in text


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path):
    made = [
        {
            "ts": int(r["at"].timestamp()),
            "user": r["user"],
            "item": r["item"],
            "click": r["clicked"],
            "x\x1b[2J": r["category"],
        }
        for r in impressions()
    ]
    _, text = first_look(tmp_path, [write_json(tmp_path / "e.jsonl", made)])
    assert "\x1b[2J" not in text
    assert "x?[2J" in text


def _csv_of(value):
    """Writes event rows as CSV with changed values."""
    return lambda folder: write_csv(
        folder / "e.csv", [{k: value(k, v) for k, v in row.items()} for row in event_rows(300)]
    )


def _json_of(value):
    return lambda folder: write_json(
        folder / "e.jsonl", [value(i, row) for i, row in enumerate(event_rows(300))]
    )


def _decimal_ids(folder):
    frame = pl.DataFrame(event_rows(300)).with_columns(pl.col("user_id").str.slice(1).cast(pl.Decimal(38, 0)))
    frame.write_parquet(folder / "e.parquet")
    return folder / "e.parquet"


def _types_that_change(folder):
    frame = pl.DataFrame(event_rows(300))
    (folder / "log").mkdir()
    frame.head(150).with_columns(segments=pl.lit(["a"])).write_parquet(folder / "log" / "h0.parquet")
    frame.tail(150).with_columns(segments=pl.lit("a,b")).write_parquet(folder / "log" / "h1.parquet")
    return folder / "log"


def _clock(ms, form):
    return datetime.fromtimestamp(ms / 1000, UTC).strftime(form)


ODD = {
    "seconds": (_csv_of(lambda k, v: v // 1000 if k == "ts" else v), 300),
    "half days": (_csv_of(lambda k, v: _clock(v, "%m/%d/%Y %I:%M:%S %p") if k == "ts" else v), 300),
    "dates alone": (_csv_of(lambda k, v: _clock(v, "%Y-%m-%d") if k == "ts" else v), 300),
    "words for true": (_csv_of(lambda k, v: bool(v) if k == "label" else v), 300),
    "words for null": (_csv_of(lambda k, v: "\\N" if k == "price" and v < 10 else v), 300),
    "lists in text": (_csv_of(lambda k, v: f"\"['{v[0]}', '{v[1]}']\"" if k == "tags" else v), 300),
    "decimal ids": (_decimal_ids, 300),
    "types that change": (_types_that_change, 300),
    "labels of two types": (
        _json_of(lambda i, row: row | {"label": bool(row["label"])} if i % 2 else row),
        300,
    ),
    "one id with a fraction": (
        _json_of(
            lambda i, row: row | {"user_id": 12.5 if i == 70 else 2**53 + 1 + 2 * int(row["user_id"][1:])}
        ),
        300,
    ),
    "one clock that is wrong": (
        _json_of(lambda i, row: row | {"ts": 4_070_908_800_000} if i == 60 else row),
        299,
    ),
    "one price in words": (_json_of(lambda i, row: row | {"price": "cheap"} if i == 60 else row), 299),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_read_or_counted(tmp_path, name):
    write, rows = ODD[name]
    written, text = first_look(tmp_path, [write(tmp_path)])
    names = {k: v for k, v in columns(written)["columns"].items() if k != "ts"}
    assert names == {"user_id": "user_id", "item_id": "item_id", "label": "label"} | (
        {"event_id": "event_id"} if "event_id" in names else {}
    )
    assert features(written) | {"segments": ""} == {
        "user": "categorical", "item": "categorical", "hour": "categorical", "category": "categorical", "price": "numeric", "tags": "bag", "segments": ""
    } or name == "dates alone"  # fmt: skip
    head = 150 if name == "types that change" else rows
    assert f"of the first rows, {head} impressions with" in text
    assert f", {300 - rows} are left out" in text


@pytest.mark.slow
@pytest.mark.skipif(
    "ECDCTR_DATA" not in os.environ, reason="ECDCTR_DATA is not set: the public data sets are not here"
)
def test_the_impression_lists_of_eb_nerd(tmp_path):
    folder = Path(os.environ["ECDCTR_DATA"]) / "ebnerd"
    written, text = first_look(tmp_path, [folder])
    table = columns(written)
    assert table["columns"] == {"ts": "impression_time", "user_id": "user_id", "list_id": "impression_id"}
    assert table["lists"] == {"items": "article_ids_inview", "clicked": "article_ids_clicked"}
    assert [Path(p).parent.name for p in table["path"]] == ["train", "validation"]
    leaks = {f.column for f in written.proposal.found.of("leak")}
    assert leaks == {"read_time", "scroll_percentage", "next_read_time", "next_scroll_percentage"}
    assert {"device_type", "age", "is_subscriber"} <= set(features(written))
    assert "premium_articles.parquet: no column is the time" in text
    log = SourceLog(
        MappedTables(written.mapping),
        EventDecoder(MappedTables(written.mapping).feature_specs(), list_field="list_id"),
    )
    rows = clicks = 0
    for batch in log.batches():
        rows, clicks = rows + len(batch), clicks + int(batch.label.sum())
    assert (rows, dict(log.rejects)) == (583_054, {})
    assert round(clicks / rows, 4) == 0.0862


class TestTopics:
    @pytest.fixture
    def topics(self, broker):
        return TopicSettings(natural=unique_name("feed-clicks"), ad=unique_name("ad-clicks"), partitions=2)

    def look(self, broker, names, folder):
        text = io.StringIO()
        connection = KafkaSettings(brokers=broker.address)
        config = init_topics(
            Console(file=text, width=200), connection, names, folder, messages=1000, roles={}, force=False
        )
        return config, text.getvalue()

    def send(self, broker, topics, rows):
        connection = KafkaSettings(brokers=broker.address)
        ensure_topics(connection, topics)
        produce([pl.DataFrame(rows)], connection, topics)

    def test_a_configuration_for_topics_is_replayed_without_an_edit(self, broker, topics, tmp_path):
        self.send(broker, topics, event_rows(300))
        config, text = self.look(broker, topics.domains, tmp_path)
        loaded = load_settings(
            config, (*FAST, f"state.folder={json.dumps(str(tmp_path / 'state'))}"), environ={}
        )
        assert (loaded.settings.topics.natural, loaded.settings.topics.ad) == (topics.natural, topics.ad)
        kinds = {f.name: f.kind for f in loaded.settings.features}
        assert kinds == {
            "user": "categorical",
            "item": "categorical",
            "hour": "categorical",
            "category": "categorical",
            "price": "numeric",
            "tags": "bag",
        }
        outcome = replay_source(
            Console(file=io.StringIO()),
            Console(file=io.StringIO()),
            loaded,
            "kafka",
            tmp_path / "first",
            ReplayOptions(quiet=True),
        )
        assert (outcome.meta["rows"], outcome.meta["left_out"]) == (300, [])
        assert "ecdctr replay kafka" in text
        with pytest.raises(StreamError, match='topic "nowhere" does not exist'):
            self.look(broker, ("nowhere",), tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="one or two topics"):
            self.look(broker, ("a", "a"), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: {"uid" if k == "user_id" else k: v for k, v in r.items()},
            "'uid' looks like its user and has to be called user_id",
        ),
        (lambda r: {"data": r}, "'data.ts' looks like its time and has to be called ts"),
        (lambda r: r | {"ts": r["ts"] // 1000}, "ts has to be milliseconds since 1970"),
        (lambda r: {k: v for k, v in r.items() if k != "event_id"}, "the field event_id is missing"),
        (lambda r: {k: v for k, v in r.items() if k != "label"}, "no column says which rows were clicked"),
    ],
)
def test_messages_that_a_worker_would_not_read_are_told(tmp_path, monkeypatch, change, message):
    rows = [change(row) for row in event_rows(200)]
    monkeypatch.setattr("ecdctr.commands.init_topics.topic_rows", lambda *_: TopicRows(rows, 200, 200))
    with pytest.raises(RowsRejectedError, match=re.escape(message)):
        init_topics(
            Console(file=io.StringIO()),
            KafkaSettings(),
            ("clicks",),
            tmp_path,
            messages=200,
            roles={},
            force=False,
        )
    assert not list(tmp_path.iterdir())
