"""The command line prints keys, values and errors as they are: nothing is truncated or parsed as markup."""

from __future__ import annotations

import importlib
import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ecdctr.cli.options import err, out
from ecdctr.progress import progress_bar
from ecdctr.settings import load_settings, settings_table
from ecdctr.state.errors import ConfigError

cli = importlib.import_module("ecdctr.cli.app")


def shown(*words: str, columns: int = 80) -> str:
    done = CliRunner().invoke(cli.app, ["config", "show", *words], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(autouse=True)
def without_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_every_key_is_printed_whole_with_its_value_and_origin(columns):
    lines = shown(columns=columns).splitlines()
    for key, value, origin, _ in settings_table(load_settings(environ={})):
        assert f"{key} = {value} ({origin})" in lines


def test_descriptions_fit_the_width():
    lines = [line for line in shown().splitlines() if line.startswith("    ")]
    assert lines
    assert max(map(len, lines)) <= 80


def test_every_key_has_a_description():
    assert [key for key, _, _, text in settings_table(load_settings(environ={})) if not text] == []


def test_only_changed_keys_are_printed_on_request():
    text = shown("--changed", "--set", "model.lr=0.25")
    assert "model.lr = 0.25 (--set)" in text
    assert "model.seed" not in text


def test_names_in_brackets_are_not_parsed_as_markup():
    text = shown("--set", 'features=[{name="[red]user",field="user_id"}]')
    assert "features[[red]user] = {'field': 'user_id'} (--set)" in text


def test_sections_of_a_list_have_the_description_of_the_list():
    texts = {key: text for key, _, _, text in settings_table(load_settings(environ={}))}
    assert texts["features[user]"] == texts["features[item]"] != ""
    assert texts["monitor.watch.rules[forgetting]"]


def test_an_error_is_printed_as_it_is(monkeypatch, capsys):
    def fail(**_: object) -> None:
        raise ConfigError("features[user]: [bold]not this[/bold]")

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run() == ConfigError.exit_code
    assert capsys.readouterr().err == "error: features[user]: [bold]not this[/bold]\n"


@pytest.mark.parametrize("console", [out, err])
def test_paths_with_brackets_are_printed_as_they_are(console):
    with console.capture() as text:
        console.print("report: runs[bold]/report.html")
    assert text.get() == "report: runs[bold]/report.html\n"


def test_the_name_of_a_source_in_a_progress_bar_is_not_parsed_as_markup():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress_bar(terminal, "replay runs[bold]/log", None) as update:
        update(1, 0)
    assert "replay runs[bold]/log" in terminal.file.getvalue()


def test_case_s18_names_with_closing_brackets_are_printed_as_they_are(capsys, tmp_path, monkeypatch):
    """``[/x]`` closes a style that was never opened, where markup is parsed."""
    text = shown("--set", 'features=[{name="[/x]",field="user_id"}]')
    assert "features[[/x]]" in text
    for words in (
        ["config", "show", "--config", "a[/x].toml"],
        ["replay", "b[/x].jsonl"],
        ["drift", "c[/x].jsonl", "--reference", "d[/x].jsonl"],
    ):
        monkeypatch.setattr("sys.argv", ["ecdctr", *words])
        assert cli.run() != 0
        assert "[/x]" in capsys.readouterr().err
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress_bar(terminal, "replay [/x]", None) as update:
        update(1, 0)
    assert "replay [/x]" in terminal.file.getvalue()
