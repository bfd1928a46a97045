"""What the documents name exists: tests, files, commands, configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from ecdctr.cli import app
from ecdctr.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = "ecdctr|streams|monitor|replay|models|events|state|tests|benchmarks|docs|deploy"
ids = [p.name for p in DOCUMENTS]


@pytest.fixture(scope="module")
def defined() -> str:
    return "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_test_that_is_named_exists(document, defined):
    for name in re.findall(r"\b(test_\w+)\b(?!\.py)", document.read_text(encoding="utf-8")):
        assert re.search(rf"def {name}\b", defined) or list((ROOT / "tests").rglob(f"{name}.py")), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_file_that_is_named_exists(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]+\.(?:py|md|toml|yml|json)|tests/[\w/]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(((?!http)[\w./-]+)\)", text):
        assert (document.parent / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_a_test_that_is_named_with_its_file_is_in_that_file(document):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text(encoding="utf-8")):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_command_that_is_named_exists(document):
    known = get_command(app).commands
    for line in re.findall(r"(?:^|`)ecdctr ([a-z]+(?: [a-z]+)?)", document.read_text(encoding="utf-8"), re.M):
        first, _, second = line.partition(" ")
        assert first in known, line
        below = getattr(known[first], "commands", None)
        if below is not None and second:
            assert second in below, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_configuration_in_documents_is_valid(document, tmp_path):
    for i, block in enumerate(
        re.findall(r"```toml\n# ecdctr\.toml\n(.*?)```", document.read_text(encoding="utf-8"), re.S)
    ):
        path = tmp_path / f"{i}.toml"
        path.write_text(block, encoding="utf-8")
        # A block without a secret of its own takes it from the environment.
        own = re.search(r"^(password_file|token_provider|oauth_token_url)\b", block, re.M)
        load_settings(path, environ={} if own else {"ECDCTR_KAFKA__PASSWORD": "from-the-environment"})
