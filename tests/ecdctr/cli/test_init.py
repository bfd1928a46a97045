"""The options of ``ecdctr init``, and its exit codes."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.state.errors import ConfigError
from tests.support.foreign_logs import spanish


def run(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def test_a_log_gives_two_files_in_the_folder(tmp_path):
    (log,) = spanish(tmp_path)
    found = run(log, "--out", tmp_path / "here", "--rows", 100)
    assert found.exit_code == 0
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["ecdctr.toml", "log.toml"]
    assert "100 of about" in found.output
    assert isinstance(run(log, "--out", tmp_path / "here").exception, ConfigError)
    assert run(log, "--out", tmp_path / "here", "--force").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--brokers", "127.0.0.1:1"),
        ("--topic", "a"),
        ("a.csv", "--brokers", "127.0.0.1:1", "--topic", "a"),
    ],
)
def test_files_or_topics_are_needed(arguments):
    found = run(*arguments).exception
    assert isinstance(found, ConfigError)
    assert "init needs files or folders, or --brokers with --topic" in str(found)
