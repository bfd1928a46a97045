"""Scripts that no other test runs import only names that exist: benchmarks, the pictures of the docs, helpers of tests."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for folder in ("benchmarks", "docs", "tests") for path in (ROOT / folder).rglob("*.py"))


def imported_names(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of each ``from ecdctr... import name``, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ecdctr":
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)


def exists(module: str, name: str) -> bool:
    """Whether ``from module import name`` works."""
    try:
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imported_names_exist(path):
    missing = [
        f"line {line}: {module}.{name}"
        for line, module, name in imported_names(path)
        if not exists(module, name)
    ]
    assert not missing, f"{path.relative_to(ROOT)} imports what does not exist: {', '.join(missing)}"


def test_a_missing_name_would_be_found():
    assert exists("ecdctr.events.settings", "FeatureSpec")
    assert exists("ecdctr", "factory")
    assert not exists("ecdctr.models.settings", "FeatureSpec")
    assert not exists("ecdctr.no_such_module", "name")
