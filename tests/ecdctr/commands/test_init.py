"""``ecdctr init`` on logs of other systems: what it writes is replayed without an edit, and every row is accounted for."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from ecdctr.commands.init import Written, init_files, parse_roles
from ecdctr.commands.replay import ReplayOptions, replay_source
from ecdctr.settings import load_settings
from tests.support.foreign_logs import LOGS, impressions

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
}  # fmt: skip
"""Columns that a person would name."""


@pytest.mark.parametrize("name", EXPECTED)
def test_columns_are_recognised(logs, tmp_path, name):
    written, text = first_look(tmp_path, logs[name][1])
    table, expected = columns(written), EXPECTED[name]
    for key in ("ts", "user_id", "item_id", "label", "event_id"):
        if key in expected:
            assert table["columns"][key] == expected[key]
    assert table["domain"] == expected["domain"]
    assert table["order"] == expected.get("order", "sorted")
    found = features(written)
    assert expected["features"].items() <= found.items()
    assert {"user", "item", "hour"} <= set(found)
    assert {f.column for f in written.proposal.found.of("leak")} == expected["leaks"]
    assert f"300 impressions with {CLICKS} clicks can be learned, 0 are left out" in text


@pytest.mark.parametrize("name", sorted(set(LOGS) - {"unlabelled"}))
def test_what_is_written_is_replayed_without_an_edit_and_every_row_is_counted(logs, tmp_path, name):
    written, _ = first_look(tmp_path, logs[name][1])
    meta = replayed(tmp_path, written)["meta"]
    expected = {"lists": 347, "counts": 300}.get(name, 300)
    assert (meta["rows"], meta["left_out"], meta["not_learned"]) == (expected, [], 0)
    assert not any("reveals" in check["name"] and check["ok"] is False for check in meta["checks"])
