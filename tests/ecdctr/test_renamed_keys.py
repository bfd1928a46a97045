"""Old names of configuration keys: they work for one version, the notice names the new one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ecdctr import renamed_keys
from ecdctr.renamed_keys import RenamedKeys
from ecdctr.settings import RENAMED, Settings, change, dump_toml, load_settings, settings_table
from ecdctr.state.errors import ConfigError

OLD, NEW = "monitor.watch.drift.cells", "monitor.watch.drift.bins"
VARIABLE = "ECDCTR_MONITOR__WATCH__DRIFT__CELLS"
NOTICE = f"{OLD} is now called {NEW}"


@pytest.fixture(autouse=True)
def nothing_noticed(monkeypatch):
    monkeypatch.setattr(renamed_keys, "_noticed", set())


@pytest.fixture
def old_file(tmp_path) -> Path:
    path = tmp_path / "ecdctr.toml"
    path.write_text("[monitor.watch.drift]\ncells = 32\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("source", ["file", "variable", "json variable", "--set"])
def test_an_old_key_sets_the_new_one_and_the_notice_names_both_and_the_source(old_file, caplog, source):
    path, overrides, environ, named = {
        "file": (old_file, [], {}, str(old_file)),
        "variable": (None, [], {VARIABLE: "32"}, VARIABLE),
        "json variable": (None, [], {"ECDCTR_MONITOR__WATCH": '{"drift": {"cells": 32}}'}, "environment"),
        "--set": (None, [f"{OLD}=32"], {}, "--set"),
    }[source]
    loaded = load_settings(path, overrides, environ=environ)
    assert loaded.settings.monitor.watch.drift.bins == 32
    assert loaded.origin[NEW] == ("environment" if environ else named)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert NOTICE in record.getMessage() and named in record.getMessage()


def test_the_notice_is_logged_once_a_key(caplog):
    for _ in range(3):
        load_settings(None, [f"{OLD}=32"], environ={})
    assert sum(NOTICE in r.getMessage() for r in caplog.records) == 1


def test_no_notice_without_an_old_key(caplog):
    load_settings(None, [f"{NEW}=32"], environ={})
    assert not caplog.records


@pytest.mark.parametrize(
    ("overrides", "environ"),
    [
        ([f"{OLD}=32", f"{NEW}=64"], {}),
        ([f"{NEW}=64"], {VARIABLE: "32"}),
        ([f"{OLD}=32"], {VARIABLE.replace("CELLS", "BINS"): "64"}),
        ([], {VARIABLE: "32", VARIABLE.replace("CELLS", "BINS"): "64"}),
    ],
)
def test_both_names_together_are_an_error_that_names_both(overrides, environ):
    with pytest.raises(
        ConfigError, match=rf"{OLD} \(.*\) is the old name of {NEW} \(.*\), and both are given"
    ):
        load_settings(None, overrides, environ=environ)


def test_a_file_with_the_old_key_and_an_override_of_the_new_one_is_an_error(old_file):
    with pytest.raises(ConfigError, match=f"{old_file}.*--set"):
        load_settings(old_file, [f"{NEW}=64"], environ={})


def test_a_bad_value_of_an_old_key_is_named_with_its_source(old_file):
    old_file.write_text("[monitor.watch.drift]\ncells = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{NEW} = 3 \(from {old_file}\)"):
        load_settings(old_file, environ={})


def test_later_changes_may_use_the_old_key():
    loaded = change(load_settings(None, [f"{NEW}=64"], environ={}), [f"{OLD}=32"], "--arm a")
    assert loaded.settings.monitor.watch.drift.bins == 32 and loaded.origin[NEW] == "--arm a"


def test_what_is_shown_has_new_names_only(old_file):
    loaded = load_settings(old_file, environ={})
    keys = {key for key, *_ in settings_table(loaded)}
    assert NEW in keys and OLD not in keys
    assert "bins = 32" in dump_toml(loaded.settings) and "cells" not in dump_toml(loaded.settings)


def test_every_new_key_exists_and_no_old_one_does():
    def known(key: str) -> bool:
        node: object = Settings()
        for name in key.split("."):
            if name not in getattr(type(node), "model_fields", {}):
                return False
            node = getattr(node, name)
        return True

    assert all(known(new) for new in RENAMED.values())
    assert not any(known(old) for old in RENAMED)


def test_a_section_moves_as_a_whole_and_leaves_no_empty_table():
    renamed = {"worker.intake": "streams.align"}
    assert RenamedKeys(renamed).in_layer({"worker": {"intake": {"rows": 1}}}, "f") == {
        "streams": {"align": {"rows": 1}}
    }
    assert RenamedKeys(renamed).in_layer({"worker": {"intake": {"a": 1}, "b": 2}}, "f") == {
        "worker": {"b": 2},
        "streams": {"align": {"a": 1}},
    }
    assert RenamedKeys(renamed).in_variables({"X_WORKER__INTAKE__ROWS": "1", "PATH": "p"}, "X_") == {
        "X_STREAMS__ALIGN__ROWS": "1",
        "PATH": "p",
    }


# -- removed keys

GONE, GONE_VARIABLE = "worker.session_timeout_s", "ECDCTR_WORKER__SESSION_TIMEOUT_S"


@pytest.mark.parametrize("value", ["7200", "0.001", "-1", '"long"'])
@pytest.mark.parametrize("source", ["file", "variable", "json variable", "--set"])
def test_case_a23_a_removed_key_is_accepted_with_any_value_and_a_notice(tmp_path, caplog, source, value):
    path = tmp_path / "ecdctr.toml"
    path.write_text(f"[worker]\nsession_timeout_s = {value}\n", encoding="utf-8")
    path, overrides, environ = {
        "file": (path, [], {}),
        "variable": (None, [], {GONE_VARIABLE: value}),
        "json variable": (None, [], {"ECDCTR_WORKER": f'{{"session_timeout_s": {value}}}'}),
        "--set": (None, [f"{GONE}={value}"], {}),
    }[source]
    loaded = load_settings(path, overrides, environ=environ)
    assert loaded.settings.worker == Settings().worker
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{GONE} has no effect any more" in record.getMessage()
