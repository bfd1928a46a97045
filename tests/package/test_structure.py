"""The layout of the code: packages, sub-packages, links, import contracts, and the map of the code in README.md."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ecdctr", "streams", "monitor", "replay", "models", "events", "state")
"""Top-level folders, in the order in which they may import each other."""

MOST_MODULES = 18
"""Modules of a package, without ``__init__`` and without those of its sub-packages."""

MOST_LINES = 500

BY_MODULE = {"ecdctr/commands", "ecdctr/studies"}
"""Sub-packages whose modules are imported one by one, when their command runs."""


def folders() -> list[str]:
    """Every package and sub-package as a path from the root; the links in ``ecdctr/`` are not followed."""
    found = []
    for package in PACKAGES:
        inside = [p for p in (ROOT / package).rglob("__init__.py") if not _behind_link(p)]
        found += sorted(p.parent.relative_to(ROOT).as_posix() for p in inside)
    return found


def _behind_link(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(ROOT))


FOLDERS = folders()
WITH_INTERFACE = [name for name in FOLDERS if "/" in name and name not in BY_MODULE]


def parsed(folder: str) -> ast.Module:
    return ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))


def exported(folder: str) -> list[str] | None:
    for statement in parsed(folder).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return None


def test_packages_of_the_checkout_are_the_ones_listed_here():
    top = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert top == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_package_has_a_relative_link_in_ecdctr(package):
    link = ROOT / "ecdctr" / package
    assert link.is_symlink(), f"ln -s ../{package} ecdctr/{package}"
    assert link.readlink() == Path("..") / package
    assert link.resolve() == ROOT / package


def test_ecdctr_holds_no_other_links():
    links = {p.name for p in (ROOT / "ecdctr").iterdir() if p.is_symlink()}
    assert links == set(PACKAGES[1:])


def test_image_is_built_from_every_package():
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert sorted(copied) == sorted(PACKAGES)


@pytest.mark.parametrize("folder", FOLDERS)
def test_package_has_a_docstring_and_few_modules(folder):
    assert ast.get_docstring(parsed(folder)), f"{folder}/__init__.py has no docstring"
    modules = [p for p in (ROOT / folder).glob("*.py") if p.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES, f"{folder} has {len(modules)} modules: form a sub-package"


def test_no_other_module_is_long():
    modules = [p for folder in FOLDERS for p in (ROOT / folder).glob("*.py")]
    lines = {p.relative_to(ROOT).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in modules}
    long = {name: n for name, n in lines.items() if n > MOST_LINES}
    assert not long, f"more than {MOST_LINES} lines: {long}"


@pytest.mark.parametrize("folder", WITH_INTERFACE)
def test_sub_package_lists_its_public_names(folder):
    names = exported(folder)
    assert names, f"{folder}/__init__.py has no __all__"
    assert len(names) == len(set(names)), f"{folder}/__init__.py: __all__ has a name twice"


@pytest.mark.parametrize("folder", WITH_INTERFACE)
def test_sub_package_has_an_import_contract(folder):
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter", encoding="utf-8")
    dotted = "ecdctr." + folder.removeprefix("ecdctr/").replace("/", ".")
    contract = f"importlinter:contract:{dotted.removeprefix('ecdctr.')}"
    assert contract in rules, f".importlinter has no contract for {dotted}"
    assert rules[contract]["type"] == "protected"
    assert rules[contract]["protected_modules"].split() == [f"{dotted}.*"]
    assert rules[contract]["allowed_importers"].split() == [dotted]


def test_import_contracts_name_existing_sub_packages():
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter", encoding="utf-8")
    names = {s.removeprefix("importlinter:contract:") for s in rules.sections() if ":contract:" in s}
    expected = {name.removeprefix("ecdctr/").replace("/", ".") for name in WITH_INTERFACE}
    assert names - {"layers", "cycles"} == expected


def mapped() -> dict[str, str]:
    """Folder and purpose of each line of the map of the code in README.md."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Map of the code", 1)[1]
    block = re.search(r"```\n(.*?)```", section, re.S)
    assert block, "README.md: the map of the code is a code block"
    found: dict[str, str] = {}
    path: list[str] = []
    for line in block[1].splitlines():
        match = re.fullmatch(r"(\s*)([a-z_]+)/\s+(\S.*)", line)
        assert match, f"README.md: {line!r} is not of the form 'folder/  purpose'"
        indent, name, purpose = match.groups()
        path = [*path[: len(indent) // 2], name]
        found["/".join(path)] = purpose
    return found


def test_map_of_the_code_in_the_readme_lists_every_folder():
    lines = mapped()
    missing = [name for name in FOLDERS if name not in lines]
    assert not missing, f"README.md, map of the code: no line for {', '.join(missing)}"


def test_every_folder_in_the_map_of_the_code_exists():
    gone = [name for name in mapped() if name not in FOLDERS]
    assert not gone, f"README.md, map of the code: there is no folder {', '.join(gone)}"


def test_map_of_the_code_is_in_the_order_of_imports():
    assert [name for name in mapped() if "/" not in name] == list(PACKAGES)
